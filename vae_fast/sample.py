"""Draw images from a trained model by decoding draws of its prior; write a PNG grid and the images as .npy."""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fast.analysis import generate
from vae_fast.analysis.trained import Trained
from vae_fast.cli import numbers, output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.runtime import pytorch_state


@pytorch_state.as_it_starts()
def sample(trained: Trained, count: int, seed: int = 0, label: str | int | None = None) -> Tensor:
    """Return [count, *input_shape] in [0, 1], given by the model and the seed; image i is the same for any count.

    label: of a conditional model, the class of all images, an index or a name; None takes the classes in turn.
    """
    classes = trained.model.classes
    labels = torch.arange(count) % classes if classes else None
    if label is not None:
        labels = torch.full((count,), trained.class_of(label))
    return generate.sample(trained.model, count, seed, labels)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run_arguments.parser("sample", __doc__, "--count 60 --seed 3", out=output.DRAWN, images=False)
    parser.add_argument("--count", type=numbers.positive_number, default=96, help="default: %(default)s")
    parser.add_argument("--columns", type=numbers.positive_number, default=12, help="default: %(default)s")
    parser.add_argument("--seed", type=numbers.whole_number, default=0, help="default: %(default)s")
    parser.add_argument("--label", help="of a conditional model: the class of all samples (default: all in turn)")
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained = Trained.open(chosen.run, chosen.device)
    images = sample(trained, chosen.count, chosen.seed, chosen.label)
    rows = images.split(chosen.columns)
    of = "" if chosen.label is None else f"-label{trained.class_of(chosen.label)}"
    output.save_pictures(trained, chosen.out, f"samples{of}-seed{chosen.seed}-{chosen.count}", rows, images)


if __name__ == "__main__":
    sys.exit(main())
