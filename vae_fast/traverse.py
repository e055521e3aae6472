"""Sweep latent dimensions of a trained model through the prior's quantiles; write a PNG grid and the images as .npy."""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fast.analysis import generate, latent_paths, latents
from vae_fast.analysis.trained import Trained
from vae_fast.cli import numbers, output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.errors import ConfigError
from vae_fast.runtime import pytorch_state

ROWS = 10  # dimensions, if none are given: those with the largest KL


@pytorch_state.as_it_starts()
def traverse(
    trained: Trained, dimensions: Sequence[int], steps: int, around: Tensor | None = None, label: str | int = 0
) -> Tensor:
    """Return [len(dimensions), steps, *input_shape] in [0, 1]: each dimension at quantiles of the prior, others fixed.

    around: latents [Z] at which the others are fixed; the prior's mean if None. label: the class that is decoded, an
    index or a name, if the model is conditional.
    """
    centre = generate.prior_mean(trained.model) if around is None else around
    labels = torch.tensor(trained.class_of(label)) if trained.model.classes else None
    z = latent_paths.sweeps(centre, dimensions, generate.prior_quantiles(trained.model, steps))
    return generate.decode(trained.model, z, labels)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run_arguments.parser("traverse", __doc__, "--dimensions 0 3 --around 18", out=output.DRAWN)
    parser.add_argument(
        "--dimensions",
        type=numbers.whole_number,
        nargs="+",
        metavar="J",
        help=f"default: the {ROWS} with the largest KL",
    )
    parser.add_argument("--steps", type=numbers.at_least_two, default=11, help="default: %(default)s")
    parser.add_argument(
        "--around",
        type=numbers.whole_number,
        metavar="I",
        help="index of an image, at whose posterior mean the others are fixed",
    )
    parser.add_argument(
        "--label", help="of a conditional model: the class to decode (default: the first, or that of --around)"
    )
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = run_arguments.opened(chosen)
    found = latents.survey(trained.model, selection.as_seen(trained.model), selection.conditions)
    dimensions = chosen.dimensions or found.most_active()[:ROWS]
    for dimension in dimensions:
        if dimension >= trained.model.latent:
            raise ConfigError(
                f"--dimensions: expected less than the {trained.model.latent} of the model, got {dimension}"
            )
    around, label = None, chosen.label
    if chosen.around is not None:
        image, labels = selection.pick([chosen.around]), selection.conditions_of([chosen.around])
        around = generate.means(trained.model, image, labels)[0]
        label = int(labels[0]) if label is None and labels is not None else label
    number = 0 if label is None else trained.class_of(label)
    images = traverse(trained, dimensions, chosen.steps, around, number)
    ends = generate.prior_quantiles(trained.model, chosen.steps)[:, [0, -1]].tolist()
    captions = [[f"z{j} from {ends[j][0]:.2f} to {ends[j][1]:.2f}, {found.kl[j]:.2f} nats"] for j in dimensions]
    centre = selection.suffix if chosen.around is None else f"-around-{selection.slug}-{chosen.around}"
    centre += f"-label{number}" if trained.model.classes else ""
    name = f"traversals{centre}-z{output.listed(dimensions)}-{chosen.steps}steps"
    output.save_pictures(trained, chosen.out, name, list(images), images, captions)


if __name__ == "__main__":
    sys.exit(main())
