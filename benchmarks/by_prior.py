"""The speed of steps with a learned prior, relative to a step with the normal prior.

`python -m benchmarks.by_prior --help`. In every round all take turns, each over the same batches. Steps with a learned
prior are autograd's under torch.compile, and so is the one that their times are relative to; the step as one C++
operator, the default with a normal prior, is shown beside it. The table has medians with quartiles.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.contenders.vae_fast_engine import build
from benchmarks.harness.rounds import quartiles
from benchmarks.harness.turns import parser, table, turns
from benchmarks.reporting.results import Spread
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.numbers import positive_number
from vae_fast.errors import RunError
from vae_fast.kernels import extension
from vae_fast.models.vae import VAE
from vae_fast.runtime.environment import cpu_name

IMAGES = 16_384  # per turn
NETWORK: dict[str, Any] = {"hidden": (300, 300), "latent": 40}  # of the published VampPrior, without its gates
PRIORS = ("mixture", "vamp")
NORMAL, FUSED = "normal", "normal, one operator"


def measure(components: int, batch: int, precision: str, rounds: int, patience: float) -> dict[str, Spread]:
    """Return the seconds of a step with each prior relative to those with the normal one."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (max(IMAGES, 2 * batch), 784), dtype=torch.uint8)
    steps = max(2, IMAGES // batch)
    ours = partial(build, pixels=pixels, batch=batch, precision=precision, steps=steps)
    learned: dict[str, Any] = {"components": components, "step": "autograd", "compile": True}
    trainers = {
        NORMAL: ours(VAE(**NETWORK), step="autograd", compile=True),
        **{name: ours(VAE(**NETWORK, prior=name, components=components), prior=name, **learned) for name in PRIORS},
        FUSED: ours(VAE(**NETWORK), step="fused"),
    }
    found = turns(trainers, len(pixels), batch, steps, rounds, patience)
    return {name: Spread(*quartiles([times[name] / times[NORMAL] for times in found])) for name in trainers}


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser("by_prior", __doc__, [500])
    given.add_argument("--components", type=positive_number, default=500, help="of the learned priors; default: 500")
    chosen = given.parse_args(arguments)
    if not extension.load():
        raise RunError(extension.status())
    threads = torch.get_num_threads()
    print(f"{cpu_name()}, {threads} threads, torch {torch.__version__}, {chosen.components} components\n")
    print(table("prior", chosen, partial(measure, chosen.components)))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
