"""The speed of steps with several samples of z an image, beside as many steps of one sample and the usual way.

`python -m benchmarks.by_samples --help`. The usual way repeats the images K times through the whole network, in plain
PyTorch under torch.compile, with the importance-weighted loss of Burda et al. 2016. In every round all take turns, each
over the same number of batches. A time is relative to K steps of one sample, in the same round; the table has medians
with quartiles.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders.network import D, Network, Trainer
from benchmarks.contenders.pytorch_baselines import autocast
from benchmarks.contenders.vae_fast_engine import build
from benchmarks.harness.rounds import quartiles
from benchmarks.harness.turns import parser, table, turns
from benchmarks.reporting.results import Spread
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.numbers import positive_number
from vae_fast.errors import RunError
from vae_fast.kernels import extension
from vae_fast.models.vae import VAE
from vae_fast.runtime.compile import compiled
from vae_fast.runtime.environment import cpu_name

IMAGES = 8_192  # per turn
SEPARATE, USUAL = "steps of one sample, K times", "images repeated K times, torch.compile"


class RepeatedVAE(Network):
    """The network as importance-weighted objectives usually train it: every sample goes through the encoder, too."""

    def loss(self, x: Tensor, samples: int, precision: str) -> Tensor:
        x = x.repeat(samples, 1)
        with autocast(x.device, precision):
            mu, logvar = self.encoder(x).chunk(2, dim=-1)
            mu, logvar = mu.float(), logvar.float()
            eps = torch.randn_like(mu)
            z = mu + eps * torch.exp(0.5 * logvar)
            logits = self.decoder(z).float()
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        log_w = (0.5 * (logvar + eps.square() - z.square()).sum(1) - nll).view(samples, -1)
        bound: Tensor = log_w.logsumexp(0) - math.log(samples)
        return -bound.mean()


def usual(pixels: Tensor, samples: int, precision: str) -> Trainer:
    model = RepeatedVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    loss_of = compiled(model.loss)

    def train(order: Tensor) -> float:
        total = 0.0
        for rows in order:
            optimizer.zero_grad()
            loss = loss_of(pixels.index_select(0, rows).float().div_(255), samples, precision)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / len(order)

    return train


def measure(samples: int, batch: int, precision: str, rounds: int, patience: float) -> dict[str, Spread]:
    """Return each contender's seconds relative to those of K steps of one sample."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (max(IMAGES, 2 * batch), D), dtype=torch.uint8)
    steps = max(2, IMAGES // batch)
    ours = partial(build, pixels=pixels, batch=batch, precision=precision, steps=steps, step="fused")
    trainers = {
        SEPARATE: ours(VAE()),
        "iwae": ours(VAE(), objective="iwae", samples=samples),
        "dreg": ours(VAE(), objective="dreg", samples=samples),
        USUAL: usual(pixels, samples, precision),
    }
    found = turns(trainers, len(pixels), batch, steps, rounds, patience)
    times_taken = {name: samples if name == SEPARATE else 1 for name in trainers}
    return {
        name: Spread(*quartiles([n * times[name] / (samples * times[SEPARATE]) for times in found]))
        for name, n in times_taken.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser("by_samples", __doc__, [128])
    given.add_argument("--samples", type=positive_number, default=8, help="K; default: 8")
    chosen = given.parse_args(arguments)
    if not extension.load():
        raise RunError(extension.status())
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {chosen.samples} samples\n")
    print(table("time", chosen, partial(measure, chosen.samples)))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
