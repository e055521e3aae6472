"""Results as tables in Markdown, each with a column 'of the floor'."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from benchmarks.reporting.results import BASELINE, BETWEEN_RUNS, Benchmark, Key, Run, Spread, in_order

NOTHING = "-"
T = TypeVar("T")
Column = tuple[str, Callable[[Benchmark], str]]


def number(value: float | None) -> str:
    """Format with three significant digits, or all digits of a larger number, and never an exponent."""
    if value is None:
        return NOTHING
    return "0" if value < 5e-5 else f"{value:,.{_decimals(value)}f}"


def spread(value: Spread | None) -> str:
    if value is None:
        return NOTHING
    low, median, high = (f"{part:,.{_decimals(value.median)}f}" for part in value)
    return median if low == high else f"{median} ({low}-{high})"


def percent(value: Spread | None, quartiles: bool = True) -> str:
    if value is None:
        return NOTHING
    low, median, high = (f"{100 * part:.{_decimals(max(1, 100 * value.median)) // 2}f}" for part in value)
    return f"{median} % ({low}-{high})" if quartiles and low != high else f"{median} %"


def _decimals(value: float) -> int:
    return next((n for n in range(3) if value >= 10 ** (2 - n)), 3 if value >= 0.1 else 4)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> list[str]:
    """Return the lines of a table: the first `texts` columns are texts, aligned left, the others numbers.

    Texts that repeat those of the row above are left out, except in the last of these columns.
    """
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts)]
    before: list[str] = []
    for row in rows:
        same = next((i for i in range(texts - 1) if row[i : i + 1] != before[i : i + 1]), texts - 1)
        lines.append([""] * same + list(row[same:]))
        before = list(row)
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def grouped(values: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for value in values:
        groups[key(value)].append(value)
    return dict(groups)


def title(benchmark: Benchmark) -> str:
    """Return the title of the table that shows a benchmark."""
    return f"{benchmark.suite}, {benchmark.device}, {benchmark.precision}"


def place(benchmark: Benchmark) -> str:
    return title(benchmark) + (f", {benchmark.what}" if benchmark.what else "")


def name(benchmark: Benchmark) -> str:
    """Return the contender's label, in bold for this project's own."""
    return f"**{benchmark.label}**" if benchmark.ours else benchmark.label


def apart(benchmark: Benchmark) -> str:
    return NOTHING if benchmark.cores_apart_ns is None else f"{benchmark.cores_apart_ns.median:.0f}"


def rounds_taken(benchmark: Benchmark) -> str:
    """Return the rounds taken of those wanted, only where there was not enough time for all."""
    return f"{benchmark.rounds_taken} of {benchmark.rounds_wanted}" if benchmark.gave_up_rounds else NOTHING


def units_a_round(benchmark: Benchmark) -> str:
    units = benchmark.units_a_round
    return NOTHING if units is None or units == 1 else f"{units:.4g} {benchmark.unit}s"


MEASURED: dict[str, Callable[[Benchmark], str]] = {
    "images/s": lambda b: number(b.images_per_second),
    "GB/s": lambda b: number(b.gb_per_second),
    "GFLOP/s": lambda b: number(b.gflop_per_second),
    "cores apart ns": lambda b: apart(b),
    "peak MB": lambda b: number(b.peak_memory_mb),
    "loss": lambda b: _nats(b.loss),
    "training s": lambda b: number(b.seconds if b.unit == "run" else None),
    "epochs": lambda b: NOTHING if b.epochs is None else f"{b.epochs:g}",
    "test loss": lambda b: _nats(b.test_loss),
    "compile s": lambda b: number(b.compile_seconds),
    "a round": units_a_round,
    "rounds": rounds_taken,
}


def _nats(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def results(benchmarks: Iterable[Benchmark]) -> list[str]:
    lines = []
    for heading, group in grouped(benchmarks, title).items():
        lines += ["", f"### {heading}", "", *_table(in_order(group))]
    return lines


def _table(group: Sequence[Benchmark]) -> list[str]:
    floors = sorted({b.floor for b in group if b.floor})
    factor, unit = _time_unit(group)
    counted = with_article(" or ".join(sorted({b.unit for b in group})))
    columns: list[Column] = [
        *_texts(group),
        (f"{unit} {counted}", lambda b: number(b.ms * factor)),
        ("times eager", lambda b: spread(b.ratio)),
        ("of the floor", lambda b: percent(b.of_floor)),
    ]
    columns += [(head, cell) for head, cell in MEASURED.items() if any(cell(b) != NOTHING for b in group)]
    texts = len(_texts(group))
    lines = markdown([head for head, _ in columns], [[cell(b) for _, cell in columns] for b in group], texts)
    return lines + (["", f"The floor: {', or '.join(floors)}."] if floors else [])


def _texts(group: Sequence[Benchmark]) -> list[Column]:
    columns: list[Column] = []
    if any(b.what for b in group):
        columns.append(("what", lambda b: b.what or NOTHING))
    if any(b.batch for b in group):
        columns.append(("batch", lambda b: str(b.batch or NOTHING)))
    return [*columns, ("contender", name)]


def _time_unit(group: Sequence[Benchmark]) -> tuple[float, str]:
    longest = max(b.ms for b in group)
    return (1e3, "us") if longest < 1 else (1e-3, "s") if longest >= 10_000 else (1, "ms")


def with_article(units: str) -> str:
    return f"an {units}" if units[:1] in "aeio" else f"a {units}"


def engine_against_others(benchmarks: Iterable[Benchmark]) -> list[str]:
    """Compare the fastest of ours at each size with each rival: ratio over ratio, as both are relative to eager."""
    rows = []
    for table in grouped(benchmarks, title).values():
        for group in grouped(in_order(table), lambda b: f"{b.what}, {b.batch}").values():
            rows += _against(group)
    head = ["suite", "batch", "the engine's fastest", "of the floor", "against", "times as fast"]
    return markdown(head, rows, 5) if rows else []


def _against(group: Sequence[Benchmark]) -> list[list[str]]:
    ours = [(b.ratio.median, b.ratio, b) for b in group if b.ratio and b.ours]
    if not ours:
        return []
    _, ratio, best = max(ours, key=lambda candidate: candidate[0])
    texts = [place(best), str(best.batch or NOTHING), name(best), percent(best.of_floor)]
    return [[*texts, b.label, _times(best, ratio, b, b.ratio)] for b in group if b.ratio and not b.ours]


def _times(best: Benchmark, ours: Spread, rival: Benchmark, theirs: Spread) -> str:
    return spread(ours.over(theirs)) if best.compares_with(rival) else _other_state([best, rival])


def _other_state(found: Sequence[Benchmark]) -> str:
    return f"cores {' / '.join(map(apart, found))} ns apart"


def repeated(runs: Sequence[Run]) -> list[str]:
    """Return the ratios of several runs side by side, and whether the quartiles overlap; [] where nothing ran twice."""
    everywhere = [run.by_key() for run in runs]
    rows, verdicts = [], []
    for key in _shared(everywhere):
        found = [run[key] for run in everywhere if key in run]
        verdicts.append(_verdict(found))
        both = [run.get(key) for run in everywhere]
        cells = [spread(b.ratio) if b else NOTHING for b in both]
        floors = [percent(b.of_floor, quartiles=False) if b else NOTHING for b in both]
        floor = " / ".join(floors) if set(floors) != {NOTHING} else NOTHING
        texts = [place(found[0]), str(key.batch or NOTHING), name(found[0])]
        rows.append([*texts, *cells, verdicts[-1], floor])
    if not rows:
        return []
    head = ["suite", "batch", "contender", *(f"run {i + 1}" for i in range(len(runs))), "overlap", "of the floor"]
    overlap, nearly = verdicts.count("yes"), verdicts.count(NEARLY)
    comparable = overlap + nearly + verdicts.count("**no**")
    summary = f"Times eager. The spreads of {overlap} of {comparable} overlap, and {nearly} more are at most "
    summary += f"{BETWEEN_RUNS:.0%} apart."
    if comparable < len(rows):
        summary += f" {len(rows) - comparable} cannot be compared: their cores were near in one run, apart in another."
    return [summary, "", *markdown(head, rows, 3)]


NEARLY = f"within {BETWEEN_RUNS:.0%}"


def _verdict(found: Sequence[Benchmark]) -> str:
    if not all(found[0].compares_with(b) for b in found):
        return _other_state(found)
    ratios = [b.ratio for b in found if b.ratio]
    margins = {0.0: "yes", BETWEEN_RUNS: NEARLY}
    agreeing = (text for margin, text in margins.items() if all(a.overlaps(b, margin) for a in ratios for b in ratios))
    return next(agreeing, "**no**")


def _shared(everywhere: Sequence[dict[Key, Benchmark]]) -> list[Key]:
    """Return, in order, what has a ratio in at least two runs and is not the baseline, whose ratio is 1."""
    first = {key: b for run in reversed(everywhere) for key, b in run.items() if b.contender != BASELINE and b.ratio}
    groups = grouped(first.values(), title).values()
    keys = [b.key for group in groups for b in in_order(group)]
    return [key for key in keys if sum(key in run and run[key].ratio is not None for run in everywhere) > 1]
