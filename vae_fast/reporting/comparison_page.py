"""Runs side by side as a page: the table, and the loss curves of comparable runs laid over each other."""

from collections.abc import Sequence
from html import escape
from itertools import accumulate

from vae_fast.analysis.comparison import Comparison, Group
from vae_fast.analysis.recorded_runs import RecordedRun
from vae_fast.reporting import charts, comparison_table, webpage

COLOURED = 10  # runs of a chart that have a colour, as in page.css; the others are grey
MOST_NAMED = 3  # data sets in the title


def page(comparison: Comparison) -> str:
    """Return the page as a string of HTML."""
    table = webpage.table("runs", comparison_table.titles(comparison), comparison_table.cells(comparison), numbers=True)
    notes = [webpage.note(note) for note in comparison.notes]
    losses = [drawn for group in comparison.groups if (drawn := _losses(comparison, group))]
    lead = "Losses in nats per image, after the last epoch of each run unless they are the best"
    return webpage.page(
        _title(comparison), lead, [webpage.section("Runs", table, *notes), *losses], webpage.script("compare.js")
    )


def _title(comparison: Comparison) -> str:
    runs = f"{len(comparison.rows)} runs" if len(comparison.rows) > 1 else comparison.rows[0]["run"]
    data = list(dict.fromkeys(group.data for group in comparison.groups))
    return f"{runs}: {', '.join(data[:MOST_NAMED])}{' and others' if len(data) > MOST_NAMED else ''}"


def _losses(comparison: Comparison, group: Group) -> str:
    """Return the section with the curves of a group's runs, empty if none of their losses is finite."""
    members = [(i, run) for i, run in enumerate(comparison.runs) if run in group.runs]
    if not any(run.values(f"{part}_loss") for _, run in members for part in ("train", group.part)):
        return ""
    names = [comparison.rows[i]["run"] for i, _ in members]
    what = f"training dashed, {group.part} solid" if group.part else "training dashed"
    drawn = []
    for axis, places, unit, by in (
        ("epochs", _epochs, "epoch {:.0f}", "epoch"),
        ("seconds", _seconds, "{:,.2f} s", "seconds of training"),
    ):
        bundles = [
            _bundle(run, group.part, places(run), f"colour{n}" if n < COLOURED else "", i, name)
            for n, ((i, run), name) in enumerate(zip(members, names, strict=True))
        ]
        xs = [x for bundle in bundles for line in (bundle.solid, bundle.dashed) for x, _ in line]
        ends = (unit.format(min(xs)), unit.format(max(xs)))
        chart = charts.overlaid(bundles, ends, f"Loss by {by}: {what}", f"{axis}-{group.name}")
        drawn.append(f'<div class="{axis}">{chart}</div>')
    is_only = len(comparison.groups) == 1
    differing = [key for key in group.traits if len({each.traits[key] for each in comparison.groups}) > 1]
    of = "; ".join(f"{key}: {group.traits[key]}" for key in differing)
    return webpage.section(
        "Losses" if is_only else f"Losses of group {group.name}",
        webpage.note(of) if of else "",
        _switch(group.name),
        *drawn,
        _legend([(i, name) for (i, _), name in zip(members, names, strict=True)]),
    )


def _epochs(run: RecordedRun) -> list[float]:
    return [float(record["epoch"]) for record in run.records]


def _seconds(run: RecordedRun) -> list[float]:
    return list(accumulate(float(record.get("seconds") or 0) for record in run.records))


def _bundle(
    run: RecordedRun, part: str | None, places: Sequence[float], kind: str, number: int, name: str
) -> charts.Bundle:
    """Return the curves of a run. places: of its records on the horizontal axis."""
    solid, dashed = (
        [(x, float(r[key])) for x, r in zip(places, run.records, strict=True) if r.get(key) is not None]
        for key in (f"{part}_loss", "train_loss")
    )
    ends = [f"{of} {line[-1][1]:.2f}" for of, line in ((part, solid), ("training", dashed)) if line]
    return charts.Bundle(solid, dashed, kind, number, f"{name}: {', '.join(ends)}")


def _switch(key: str) -> str:
    """Return the two buttons that choose a chart; the style sheet hides the other one."""
    return "".join(
        f'<input type="radio" class="by-{axis}" name="axis-{key}" id="by-{axis}-{key}"{checked}>'
        f'<label for="by-{axis}-{key}">{title}</label>'
        for axis, title, checked in (("epochs", "by epoch", " checked"), ("seconds", "by seconds of training", ""))
    )


def _legend(runs: Sequence[tuple[int, str]]) -> str:
    """Return the names of the runs, by their numbers, with boxes that show and hide them once the script runs."""
    entries = [
        f'<li data-run="{number}"><label><input type="checkbox" checked hidden>'
        f'<span class="swatch{f" colour{n}" if n < COLOURED else ""}"></span>{escape(name)}</label></li>'
        for n, (number, name) in enumerate(runs)
    ]
    shown, more = (f'<ul class="legend">{"".join(some)}</ul>' for some in (entries[:COLOURED], entries[COLOURED:]))
    buttons = "".join(
        f'<button type="button" data-show="{what}" hidden>{title}</button>'
        for what, title in (("all", "show all"), ("none", "hide all"))
    )
    if len(entries) <= COLOURED:
        return shown + (f"<p>{buttons}</p>" if len(entries) > 1 else "")
    return f"{shown}{webpage.folded(f'{len(entries) - COLOURED} more, in grey', more)}<p>{buttons}</p>"
