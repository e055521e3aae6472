"""Runs side by side: the settings in which they differ, their results, and whose losses can be compared."""

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import PurePath
from string import ascii_uppercase
from typing import Any, NamedTuple

from vae_fast.analysis.recorded_runs import PARTS, RecordedRun
from vae_fast.config import NOT_RECORDED
from vae_fast.errors import ConfigError
from vae_fast.models.likelihood import bits_per_value

# Columns whose values belong together only within a group of comparable runs, which are sorted group by group.
LOSSES = (
    *(f"{part}_{term}" for part in ("train", *PARTS) for term in ("loss", "nll", "kl")),
    *("held_out_loss", "nll", "kl", "bits_per_value", "best_loss", "iw_nll"),
)
FASTEST_FIRST = "images_per_second"  # every other column is sorted from the lowest value
# Settings that are shown without their folders: where files are on this machine is private.
PATHS = ("data", "data_root", "labels", "network", "objective", "init_from")
MOST_LISTED = 4  # values in a note
Row = dict[str, Any]


@dataclass(eq=False)
class Group:
    """Runs whose losses can be compared.

    Attributes:
        name: "A", "B", ...
        data: the name of their data.
        traits: what they have in common, by name: data, binarization, likelihood, image shape, conditional.
        part: the part whose losses are compared: "valid" if all of them have that, else "test"; None without either.
        runs: the runs themselves.
    """

    name: str
    data: str
    traits: Mapping[str, str]
    part: str | None = None
    runs: list[RecordedRun] = field(default_factory=list)


@dataclass(eq=False)
class Comparison:
    """Runs side by side.

    Attributes:
        settings: the names of the settings in which they differ, as in config.toml.
        columns: the names of the values that any of the runs has, in order.
        rows: these values of each run, sorted; None for those that it does not have.
        runs: the runs in the order of the rows.
        groups: whose losses can be compared, the largest group first.
        notes: lines about what cannot be compared.
    """

    settings: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Row]
    runs: Sequence[RecordedRun]
    groups: Sequence[Group]
    notes: Sequence[str]


def compared(runs: Sequence[RecordedRun], sort: str | None = None) -> Comparison:
    """Compare one or more runs.

    sort: the column to sort by; None for the held-out loss after the last epoch, or the training loss without any.

    Raises ConfigError if no run has that column.
    """
    names = shortest_names([run.path for run in runs])
    settings = [_settings(run) for run in runs]
    places = {key: shortest_names([each[key] for each in settings if each.get(key)]) for key in PATHS}
    for each in settings:
        each |= {key: places[key][each[key]] for key in PATHS if each.get(key)}
    keys = list(dict.fromkeys(key for each in settings for key in each))
    differing = [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]
    groups = _groups(runs, [each["data"] for each in settings])
    group_of = {id(run): group for group in groups for run in group.runs}
    rows = []
    for run, each in zip(runs, settings, strict=True):
        group = group_of[id(run)]
        chosen = {key: each.get(key) for key in differing}
        of = {"group": group.name} if len(groups) > 1 else {}
        rows.append({"run": names[run.path], **of, **chosen, **_results(run, group.part)})
    columns = [key for key in rows[0] if key in differing or any(row[key] is not None for row in rows)]
    if sort is None:
        sort = "held_out_loss" if "held_out_loss" in columns else "train_loss"
    elif sort not in columns:
        raise ConfigError(f"--sort: expected one of {', '.join(columns)}, got {sort!r}")
    order = sorted(range(len(runs)), key=lambda i: _place(rows[i], sort, len(groups) > 1))
    return Comparison(
        differing,
        columns,
        [{key: rows[i][key] for key in columns} for i in order],
        [runs[i] for i in order],
        groups,
        list(_notes(groups, runs)),
    )


def shortest_names(paths: Iterable[str | PurePath]) -> dict[Any, str]:
    """Return the last parts of each path, as many as it takes to tell it from the others."""
    unique = list(dict.fromkeys(paths))
    parts = {path: PurePath(os.path.abspath(path)).parts for path in unique}
    names = {path: parts[path][-1] for path in unique}
    for length in range(2, 1 + max((len(each) for each in parts.values()), default=0)):
        counts = Counter(names.values())
        names = {
            path: name if counts[name] == 1 else str(PurePath(*parts[path][-length:])) for path, name in names.items()
        }
    return names


def shown(value: Any) -> str:
    """Return the value of a setting as text, written as for a flag; "-" stands for nothing: None, or no text."""
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value)) or "none"
    return "-" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


def _settings(run: RecordedRun) -> Row:
    """Return the settings that define the run, and its plan, by their keys in config.toml: `network.width`."""
    settings = {key: value for key, value in asdict(run.config).items() if key not in NOT_RECORDED}
    del settings["network_options"], settings["epochs"]  # the results have `epochs`
    if run.config.network != "mlp":
        del settings["hidden"], settings["activation"]
    options = {f"network.{key}": value for key, value in run.config.options.items()}
    return {**settings, **options, **{f"plan.{key}": value for key, value in run.plan.items()}}


def _results(run: RecordedRun, part: str | None) -> Row:
    """Return the results of a run. part: whose losses are compared."""
    found: Row = {"epochs_done": run.records[-1]["epoch"], "epochs": run.config.epochs}
    for name in ("train", *PARTS):  # of the last epoch that has them: not each is evaluated
        has = [record for record in run.records if record.get(f"{name}_loss") is not None]
        found |= {f"{name}_{term}": (has or run.records)[-1].get(f"{name}_{term}") for term in ("loss", "nll", "kl")}
    loss, nll, kl = (found.get(f"{part}_{term}") for term in ("loss", "nll", "kl"))
    found |= {"held_out": part, "held_out_loss": loss, "nll": nll, "kl": kl, "bits_per_value": None}
    if loss is not None and run.shape:
        found["bits_per_value"] = bits_per_value(loss, run.config.likelihood, run.config.binarize, prod(run.shape))
    judged = [record for record in run.records if record.get(f"{part}_loss") is not None]
    best = min(judged, key=lambda record: float(record[f"{part}_loss"]), default={})
    found |= {"best_loss": best.get(f"{part}_loss"), "best_epoch": best.get("epoch")}
    estimate = dict.fromkeys(("nll", "standard_error", "samples", "part", "images", "step"))
    estimate = estimate if run.estimate is None else run.estimate._asdict()
    found |= {f"iw_{key}": value for key, value in estimate.items()}
    speeds, seconds = run.values("images_per_second"), run.values("seconds")
    found["images_per_second"] = statistics.median(speeds) if speeds else None
    return {**found, "seconds": sum(seconds) if seconds else None}


def _place(row: Row, sort: str, is_grouped: bool) -> tuple[Any, ...]:
    """Return the key by which rows are sorted: values that are missing come last, texts after numbers."""
    value = row[sort]
    group = row["group"] if is_grouped and sort in LOSSES else ""
    if isinstance(value, int | float):
        return len(group), group, 0, -value if sort == FASTEST_FIRST else value, "", row["run"]
    if isinstance(value, list | tuple) and all(isinstance(member, int | float) for member in value):
        return len(group), group, 1, tuple(value), "", row["run"]
    return len(group), group, 3 if value is None else 2, 0, shown(value), row["run"]


def _groups(runs: Sequence[RecordedRun], data: Sequence[str]) -> list[Group]:
    """Divide runs into groups of comparable losses, the largest first. data: the name of each run's data."""
    found: dict[tuple[str, ...], Group] = {}
    for run, name in zip(runs, data, strict=True):
        images, treatment = _images(run, name), _treatment(run)
        key = (images.identity, *treatment.values())
        found.setdefault(key, Group("", name, {"data": images.title, **treatment})).runs.append(run)
    ordered = sorted(found.values(), key=lambda group: -len(group.runs))
    for i, group in enumerate(ordered):
        group.name, group.part = _letters(i), _part(group.runs)
    return ordered


class _Images(NamedTuple):
    identity: str
    title: str


def _images(run: RecordedRun, name: str) -> _Images:
    """Return by what a run's images are known, wherever they were stored, and a title with their name."""
    digest = run.images.get("sha256")
    held = {part: count for part, count in run.counts.items() if part != "train"}
    if "test" in held:  # then it is all the same how many of the other images --valid holds out
        held.pop("valid", None)
    counted = "".join(f", {count:,} {part} images" for part, count in held.items())
    if not isinstance(digest, str):
        return _Images(f"{run.config.data}{counted}", f"{name}{counted}")
    return _Images(f"{digest}{counted}", f"{name} {digest[:8]}{counted}")


def _treatment(run: RecordedRun) -> dict[str, str]:
    """Return what besides the images has to be equal for losses to be comparable."""
    return {
        "binarization": run.config.treatment,
        "likelihood": run.config.likelihood,
        "image shape": " x ".join(map(str, run.shape)) or "unknown",
        "conditional": "true" if run.config.conditional else "false",
    }


def _part(runs: Sequence[RecordedRun]) -> str | None:
    """Return "valid" if all of the runs hold out equally many images for it, else "test", else None."""
    has = {part: all(run.values(f"{part}_loss") for run in runs) for part in PARTS}
    if has["valid"] and len({run.config.valid for run in runs}) == 1:
        return "valid"
    return "test" if any(run.values("test_loss") for run in runs) else "valid" if has["valid"] else None


def _letters(number: int) -> str:
    """Return A, B, ..., Z, AA, AB, ... for 0, 1, ..."""
    rest, last = divmod(number, len(ascii_uppercase))
    return (_letters(rest - 1) if rest else "") + ascii_uppercase[last]


def _notes(groups: Sequence[Group], runs: Sequence[RecordedRun]) -> Iterator[str]:
    if len(groups) > 1:
        differing = [key for key in groups[0].traits if len({group.traits[key] for group in groups}) > 1]
        reasons = (f"{key} ({_listed({g.name: g.traits[key] for g in groups})})" for key in differing)
        yield f"losses of different groups cannot be compared: they differ in {'; '.join(reasons)}"
    if any(group.part == "valid" for group in groups):
        parts = {group.name: f"{group.part or 'no'} images" for group in groups}
        of = _listed(parts) if len(set(parts.values())) > 1 else parts[groups[0].name]
        yield f"nll, kl, bits_per_value and best_loss are those of {of}"
    objectives = ("objective", "samples", "beta", "beta_schedule", "free_bits")
    differing = [key for key in objectives if len({getattr(run.config, key) for run in runs}) > 1]
    if differing:
        yield (
            f"training losses are of different objectives ({', '.join(differing)}); losses of held-out images are the "
            f"ELBO's in every run"
        )


def _listed(values: Mapping[str, str]) -> str:
    """Return values by name as text, each value once: "A C: bernoulli; B: gaussian"."""
    by: dict[str, list[str]] = {}
    for name, value in values.items():
        by.setdefault(value, []).append(name)
    return "; ".join(_some([f"{' '.join(_some(names))}: {value}" for value, names in by.items()]))


def _some(values: Sequence[str]) -> list[str]:
    more = len(values) - MOST_LISTED
    return [*values[:MOST_LISTED], *([f"and {more} more"] if more > 0 else [])]
