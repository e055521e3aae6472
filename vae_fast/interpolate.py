"""Walk from image to image through the latent space of a trained model; write a PNG grid and the images as .npy."""

import argparse
import sys
from collections.abc import Sequence

from torch import Tensor

from vae_fast.analysis import generate, latent_paths
from vae_fast.analysis.trained import Selection, Trained
from vae_fast.cli import numbers, output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.errors import ConfigError
from vae_fast.runtime import pytorch_state

PAIRS = 6  # pairs of the first images, if no indices are given


@pytorch_state.as_it_starts()
def interpolate(
    trained: Trained,
    begin: Tensor,
    end: Tensor,
    steps: int,
    path: str = "spherical",
    labels: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """Return [N, steps, *input_shape] in [0, 1] from images `begin` [N, ...] to `end` [N, ...], both ends included.

    path: "linear" or "spherical" (see `latent_paths`), between the means of their posteriors.
    labels: of a conditional model, those of both ends, int64 [N] each; those of `begin` decode the whole path.
    """
    if path not in latent_paths.PATHS:
        raise ValueError(f"path: expected one of {', '.join(latent_paths.PATHS)}, got {path!r}")
    of_begin, of_end = labels
    a, b = generate.means(trained.model, begin, of_begin), generate.means(trained.model, end, of_end)
    given = None if of_begin is None else of_begin[:, None]
    return generate.decode(trained.model, latent_paths.PATHS[path](a, b, steps), given)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run_arguments.parser("interpolate", __doc__, "--indices 0 1 2 3 --path linear", out=output.DRAWN)
    parser.add_argument(
        "--indices",
        type=numbers.whole_number,
        nargs="+",
        metavar="I",
        help="from, to, from, to, ... (default: 0 to 11)",
    )
    parser.add_argument("--steps", type=numbers.at_least_two, default=12, help="default: %(default)s")
    parser.add_argument("--path", choices=list(latent_paths.PATHS), default="spherical", help="default: %(default)s")
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = run_arguments.opened(chosen)
    indices = chosen.indices or list(range(min(2 * PAIRS, len(selection.pixels) // 2 * 2)))
    if len(indices) % 2 or not indices:  # empty if there is a single image
        raise ConfigError(f"--indices: expected pairs, from and to, got {len(indices)} of them")
    begins, ends = indices[::2], indices[1::2]
    begin, end = selection.pick(begins), selection.pick(ends)
    labels = selection.conditions_of(begins), selection.conditions_of(ends)
    images = interpolate(trained, begin, end, chosen.steps, chosen.path, labels)
    captions = [[f"{_caption(selection, a)} to {_caption(selection, b)}"] for a, b in zip(begins, ends, strict=True)]
    name = f"interpolations-{chosen.path}{chosen.steps}-{selection.slug}-{output.listed(indices)}"
    output.save_pictures(trained, chosen.out, name, list(images), images, captions)


def _caption(selection: Selection, index: int) -> str:
    label = selection.label(index)
    return f"image {index}" + (f" ({label})" if label else "")


if __name__ == "__main__":
    sys.exit(main())
