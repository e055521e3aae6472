"""Training on a shared machine: the speed of two runs at once, and of one run next to another program.

`python -m benchmarks.side_by_side --help`. Processes train the usual network in float32, each on its own images. Every
round measures a run alone, two at once, and one next to a program that keeps a core busy, each with the number of
threads that a run chooses by itself and with fixed numbers. Any drift of the machine affects them all. Ratios are taken
within a round; the table has their medians and quartiles.
"""

import argparse
import contextlib
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


class Run:
    """A training run in a process of its own."""

    def __init__(self, batch: int) -> None:
        command = [sys.executable, "-m", "benchmarks.side_by_side", "--worker", "--batch", str(batch)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()  # it has warmed up

    def begin(self, threads: int | None, until: float) -> None:
        """Train with `threads` threads, or as many as the run chooses, until the time `until`."""
        assert self._process.stdin is not None
        print(threads or 0, until, file=self._process.stdin, flush=True)

    def rate(self) -> float:
        """Wait for the end of the training and return its images a second."""
        return float(self._answer())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"a run ended: exit code {self._process.wait()}")
        return line


def work(batch: int) -> None:
    """Train once for each line of the input, which gives the number of threads and the end time."""
    pixels = torch.randint(0, 256, (IMAGES, D), dtype=torch.uint8)
    most = torch.get_num_threads()
    choosing = build(initial_model(), pixels, batch, "fp32", STEPS)
    fixed = build(initial_model(), pixels, batch, "fp32", STEPS, threads=most)
    print("ready", flush=True)
    for line in sys.stdin:
        threads, until = line.split()
        torch.set_num_threads(int(threads) or most)
        train = fixed if int(threads) else choosing
        images, began = 0, time.time()
        while time.time() < float(until):
            train(torch.randint(IMAGES, (STEPS, batch)))
            images += STEPS * batch
        print(images / (time.time() - began), flush=True)


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Run another program in the meantime, which computes and never waits."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as program:
        try:
            yield
        finally:
            program.kill()


@dataclass(frozen=True)
class Turn:
    """The runs that train at the same time in one part of a round."""

    name: str
    runs: Sequence[Run]
    threads: int | None = None  # None: a run chooses
    aim: float | None = None  # as a multiple of the first turn's rate
    with_busy_core: bool = False  # another program keeps one core busy
    rates: list[float] = field(default_factory=list)  # images/s of the runs together, by round

    def measure(self, seconds: float) -> None:
        with busy_core() if self.with_busy_core else contextlib.nullcontext():
            until = time.time() + seconds
            for run in self.runs:
                run.begin(self.threads, until)
            self.rates.append(sum(run.rate() for run in self.runs))


def turns(first: Run, second: Run) -> list[Turn]:
    """Return the turns of a round; the others are compared with the first."""
    usual = torch.get_num_threads()
    return [
        Turn("one run", [first]),
        Turn("two runs", [first, second], aim=0.8),
        Turn("two runs, `--threads 1` each", [first, second], 1, aim=1.1),
        Turn(f"two runs, `--threads {usual}` each", [first, second], usual),
        Turn("one run next to a busy core", [first], with_busy_core=True),
        Turn("one run, `--threads 1`, next to a busy core", [first], 1, with_busy_core=True),
        Turn(f"one run, `--threads {usual}`, next to a busy core", [first], usual, with_busy_core=True),
        Turn(f"one run, `--threads {usual}`", [first], usual),
    ]


def row(turn: Turn, alone: Turn) -> list[str]:
    """Return a row of the table: the turn's rate and its ratio to the first turn's, by round."""
    ratios = [rate / single for rate, single in zip(turn.rates, alone.rates, strict=True)]
    low, middle, high = quartiles(ratios)
    times = "1" if turn is alone else f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return [turn.name, f"{median(turn.rates):,.0f}", times, "" if turn.aim is None else f"{turn.aim:g}"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side", description=__doc__)
    parser.add_argument("--batch", type=positive_number, default=128, help="default: %(default)s")
    parser.add_argument("--rounds", type=positive_number, default=9, help="default: %(default)s")
    parser.add_argument("--seconds", type=non_negative, default=2.0, help="seconds per turn (default: %(default)s)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker:
        work(chosen.batch)
        return
    if (warning := busy.warning(busy.busy_share())) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    runs = [Run(chosen.batch), Run(chosen.batch)]
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
