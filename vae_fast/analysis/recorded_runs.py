"""What run directories say of their runs: settings, images, records and evaluations, read without opening a model."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vae_fast.artifacts import atomic, strict_json
from vae_fast.artifacts.directory import RunDirectory
from vae_fast.config import Config, read_toml
from vae_fast.errors import RunError, UserError

Say = Callable[[str], None]
PARTS = ("valid", "test")  # held out from training
RUN_FILES = ("config.toml", "metrics.jsonl", "checkpoints")


class Estimate(NamedTuple):
    """An importance-weighted estimate of -log p(x), in nats per image, that `evaluate` left in a run.

    part: the held-out part of the run's images that it is of. images: the number of them. step: the checkpoint's, None
    if it is unknown.
    """

    nll: float
    standard_error: float | None
    samples: int
    part: str
    images: int
    step: int | None


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A run, as its directory describes it.

    Attributes:
        path: the run directory.
        config: the run's settings.
        plan, images: these tables of its config.toml, empty if it has none.
        records: those of metrics.jsonl, at least one.
        estimate: the best estimate of -log p(x) among its evaluations, if there is one.
    """

    path: Path
    config: Config
    plan: dict[str, Any]
    images: dict[str, Any]
    records: Sequence[dict[str, Any]]
    estimate: Estimate | None = None

    @classmethod
    def open(cls, path: Path, say: Say) -> "RecordedRun":
        """Read a run directory.

        say: receives a line for each file, or lines of a file, that are damaged and left out.

        Raises RunError or ConfigError, naming the folder or its file, if it is no run, has no records yet, or its
        config.toml cannot be read.
        """
        _require_run(path)
        config = Config(**read_toml(path / "config.toml"))
        directory = RunDirectory.of(path)
        records, damaged = directory.metrics_and_damage()
        if damaged:
            lines = "1 line is no record and is" if damaged == 1 else f"{damaged} lines are no records and are"
            say(f"{directory.metrics_file}: {lines} left out")
        if not records:
            raise RunError(f"{path}: expected a run with records, got none: its first epoch is not finished")
        plan, images = (_table(directory.recorded, name) for name in ("plan", "images"))
        run = cls(path, config, plan, images, strict_json.finite(records))
        estimates = [found for file in sorted(path.glob("evaluations/*.json")) for found in run._estimates(file, say)]
        best = max(estimates, key=run._preference, default=None)
        return cls(path, config, plan, images, run.records, best)

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of images of each part, train, valid and test; empty if that was not recorded."""
        found = self.images.get("count")
        if not isinstance(found, list) or not all(isinstance(count, int) for count in found):
            return {}
        parts = ["train", *(["valid"] if self.config.valid else []), "test"]
        return dict(zip(parts, found, strict=False))

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of an image, (C, H, W); empty if it was not recorded."""
        found = self.images.get("shape")
        is_shape = isinstance(found, list) and all(isinstance(size, int) for size in found)
        return tuple(found) if found and is_shape else ()

    def values(self, key: str) -> list[float]:
        """Return what the records say of a key, without those that say nothing."""
        return [record[key] for record in self.records if record.get(key) is not None]

    def _estimates(self, file: Path, say: Say) -> Iterator[Estimate]:
        """Yield the estimate in a file of `evaluate`, if it is one of held-out images of the run, treated as there."""
        try:
            result = strict_json.finite(json.loads(atomic.read(file)))
            weighted = result.get("importance_weighted")
            if weighted is None:
                return
            of = re.findall(r", ([\d,]+) (test|valid) images, ", result["images"])
            is_own = " (SHA-256 " not in result["images"] and result["binarize"] == self._shown_treatment
            if of and is_own and weighted["nll"] is not None:
                step = re.search(r"step-(\d+)$", result["model"])
                count, part = int(of[-1][0].replace(",", "")), of[-1][1]
                error = weighted["standard_error"]
                yield Estimate(
                    float(weighted["nll"]),
                    None if error is None else float(error),
                    int(weighted["samples"]),
                    part,
                    count,
                    int(step[1]) if step else None,
                )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            say(f"{file}: it is no result of evaluate and is left out")

    @property
    def _shown_treatment(self) -> str:
        return "static" if self.config.treatment == "dynamic" else self.config.treatment

    def _preference(self, found: Estimate) -> tuple[bool, bool, int, int]:
        return self.is_whole(found), found.part == "test", -1 if found.step is None else found.step, found.samples

    def is_whole(self, found: Estimate) -> bool:
        """Return whether an estimate is of all images of its part."""
        return found.images == self.counts.get(found.part, found.images)


def opened(folders: Sequence[Path], say: Say) -> tuple[list[RecordedRun], list[str]]:
    """Read the runs that folders are, or contain: each folder is a run directory, or one of run directories.

    Returns:
        the runs, in order and each once, and a line for each folder that is no such thing, or holds a run that cannot
        be read.
    """
    runs, faults = [], []
    seen: set[Path] = set()
    for folder in folders:
        try:
            paths = [path for path in _runs_in(folder) if path.resolve() not in seen]
        except (UserError, OSError) as error:
            faults.append(_line(error))
            continue
        for path in paths:
            seen.add(path.resolve())
            try:
                runs.append(RecordedRun.open(path, say))
            except (UserError, OSError) as error:
                faults.append(_line(error))
    return runs, faults


def _runs_in(folder: Path) -> list[Path]:
    """Return the folder itself if it looks like a run, else the folders in it that do, by name."""
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is no such directory"
        raise RunError(f"{folder}: expected a run directory, or a folder of them: {what}")
    if _is_like_a_run(folder):
        return [folder]
    found = [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_like_a_run(path)]
    if not found:
        raise RunError(f"{folder}: expected a run directory, or a folder of them: it holds no config.toml, nor a run")
    return found


def _is_like_a_run(path: Path) -> bool:
    return any((path / name).exists() for name in RUN_FILES)


def _require_run(path: Path) -> None:
    if not (path / "config.toml").is_file():
        raise RunError(f"{path}: expected a run directory: its config.toml is missing, which says what the run is")


def _table(recorded: dict[str, Any], name: str) -> dict[str, Any]:
    found = recorded.get(name)
    return found if isinstance(found, dict) else {}


def _line(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
