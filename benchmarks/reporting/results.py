"""The results of one run of `pytest benchmarks --benchmark-json FILE`, read and checked."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vae_fast.errors import DataError

BASELINE = "eager"
BETWEEN_RUNS = 0.05  # a gap between two spreads that two processes can cause: memory placement, clock speed
FARTHER = 2.0  # times as far: cores in another state (`cores`); within one, distances vary by half
LEVELS = ("forward", "backward", "both")
MADE_BY = "a file that `pytest benchmarks --benchmark-only --benchmark-json FILE` wrote"


class Key(NamedTuple):
    """The identity of a benchmark, the same in every run."""

    suite: str
    what: str | None
    contender: str
    batch: int | None
    precision: str
    device: str

    def __str__(self) -> str:
        batch = None if self.batch is None else f"batch {self.batch}"
        return ", ".join(part for part in (*self[:3], batch, *self[4:]) if isinstance(part, str))


class Spread(NamedTuple):
    """The quartiles over the rounds."""

    low: float
    median: float
    high: float

    def over(self, other: "Spread") -> "Spread":
        """Return self / other, as wide as both allow: the quotient's own quartiles do not follow from quartiles."""
        return Spread(self.low / other.high, self.median / other.median, self.high / other.low)

    def overlaps(self, other: "Spread", margin: float = 0.0) -> bool:
        """Return whether the two have a value in common, or a relative gap of at most `margin`."""
        return self.low <= other.high * (1 + margin) and other.low <= self.high * (1 + margin)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark's `extra_info`: ms per `unit`; ratio, eager's time over its own; `of_floor`, the floor's over it."""

    suite: str
    contender: str
    label: str
    ours: bool
    precision: str
    device: str
    unit: str
    ms: float
    rounds: int
    rounds_taken: int | None = None
    """including those that do not count because the cores were in another state"""
    rounds_wanted: int | None = None
    units_a_round: float | None = None
    what: str | None = None
    batch: int | None = None
    floor: str | None = None
    ratio: Spread | None = None
    of_floor: Spread | None = None
    images_per_second: float | None = None
    gb_per_second: float | None = None
    gflop_per_second: float | None = None
    bytes: float | None = None
    flops: float | None = None
    peak_memory_mb: float | None = None
    cores_apart_ns: Spread | None = None
    loss: float | None = None
    seconds: float | None = None
    epochs: float | None = None
    test_loss: float | None = None
    compile_seconds: float | None = None
    threads: int | None = None
    flush_denormals: bool | None = None
    revision: str | None = None
    machine: str | None = None
    test: str | None = None
    """pytest's name for it"""
    versions: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def gave_up_rounds(self) -> bool:
        """Return whether rounds were dropped for lack of time."""
        return (self.rounds_taken or self.rounds) < (self.rounds_wanted or 0)

    @property
    def key(self) -> Key:
        return Key(self.suite, self.what, self.contender, self.batch, self.precision, self.device)

    def compares_with(self, other: "Benchmark") -> bool:
        """Return whether the cores were about as far apart (`cores`), or that is unknown, or the machines differ."""
        if self.cores_apart_ns is None or other.cores_apart_ns is None or self.machine != other.machine:
            return True
        distances = (self.cores_apart_ns.median, other.cores_apart_ns.median)
        return max(distances) <= FARTHER * min(distances)


@dataclass(frozen=True, kw_only=True)
class NotMeasured:
    suite: str
    contender: str
    label: str
    reason: str
    what: str | None = None
    batch: int | None = None
    precision: str | None = None
    device: str | None = None

    def covers(self, key: Key) -> bool:
        """Return whether this explains why `key` is missing; a field that is None here holds for all."""
        mine = (self.suite, self.what, self.contender, self.batch, self.precision, self.device)
        theirs = tuple(key)
        return all(a is None or a == b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True)
class Run:
    path: Path
    benchmarks: tuple[Benchmark, ...]
    not_measured: tuple[NotMeasured, ...]
    floors: dict[str, Any]
    machine: dict[str, Any]
    date: str
    images: str
    """what steps trained on: mnist, digits where MNIST is not available, or random where none trained"""
    busy: float | None = None
    """the share of the CPUs that other processes used at the start"""

    def by_key(self) -> dict[Key, Benchmark]:
        return {benchmark.key: benchmark for benchmark in self.benchmarks}


def read(path: Path) -> Run:
    """Read a run; raise DataError, in one line, if a file is missing, not JSON or not made by these benchmarks."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: expected {MADE_BY}, but {error.strerror or error}") from None
    except ValueError as error:  # of JSON or of UTF-8
        raise DataError(f"{path}: expected {MADE_BY}, but it is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("benchmarks"), list):
        raise DataError(f'{path}: expected {MADE_BY}, with a list "benchmarks"')
    entries = [
        _record(Benchmark, _info(entry), f"{path}: extra_info of benchmark {_name(entry, i)}")
        for i, entry in enumerate(content["benchmarks"])
    ]
    keys = [entry.key for entry in entries]
    for key in keys:
        if keys.count(key) > 1:
            raise DataError(f"{path}: expected each benchmark once, but there are {keys.count(key)} of {key}")
    missing = content.get("not_measured") or []
    if not isinstance(missing, list):
        raise DataError(f'{path}: expected a list "not_measured", but it is {missing!r}')
    reasons = [_record(NotMeasured, entry, f"{path}: not_measured[{i}]") for i, entry in enumerate(missing)]
    date = str(content.get("datetime") or "no date")[:10]
    floors, machine = _part(content, "floors"), _part(content, "machine_info")
    images, busy = str(content.get("images") or "unknown"), content.get("busy")
    known = busy if busy == 0 or positive(busy) else None
    return Run(path, tuple(entries), tuple(reasons), floors, machine, date, images, known)


def positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def in_order(benchmarks: Iterable[Benchmark]) -> list[Benchmark]:
    """Sort by what and batch; the baseline first, then from the slowest to the fastest."""

    def place(benchmark: Benchmark) -> tuple[object, ...]:
        baseline, ratio = benchmark.contender == BASELINE, benchmark.ratio
        what = LEVELS.index(benchmark.what) if benchmark.what in LEVELS else -1
        return (what, benchmark.what or "", benchmark.batch or 0, not baseline, ratio.median if ratio else 0.0)

    return sorted(benchmarks, key=place)


Check = tuple[Callable[[object], bool], str]
TEXT: Check = (lambda value: isinstance(value, str) and bool(value), "a text")
COUNT: Check = (lambda value: positive(value) and isinstance(value, int), "a positive integer")
AMOUNT: Check = (positive, "a positive number")
PERHAPS_NONE: Check = (
    lambda value: (value is not False and value == 0) or positive(value),
    "a number that is not negative",
)  # for memory, for example
FLAG: Check = (lambda value: isinstance(value, bool), "true or false")
QUARTILES: Check = (
    lambda value: isinstance(value, list) and len(value) == 3 and all(map(positive, value)) and sorted(value) == value,
    "[low, median, high], positive numbers in this order",
)
TABLE: Check = (lambda value: isinstance(value, dict), "an object")
KINDS: dict[Any, Check] = {str: TEXT, bool: FLAG, int: COUNT, float: AMOUNT, Spread: QUARTILES, dict[str, Any]: TABLE}
CHECKS = KINDS | {kind | None: check for kind, check in KINDS.items()} | {float | None: PERHAPS_NONE}


def _record(kind: Any, values: object, context: str) -> Any:
    """Return a Benchmark or NotMeasured with the values that its fields name; ignore others and leave out null."""
    if not isinstance(values, dict):
        raise DataError(f"{context}: expected an object, found {values!r}")
    taken = {}
    for name, spec in kind.__dataclass_fields__.items():
        value, (fits, expected) = values.get(name), CHECKS[spec.type]
        if value is None:
            if "None" not in str(spec.type) and not spec.type == dict[str, Any]:
                raise DataError(f"{context}: expected {name}, {expected}; is this {MADE_BY}?")
            continue
        if not fits(value):
            raise DataError(f"{context}: expected {name} to be {expected}, found {value!r}")
        taken[name] = Spread(*value) if spec.type == Spread | None else value
    return kind(**taken)


def _info(entry: object) -> dict[str, Any]:
    return {**_part(entry, "extra_info"), "test": entry.get("fullname") if isinstance(entry, dict) else None}


def _part(content: object, name: str) -> dict[str, Any]:
    part = content.get(name) if isinstance(content, dict) else None
    return part if isinstance(part, dict) else {}


def _name(entry: object, index: int) -> str:
    return str(entry.get("name", index)) if isinstance(entry, dict) else str(index)
