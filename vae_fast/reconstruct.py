"""Reconstruct images with a trained model by decoding their posterior means; write a PNG grid of both, and .npy."""

import argparse
import sys
from collections.abc import Sequence

from torch import Tensor

from vae_fast.analysis import generate
from vae_fast.analysis.trained import Trained
from vae_fast.cli import numbers, output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.reporting import pictures
from vae_fast.runtime import pytorch_state


@pytorch_state.as_it_starts()
def reconstruct(trained: Trained, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return [N, *input_shape] in [0, 1], the reconstructions of images [N, ...], uint8 or float.

    labels: int64 [N], if the model is conditional.
    """
    return generate.reconstruct(trained.model, images, labels)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run_arguments.parser("reconstruct", __doc__, "--indices 3 18 29", out=output.DRAWN)
    parser.add_argument("--count", type=numbers.positive_number, help="the first N (default: 48, or all)")
    parser.add_argument("--indices", type=numbers.whole_number, nargs="+", metavar="I", help="these images instead")
    parser.add_argument("--columns", type=numbers.positive_number, default=12, help="default: %(default)s")
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = run_arguments.opened(chosen)
    indices = chosen.indices or range(chosen.count or min(48, len(selection.pixels)))
    images = selection.pick(indices)
    decoded = reconstruct(trained, images, selection.conditions_of(indices))
    labels = [selection.label(i) for i in indices]
    above = [labels[i : i + chosen.columns] for i in range(0, len(labels), chosen.columns)]
    captions = [texts for row in above for texts in (row if any(row) else [], [])]
    rows = pictures.below_each_other(images, decoded, chosen.columns)
    name = f"reconstructions-{selection.slug}-{output.listed(indices)}"
    output.save_pictures(trained, chosen.out, name, rows, decoded, captions)


if __name__ == "__main__":
    sys.exit(main())
