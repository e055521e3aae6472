"""One contender's training, checked against the reference and then timed in turns with the eager baseline.

Every round has its own order, drawn at random from all images and the same for both. A contender is checked twice: its
first losses, from the common weights over the common order, are compared with the reference's, and its last ones with
the baseline's, which has trained as often. So nobody wins by doing less.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.network import D, Trainer
from benchmarks.contenders.pytorch_baselines import CarefulVAE
from benchmarks.contenders.registry import Contender
from benchmarks.harness import floors
from benchmarks.harness.metadata import Case, describe
from benchmarks.harness.peak_memory import peak_megabytes
from benchmarks.harness.rounds import Pace, Turn, alternate
from benchmarks.reporting.results import BASELINE
from vae_fast.kernels import elbo_loss, reparameterize

# Relative, for the mean loss over a round's order. Contenders that draw their own noise vary by 0.03 to 0.24 %
# (standard deviation over eight seeds of the reference; 50 and 100 steps of 128, 6 and 12 of 1024). This engine draws
# the reference's noise: it is within 1e-7 in float32 and 4e-4 in bfloat16, and Adam amplifies that over some hundred
# steps.
TOLERANCE = 0.01
TOLERANCE_WITH_THE_SAME_NOISE = {"fp32": 1e-3, "bf16": 3e-3, "fp16": 3e-3}
LAST_TOLERANCE = 0.03  # between two that have trained the same way for several rounds


@dataclass(frozen=True)
class Work:
    """The training work of a round.

    Args:
        suite, unit: names; `ms` is the time of a unit.
        pixels: [N, D] uint8, on the device.
        steps: steps per round.
        units: units per round.
    """

    suite: str
    unit: str
    case: Case
    pixels: Tensor
    steps: int
    units: float

    def orders(self) -> Iterator[Tensor]:
        """Yield, endlessly, the images that the steps of a round take, [steps, B]."""
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randint(len(self.pixels), (self.steps, self.case.batch), generator=generator)

    def build(self, contender: Contender) -> Trainer:
        rest = self.pixels, self.case.batch, self.case.precision, self.steps
        if contender.network is None:
            return contender.build(*rest)
        return contender.build(contender.network().to(self.case.device), *rest)


class Runner:
    """A trainer that gets a new order in each round and remembers its last loss."""

    def __init__(self, train: Trainer, orders: Iterator[Tensor]) -> None:
        self._train, self._orders = train, orders
        self.loss = float("nan")

    def prepare(self) -> None:
        self._order = next(self._orders)

    def run(self) -> None:
        self.loss = self._train(self._order)

    @property
    def turn(self) -> Turn:
        return Turn(self.run, self.prepare)


def measure(benchmark: Any, work: Work, name: str, table: dict[str, Contender], pace: Pace) -> None:
    """Check, time and describe one contender of `table`; raise AssertionError if its losses are not the reference's."""
    case, contender = work.case, table[name]
    expected = reference_loss(work.steps, case.batch, work.pixels)
    runners = []
    for one in (contender, table[BASELINE]):
        runner = Runner(work.build(one), work.orders())
        runner.prepare()
        runner.run()  # for the check; also the first warm-up
        tolerance = TOLERANCE_WITH_THE_SAME_NOISE[case.precision] if one.ours else TOLERANCE
        check_loss(f"{one.label}: its first losses", runner.loss, expected, tolerance)
        runners.append(runner)
    ours, baseline = runners
    floor_name, floor = floors.of_steps(work.steps, case.batch, case.device, case.precision)
    times = alternate(benchmark, ours.turn, baseline.turn, Turn(floor), pace.of(name), case.device)
    check_loss(f"{contender.label}: its last losses", ours.loss, baseline.loss, LAST_TOLERANCE)
    ours.prepare()
    peak = None if contender.own_threads or contender.records else peak_megabytes(ours.run, case.device)
    describe(
        benchmark,
        case,
        times,
        package=contender.package,
        unit=work.unit,
        units=work.units,
        floor=floor_name,
        images=work.steps * case.batch,
        flops=work.steps * floors.step_flops(case.batch),
        moved=work.steps * floors.step_bytes(case.batch, case.device, case.precision),
        suite=work.suite,
        what=None,
        contender=name,
        label=contender.label,
        ours=contender.ours,
        shape=[case.batch, D],
        peak_memory_mb=peak,
        loss=ours.loss,
        **({"flush_denormals": True} if contender.own_threads and case.device == "cpu" else {}),  # XLA always does
    )


def check_loss(what: str, loss: float, expected: float, tolerance: float) -> None:
    """Raise AssertionError unless `loss` is within the relative `tolerance` of `expected`."""
    off = abs(loss / expected - 1)
    assert off <= tolerance, f"{what}: {loss:.3f} nats, {off:.2%} from {expected:.3f}; {tolerance:.1%} is allowed"


@cache
def reference_loss(steps: int, batch: int, pixels: Tensor, seed: int = 0) -> float:
    """Return the mean loss of plain training over the first order.

    It uses the reference operators and torch.optim.Adam, in float32 on the CPU.
    """
    images, model = pixels.cpu(), CarefulVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    total = 0.0
    orders = Work("", "", Case("cpu", "fp32", batch), pixels, steps, 1).orders()
    for step, rows in enumerate(next(orders)):
        x = images[rows] / 255
        mu, logvar = model.encoder(x).chunk(2, dim=-1)
        logits = model.decoder(reparameterize(mu, logvar, seed, step, impl="reference"))
        loss = elbo_loss(logits, x, mu, logvar, impl="reference").loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / steps
