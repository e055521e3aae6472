"""Sweep latent dimensions of a trained model through the prior's quantiles. A PNG grid, and the images as .npy."""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fast import command_line, latents, pytorch_state, walks
from vae_fast.errors import ConfigError
from vae_fast.exits import exit_code
from vae_fast.trained import Trained

ROWS = 10  # dimensions, if none are named: those that carry most


@pytorch_state.as_it_starts()
def traverse(trained: Trained, dimensions: Sequence[int], steps: int, around: Tensor | None = None) -> Tensor:
    """[len(dimensions), steps, *input_shape] in [0, 1]: each dimension at the quantiles of N(0, 1), the others held.

    around: latents [Z] at which the others stay; the prior's mean if None.
    """
    centre = torch.zeros(trained.model.latent) if around is None else around
    return walks.decode(trained.model, walks.sweeps(centre, dimensions, walks.quantiles(steps)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.parser("traverse", __doc__, "--dimensions 0 3 --around 18", out=command_line.DRAWN)
    parser.add_argument(
        "--dimensions",
        type=command_line.whole_number,
        nargs="+",
        metavar="J",
        help=f"default: the {ROWS} that carry most",
    )
    parser.add_argument("--steps", type=command_line.at_least_two, default=11, help="default: %(default)s")
    parser.add_argument(
        "--around",
        type=command_line.whole_number,
        metavar="I",
        help="an image, at whose posterior's mean the others stay",
    )
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = command_line.opened(chosen)
    found = latents.survey(trained.model, selection.pixels.flatten(1))
    dimensions = chosen.dimensions or found.most_active()[:ROWS]
    for dimension in dimensions:
        if dimension >= trained.model.latent:
            raise ConfigError(
                f"--dimensions: expected less than the {trained.model.latent} of the model, got {dimension}"
            )
    around = None if chosen.around is None else walks.means(trained.model, selection.pick([chosen.around]))[0]
    images = traverse(trained, dimensions, chosen.steps, around)
    low, *_, high = walks.quantiles(chosen.steps).tolist()
    captions = [[f"z{j} from {low:.2f} to {high:.2f}, {found.kl[j]:.2f} nats"] for j in dimensions]
    centre = selection.suffix if chosen.around is None else f"-around-{selection.slug}-{chosen.around}"
    name = f"traversals{centre}-z{command_line.listed(dimensions)}-{chosen.steps}steps"
    command_line.save_pictures(trained, chosen.out, name, list(images), images, captions)


if __name__ == "__main__":
    sys.exit(main())
