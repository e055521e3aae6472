"""Trainers that take turns in one process, and the arguments of the programs that compare them."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch

from benchmarks import cores
from benchmarks.contenders.network import Trainer
from benchmarks.harness.rounds import seconds
from benchmarks.reporting.results import Spread
from benchmarks.reporting.tables import markdown, spread
from vae_fast.cli.numbers import non_negative, positive_number

Name = TypeVar("Name")


def turns(
    trainers: Mapping[Name, Trainer], images: int, batch: int, steps: int, rounds: int, patience: float
) -> list[dict[Name, float]]:
    """Return the seconds of each trainer in each round, in which all take the same steps, by turns.

    images: the number from which each step takes `batch` at random. patience: total seconds to wait for near cores. A
    first round, in which things are compiled, is not counted.
    """
    found = []
    for _ in range(rounds + 1):
        patience = cores.wait(patience)
        order = torch.randint(images, (steps, batch))
        found.append({name: seconds(partial(train, order), "cpu") for name, train in trainers.items()})
    return found[1:]


def table(title: str, chosen: argparse.Namespace, measure: Callable[[int, str, int, float], dict[str, Spread]]) -> str:
    """Return a table of what `measure` returns for each batch size and precision: a row for each name.

    measure: takes a batch size, a precision, and the rounds and the patience of `chosen`, which `parser` has parsed.
    """
    cases = [(batch, precision) for precision in chosen.precision for batch in chosen.batch]
    found = [measure(*case, chosen.rounds, chosen.patience) for case in cases]
    head = [title, *(f"{precision}, batch {batch}" for batch, precision in cases)]
    return "\n".join(markdown(head, [[name, *(spread(each[name]) for each in found)] for name in found[0]], 1))


def parser(program: str, description: str | None, batches: Sequence[int]) -> argparse.ArgumentParser:
    """Return a parser of --batch, by default `batches`, --precision, --rounds and --patience."""
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=description)
    found.add_argument("--batch", type=positive_number, nargs="+", default=[*batches], help="images per step")
    found.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"], help="default: fp32")
    found.add_argument("--rounds", type=positive_number, default=9, help="rounds to take medians of; default: 9")
    found.add_argument("--patience", type=non_negative, default=0.0, help="total seconds to wait for near cores")
    return found
