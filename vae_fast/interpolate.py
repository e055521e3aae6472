"""Walk from image to image through the latent space of a trained model. A PNG grid, and the images as .npy."""

import argparse
import sys
from collections.abc import Sequence

from torch import Tensor

from vae_fast import command_line, pytorch_state, walks
from vae_fast.errors import ConfigError
from vae_fast.exits import exit_code
from vae_fast.trained import Selection, Trained

PAIRS = 6  # of the first images, if none are named


@pytorch_state.as_it_starts()
def interpolate(trained: Trained, begin: Tensor, end: Tensor, steps: int, path: str = "spherical") -> Tensor:
    """[N, steps, *input_shape] in [0, 1] from images `begin` [N, ...] to `end` [N, ...], both ends included.

    path: "linear" or "spherical" (`walks`), between the means of their posteriors.
    """
    if path not in walks.PATHS:
        raise ValueError(f"path: expected one of {', '.join(walks.PATHS)}, got {path!r}")
    a, b = (walks.means(trained.model, images) for images in (begin, end))
    return walks.decode(trained.model, walks.PATHS[path](a, b, steps))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.parser("interpolate", __doc__, "--indices 0 1 2 3 --path linear", out=command_line.DRAWN)
    parser.add_argument(
        "--indices",
        type=command_line.whole_number,
        nargs="+",
        metavar="I",
        help="from, to, from, to, ... (default: 0 to 11)",
    )
    parser.add_argument("--steps", type=command_line.at_least_two, default=12, help="default: %(default)s")
    parser.add_argument("--path", choices=list(walks.PATHS), default="spherical", help="default: %(default)s")
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = command_line.opened(chosen)
    indices = chosen.indices or list(range(min(2 * PAIRS, len(selection.pixels) // 2 * 2)))
    if len(indices) % 2 or not indices:  # none: of a single image
        raise ConfigError(f"--indices: expected pairs, from and to, got {len(indices)} of them")
    begins, ends = indices[::2], indices[1::2]
    images = interpolate(trained, selection.pick(begins), selection.pick(ends), chosen.steps, chosen.path)
    captions = [[f"{_said(selection, a)} to {_said(selection, b)}"] for a, b in zip(begins, ends, strict=True)]
    name = f"interpolations-{chosen.path}{chosen.steps}-{selection.slug}-{command_line.listed(indices)}"
    command_line.save_pictures(trained, chosen.out, name, list(images), images, captions)


def _said(selection: Selection, index: int) -> str:
    label = selection.label(index)
    return f"image {index}" + (f" ({label})" if label else "")


if __name__ == "__main__":
    sys.exit(main())
