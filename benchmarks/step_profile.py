"""Where a fused step spends its time on a CPU, and each part's floor. `python -m benchmarks.step_profile --help`

The operator's threads record the time of their products, of keeping operands, and of the whole step, from their start
until they have no more work; the rest is "all else": gathering, activations, noise, loss, waiting for each other. A
part's floor is the best that the machine can do in the same minutes: its products at the rate of large ones by the
fastest library, and the bytes that Adam moves at the rate of copying back and forth within as much memory as weights
and moments take, by all threads. Gradients and Adam are one part, whose floor is the slower of the two. The figures are
medians over rounds in which all of this takes turns.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

import vae_fast as vf
from benchmarks.harness import busy, floors
from benchmarks.harness.rounds import seconds
from benchmarks.reporting.tables import markdown
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.numbers import positive_number
from vae_fast.errors import RunError
from vae_fast.kernels import bf16_loops, extension, mlp_copies, mlp_steps_, mlp_workspace
from vae_fast.runtime.environment import cpu_name
from vae_fast.training.optim import Adam
from vae_fast.training.step_metrics import StepMetrics

PARTS = ("products forward", "products backward", "gradients and Adam", "operands kept")
WHOLE = len(PARTS)
IMAGES, MOST_STEPS = 2048, 64  # per call


@dataclass
class Profiled:
    """A network whose steps are timed.

    Attributes:
        parts: for each round, the seconds per step of each part and of the whole, averaged over the threads.
    """

    precision: str
    batch: int
    hidden: tuple[int, ...]
    latent: int
    parts: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = vf.VAE(hidden=self.hidden, latent=self.latent)
        self.weights = [p for p in self.model.parameters() if p.dim() == 2]
        self.steps = max(1, min(MOST_STEPS, IMAGES // self.batch))
        adam = Adam(self.model.named_parameters())
        parameters = adam.state.parameters.views
        loop = bf16_loops()[0] if self.precision == "bf16" else "float32"
        copies = mlp_copies(parameters) if self.precision == "bf16" else None
        self._seconds = torch.zeros(torch.get_num_threads(), WHOLE + 1, dtype=torch.float64)
        images = torch.randint(0, 256, (8 * self.batch, 784), dtype=torch.uint8)
        self._run: Callable[[], None] = partial(
            mlp_steps_,
            parameters,
            adam.state.means.views,
            adam.state.squares.views,
            adam.state.taken,
            copies,
            images,
            torch.stack([torch.randperm(len(images))[: self.batch] for _ in range(self.steps)]),
            torch.tensor([1e-3, 1.0]).expand(self.steps, 2).contiguous(),
            torch.tensor(0),
            StepMetrics(torch.device("cpu")).record,
            steps=self.steps,
            activation=self.model.activation,
            workspace=mlp_workspace(parameters, self.batch, products=loop),
            products=loop,
            seconds=self._seconds,
        )
        self._run()

    def turn(self) -> None:
        self._seconds.zero_()
        self._run()
        self.parts.append((self._seconds.mean(0) / self.steps).tolist())

    @property
    def flops(self) -> list[float]:
        """Return the operations of the forward products, the backward products and the weights' gradients."""
        one = 2.0 * self.batch * sum(w.numel() for w in self.weights)
        return [one, one - 2.0 * self.batch * self.weights[0].numel(), one]

    @property
    def moved(self) -> int:
        """Return Adam's bytes: weights and moments read and written; in bfloat16 two copies of each weight written."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return 24 * parameters + (4 * sum(w.numel() for w in self.weights) if self.precision == "bf16" else 0)


def copy_within(size: int) -> Callable[[], object]:
    """Return a copy that reads and writes `size` bytes in all, back and forth within half as much memory."""
    one, other = (torch.zeros(size // 4, dtype=torch.uint8) for _ in "of")

    def run() -> None:
        other.copy_(one)
        one.copy_(other)

    return run


def profile(one: Profiled, rounds: int) -> list[list[str]]:
    """Return the rows of a table: case, part, ms, share of the step, floor in ms, the floor's share of the part."""
    product, copy = floors.large_product(one.precision), copy_within(one.moved)
    rates: list[float] = []
    copied: list[float] = []
    for _ in range(rounds):
        one.turn()
        rates.append(2 * floors.LARGE**3 / min(seconds(product, "cpu") for _ in range(3)))
        copied.append(min(seconds(copy, "cpu") for _ in range(3)))
    return table(one, statistics.median(rates), statistics.median(copied))


def table(one: Profiled, rate: float, adam: float) -> list[list[str]]:
    """Return the rows, given the operations a second of products and the seconds that copying Adam's bytes takes."""
    forward, backward, gradient = (flops / rate for flops in one.flops)
    all_products = forward + backward + gradient
    *parts, whole = (statistics.median(values) for values in zip(*one.parts, strict=True))
    took = dict(zip(PARTS, parts, strict=True)) | {"all else": max(0.0, whole - sum(parts)), "a step": whole}
    floor = {
        "products forward": forward,
        "products backward": backward,
        "gradients and Adam": max(gradient, adam),
        "a step": max(all_products, adam),
    }
    case = f"{one.precision}, {one.batch}"
    rows = []
    for name, time in took.items():
        least = (f"{floor[name] * 1e3:.3f}", f"{floor[name] / time:.0%}") if name in floor else ("", "")
        rows.append([case, name, f"{time * 1e3:.3f}", f"{time / whole:.0%}", *least])
    rows.append([case, "(products)", "", "", f"{all_products * 1e3:.3f}", f"{rate / 1e9:.0f} GFLOP/s"])
    rows.append([case, "(Adam's bytes)", "", "", f"{adam * 1e3:.3f}", f"{one.moved / adam / 1e9:.1f} GB/s"])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile", description=__doc__)
    parser.add_argument("--batch", type=positive_number, nargs="+", default=[4, 128, 1024], help="images per step")
    parser.add_argument("--hidden", type=positive_number, nargs="*", default=[400], help="widths of the hidden layers")
    parser.add_argument("--latent", type=positive_number, default=20)
    parser.add_argument("--precision", choices=["fp32", "bf16"], nargs="+", default=["fp32"])
    parser.add_argument("--rounds", type=positive_number, default=15, help="rounds to take medians of; default: 15")
    settings = parser.parse_args(arguments)
    if not extension.load():
        raise RunError(extension.status())
    if said := busy.warning(busy.busy_share()):
        print(f"warning: {said}, also the floors", file=sys.stderr)
    rows = []
    for precision in settings.precision:
        for batch in settings.batch:
            one = Profiled(precision, batch, tuple(settings.hidden), settings.latent)
            rows += profile(one, settings.rounds)
    loop = f", bf16 by {bf16_loops()[0]}" if "bf16" in settings.precision else ""
    facts = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}{loop}"
    print(f"{facts}; network {one.model.title}\n")
    print("\n".join(markdown(["precision, batch", "part", "ms", "of the step", "floor ms", "floor / part"], rows, 2)))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
