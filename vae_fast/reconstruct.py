"""Reconstruct images with a trained model: below each the decoded mean of its posterior. A PNG grid, and .npy."""

import argparse
import sys
from collections.abc import Sequence

from torch import Tensor

from vae_fast import command_line, pictures, pytorch_state, walks
from vae_fast.exits import exit_code
from vae_fast.trained import Trained


@pytorch_state.as_it_starts()
def reconstruct(trained: Trained, images: Tensor) -> Tensor:
    """[N, *input_shape] in [0, 1], of images [N, ...], uint8 or float."""
    return walks.reconstruct(trained.model, images)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.parser("reconstruct", __doc__, "--indices 3 18 29", out=command_line.DRAWN)
    parser.add_argument("--count", type=command_line.positive_number, help="the first N (default: 48, or all)")
    parser.add_argument(
        "--indices", type=command_line.whole_number, nargs="+", metavar="I", help="these images instead"
    )
    parser.add_argument("--columns", type=command_line.positive_number, default=12, help="default: %(default)s")
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = command_line.opened(chosen)
    indices = chosen.indices or range(chosen.count or min(48, len(selection.pixels)))
    images = selection.pick(indices)
    decoded = reconstruct(trained, images)
    labels = [selection.label(i) for i in indices]
    above = [labels[i : i + chosen.columns] for i in range(0, len(labels), chosen.columns)]
    captions = [texts for row in above for texts in (row if any(row) else [], [])]
    rows = pictures.below_each_other(images, decoded, chosen.columns)
    name = f"reconstructions-{selection.slug}-{command_line.listed(indices)}"
    command_line.save_pictures(trained, chosen.out, name, rows, decoded, captions)


if __name__ == "__main__":
    sys.exit(main())
