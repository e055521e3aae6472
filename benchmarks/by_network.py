"""The speed of convolutional networks on a CPU, beside the same networks in plain PyTorch, torch.compile and JAX.

`python -m benchmarks.by_network --help`. In every round all contenders take turns, each over the same number of random
images. A speed is that of eager PyTorch's time over the contender's, in the same round; the table has medians with
quartiles. All have the same layers, initial weights and Adam, images in memory and, if they can, channels last.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vae_fast as vf
from benchmarks import cores
from benchmarks.contenders.network import Trainer
from benchmarks.contenders.vae_fast_engine import build
from benchmarks.harness.rounds import quartiles, seconds
from benchmarks.reporting.results import Spread
from benchmarks.reporting.tables import markdown, spread
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.numbers import non_negative, positive_number
from vae_fast.export import plain
from vae_fast.runtime.compile import compiled
from vae_fast.runtime.environment import cpu_name

Shape = tuple[int, int, int]
CASES: dict[str, tuple[str, Shape, int]] = {  # network, image, steps of a turn
    "conv 28x28x1": ("conv", (1, 28, 28), 4),
    "conv 32x32x3": ("conv", (3, 32, 32), 4),
    "resnet 64x64x3": ("resnet", (3, 64, 64), 1),
}
BASELINE = "PyTorch, eager"


class PlainVAE(nn.Module):
    """The network as users write it: PyTorch's own modules, float images with channels last."""

    def __init__(self, model: vf.VAE) -> None:
        super().__init__()
        self.encoder, self.decoder = (_channels_last(plain(half)) for half in (model.encoder, model.decoder))

    def loss(self, x: Tensor) -> Tensor:
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        logits = self.decoder(mu + torch.randn_like(mu) * torch.exp(0.5 * logvar))
        nll = F.binary_cross_entropy_with_logits(logits.float(), x, reduction="sum")
        return (nll - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)


def _channels_last(module: Any) -> nn.Module:
    moved: nn.Module = module.to(memory_format=torch.channels_last)
    return moved


def _pytorch(
    model: vf.VAE, pixels: Tensor, precision: str, compiler: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
) -> Trainer:
    network, shape = PlainVAE(model), model.input_shape
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    loss_of = compiler(network.loss)

    def train(order: Tensor) -> float:
        total = 0.0
        for rows in order:
            x = pixels.index_select(0, rows).view(-1, *shape).float().div_(255)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = loss_of(x.contiguous(memory_format=torch.channels_last))
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / len(order)

    return train


def trainers(case: str, batch: int, precision: str, width: int) -> tuple[dict[str, Trainer], int]:
    """Return the contenders by name, and the number of images."""
    network, shape, steps = CASES[case]
    torch.manual_seed(0)
    model = vf.VAE(shape, latent=20, network=network, options={"width": width})
    pixels = torch.randint(0, 256, (4 * batch, model.pixels), dtype=torch.uint8)
    ours = partial(build, pixels=pixels, batch=batch, precision=precision, steps=steps, network=network)
    again = vf.VAE(**model.hyperparameters)
    again.load_state_dict(model.state_dict())
    found = {
        BASELINE: _pytorch(model, pixels, precision, lambda loss_of: loss_of),
        "torch.compile": _pytorch(model, pixels, precision, compiled),
        "vae_fast": ours(model),
        "vae_fast --compile": ours(again, compile=True),
    }
    with suppress(ModuleNotFoundError):
        from benchmarks.contenders.peers import jax_convolutions

        if precision == "fp32":
            halves = plain(model.encoder), plain(model.decoder)
            found["JAX"] = jax_convolutions.build(*halves, pixels, shape, batch)
    return found, len(pixels)


def measure(case: str, batch: int, precision: str, width: int, rounds: int, patience: float) -> dict[str, list[float]]:
    """Return the contenders' seconds a step, round by round."""
    found, images = trainers(case, batch, precision, width)
    steps = CASES[case][2]
    losses = {}
    times: dict[str, list[float]] = {name: [] for name in found}
    for number_of_round in range(rounds + 1):
        patience = cores.wait(patience)
        order = torch.randint(images, (steps, batch))
        for name, train in found.items():
            if number_of_round == 0:  # compiles, and compares
                losses[name] = train(order)
            else:
                times[name].append(seconds(partial(train, order), "cpu") / steps)
    first = losses[BASELINE]
    for name, loss in losses.items():
        assert abs(loss - first) < 0.02 * first, f"{name} begins with a loss of {loss}, {BASELINE} with {first}"
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.by_network", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), help="default: all")
    parser.add_argument("--batch", type=positive_number, default=128, help="images per step; default: 128")
    parser.add_argument("--width", type=positive_number, default=32, help="of the networks; default: 32")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="default: fp32")
    parser.add_argument("--rounds", type=positive_number, default=7, help="rounds to take medians of; default: 7")
    parser.add_argument("--patience", type=non_negative, default=0.0, help="total seconds to wait for near cores")
    chosen = parser.parse_args(arguments)
    settings = chosen.batch, chosen.precision, chosen.width
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {chosen.precision}, ", end="")
    print(f"batch {chosen.batch}, width {chosen.width}\n")
    for case in chosen.cases:
        times = measure(case, *settings, chosen.rounds, chosen.patience)
        rows = []
        for name, mine in times.items():
            speeds = [theirs / own for theirs, own in zip(times[BASELINE], mine, strict=True)]
            rate = [chosen.batch / time for time in mine]
            rows.append([name, spread(Spread(*quartiles(rate))), spread(Spread(*quartiles(speeds)))])
        print("\n".join(markdown([case, "images/s", f"times {BASELINE}"], rows, 1)), end="\n\n", flush=True)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
