"""Two training runs at once on one machine: how fast they are together, beside one alone.

`python -m benchmarks.side_by_side --help`. Two processes train the usual network in float32, each on images of its own.
In every round one trains alone with the threads that PyTorch takes, then both at once with as many each, then both with
one thread each, so that a drift of the machine hits all three. Ratios belong to a round; medians and quartiles.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

import torch

from benchmarks import busy
from benchmarks.engines import build
from benchmarks.network import D, initial_model
from benchmarks.tables import markdown
from benchmarks.timing import quartiles
from vae_fast.command_line import non_negative, positive_number
from vae_fast.environment import cpu_name

IMAGES, STEPS = 20_000, 50
AIMS = {"default": 0.8, "one": 1.1}  # of one run alone, that two together are to reach


class Run:
    """A training run in a process of its own."""

    def __init__(self, batch: int) -> None:
        command = [sys.executable, "-m", "benchmarks.side_by_side", "--worker", "--batch", str(batch)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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


def measured(runs: Sequence[Run], threads: int, seconds: float) -> float:
    """Images a second of these runs together."""
    until = time.time() + seconds
    for run in runs:
        run.begin(threads, until)
    return sum(run.rate() for run in runs)


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
    usual = torch.get_num_threads()
    runs = [Run(chosen.batch) for _ in range(2)]
    alone, default, one = [], [], []
    try:
        for _ in range(chosen.rounds):
            alone.append(measured(runs[:1], usual, chosen.seconds))
            default.append(measured(runs, usual, chosen.seconds))
            one.append(measured(runs, 1, chosen.seconds))
    finally:
        for run in runs:
            run.end()
    print(
        f"{cpu_name()}, torch {torch.__version__}, batch {chosen.batch}, "
        f"{chosen.rounds} rounds of {chosen.seconds:g} s\n"
    )
    rows = [[f"one run, {usual} threads", f"{median(alone):,.0f}", "1", ""]]
    for name, rates, aim in (
        (f"two runs, {usual} threads each", default, AIMS["default"]),
        ("two runs, one thread each", one, AIMS["one"]),
    ):
        low, middle, high = quartiles([rate / single for rate, single in zip(rates, alone, strict=True)])
        rows.append([name, f"{median(rates):,.0f}", f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{aim:g}"])
    print("\n".join(markdown(["", "images/s together", "times one run", "aim"], rows, texts=1)))


if __name__ == "__main__":
    main()
