"""Training on a machine that others use too: how fast two runs are together, and one beside another program.

`python -m benchmarks.side_by_side --help`. Processes train the usual network in float32, each on images of its own. In
every round each company has its turn: a run alone with the threads that PyTorch takes, two at once, one beside a
program that keeps a core busy. A drift of the machine hits them all. Ratios belong to a round; medians and quartiles.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

from benchmarks.contenders.network import D, initial_model
from benchmarks.contenders.vae_fast_engine import build
from benchmarks.harness import busy
from benchmarks.harness.rounds import quartiles
from benchmarks.reporting.tables import markdown
from vae_fast.cli.numbers import non_negative, positive_number
from vae_fast.runtime.environment import cpu_name

IMAGES, STEPS = 20_000, 50
SHORT_SPIN = "3000"  # GOMP_SPINCOUNT: a hundredth of how long GNU OpenMP's threads wait actively by default


class Run:
    """A training run in a process of its own."""

    def __init__(self, batch: int, **environment: str) -> None:
        command = [sys.executable, "-m", "benchmarks.side_by_side", "--worker", "--batch", str(batch)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self._told()  # it has warmed up

    def begin(self, threads: int, until: float) -> None:
        """Train with so many threads until that time."""
        assert self._process.stdin is not None
        print(threads, until, file=self._process.stdin, flush=True)

    def rate(self) -> float:
        """Images a second, once it has ended."""
        return float(self._told())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _told(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"a run ended: exit code {self._process.wait()}")
        return line


def work(batch: int) -> None:
    """What a process does: train when a line of its input says so."""
    pixels = torch.randint(0, 256, (IMAGES, D), dtype=torch.uint8)
    train = build(initial_model(), pixels, batch, "fp32", STEPS)
    print("ready", flush=True)
    for line in sys.stdin:
        threads, until = line.split()
        torch.set_num_threads(int(threads))
        images, began = 0, time.time()
        while time.time() < float(until):
            train(torch.randint(IMAGES, (STEPS, batch)))
            images += STEPS * batch
        print(images / (time.time() - began), flush=True)


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Run another program meanwhile, which computes and never waits."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as program:
        try:
            yield
        finally:
            program.kill()


@dataclass(frozen=True)
class Turn:
    """What trains at once in one part of a round."""

    name: str
    runs: Sequence[Run]
    threads: int
    aim: float | None = None  # of the first turn's rate
    beside: bool = False  # another program, which keeps one core busy
    rates: list[float] = field(default_factory=list)  # images/s of the runs together, by round

    def measure(self, seconds: float) -> None:
        with busy_core() if self.beside else contextlib.nullcontext():
            until = time.time() + seconds
            for run in self.runs:
                run.begin(self.threads, until)
            self.rates.append(sum(run.rate() for run in self.runs))


def turns(first: Run, second: Run, sleeping: Run) -> list[Turn]:
    """The turns of a round; threads of `sleeping` give way early when they wait."""
    usual = torch.get_num_threads()
    return [
        Turn(f"one run, {usual} threads", [first], usual),
        Turn(f"two runs, {usual} threads each", [first, second], usual, aim=0.8),
        Turn("two runs, one thread each", [first, second], 1, aim=1.1),
        Turn(f"one run, {usual} threads, beside a busy core", [first], usual, beside=True),
        Turn(f"the same, GOMP_SPINCOUNT={SHORT_SPIN}", [sleeping], usual, beside=True),
        Turn("one run, one thread, beside a busy core", [first], 1, beside=True),
        Turn(f"one run, {usual} threads, alone, GOMP_SPINCOUNT={SHORT_SPIN}", [sleeping], usual),
    ]


def row(turn: Turn, alone: Turn) -> list[str]:
    """A row of the table: the turn's rate, and its ratio to the first turn's within each round."""
    ratios = [rate / single for rate, single in zip(turn.rates, alone.rates, strict=True)]
    low, middle, high = quartiles(ratios)
    times = "1" if turn is alone else f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return [turn.name, f"{median(turn.rates):,.0f}", times, "" if turn.aim is None else f"{turn.aim:g}"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side", description=__doc__)
    parser.add_argument("--batch", type=positive_number, default=128, help="default: %(default)s")
    parser.add_argument("--rounds", type=positive_number, default=9, help="default: %(default)s")
    parser.add_argument("--seconds", type=non_negative, default=2.0, help="of each turn (default: %(default)s)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker:
        work(chosen.batch)
        return
    if (warning := busy.warning(busy.busy_share())) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    runs = [Run(chosen.batch), Run(chosen.batch), Run(chosen.batch, GOMP_SPINCOUNT=SHORT_SPIN)]
    parts = turns(*runs)
    try:
        for _ in range(chosen.rounds):
            for turn in parts:
                turn.measure(chosen.seconds)
    finally:
        for run in runs:
            run.end()
    print(
        f"{cpu_name()}, torch {torch.__version__}, batch {chosen.batch}, "
        f"{chosen.rounds} rounds of {chosen.seconds:g} s\n"
    )
    rows = [row(turn, parts[0]) for turn in parts]
    print("\n".join(markdown(["", "images/s together", "times the first", "aim"], rows, texts=1)))


if __name__ == "__main__":
    main()
