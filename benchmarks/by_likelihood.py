"""The speed of the step as one CPU operator with each likelihood, relative to the Bernoulli's.

`python -m benchmarks.by_likelihood --help`. In every round all take turns, each over the same images. A speed is the
Bernoulli's time over the other's, in the same round; the table has medians with quartiles. Scaled likelihoods learn one
scale, or one for each pixel.
"""

from collections.abc import Sequence

import torch

from benchmarks.contenders.network import D, Trainer
from benchmarks.contenders.vae_fast_engine import build
from benchmarks.harness.rounds import quartiles
from benchmarks.harness.turns import parser, turns
from benchmarks.reporting.results import Spread
from benchmarks.reporting.tables import markdown, spread
from vae_fast.cli.exit_codes import exit_code
from vae_fast.config_rules import SCALED_LIKELIHOODS
from vae_fast.errors import RunError
from vae_fast.kernels import extension
from vae_fast.models.likelihood import FAMILIES
from vae_fast.models.vae import VAE
from vae_fast.runtime.environment import cpu_name

IMAGES = 16_384  # per turn
Kind = tuple[str, str | None]
KINDS: list[Kind] = [
    (name, scale)
    for name in FAMILIES
    for scale in (("learned", "per-value") if name in SCALED_LIKELIHOODS else (None,))
]


def measure(batch: int, precision: str, rounds: int, patience: float) -> dict[Kind, Spread]:
    """Return each likelihood's speed relative to the Bernoulli's."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (max(IMAGES, 2 * batch), D), dtype=torch.uint8)
    steps = max(2, IMAGES // batch)
    trainers = {kind: _trainer(kind, pixels, batch, precision, steps) for kind in KINDS}
    found = turns(trainers, len(pixels), batch, steps, rounds, patience)
    return {kind: Spread(*quartiles([times[KINDS[0]] / times[kind] for times in found])) for kind in KINDS}


def _trainer(kind: Kind, pixels: torch.Tensor, batch: int, precision: str, steps: int) -> Trainer:
    name, scale = kind
    settings = {"likelihood": name, "scale": scale}
    return build(VAE(likelihood=name, scale=scale), pixels, batch, precision, steps, step="fused", **settings)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parser("by_likelihood", __doc__, [128, 1024]).parse_args(arguments)
    if not extension.load():
        raise RunError(extension.status())
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    cases = [(batch, precision) for precision in chosen.precision for batch in chosen.batch]
    found = {case: measure(*case, chosen.rounds, chosen.patience) for case in cases}
    head = ["likelihood", "scale", *(f"{precision}, batch {batch}" for batch, precision in cases)]
    rows = [
        [name.replace("_", " "), scale or "", *(spread(found[c][name, scale]) for c in cases)] for name, scale in KINDS
    ]
    print("\n".join(markdown(head, rows, 2)))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
