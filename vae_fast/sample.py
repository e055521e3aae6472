"""Draw images from a trained model by decoding draws of its prior; write a PNG grid and the images as .npy.

With --from mixture the latents are drawn from a mixture of Gaussians, fitted to samples of the posteriors of the
training images (--split, --data), instead of a normal prior.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fast.analysis import fitted, generate
from vae_fast.analysis.fitted import Fitted
from vae_fast.analysis.trained import Trained
from vae_fast.cli import numbers, output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.errors import ConfigError
from vae_fast.runtime import pytorch_state


@pytorch_state.as_it_starts()
def sample(
    trained: Trained, count: int, seed: int = 0, label: str | int | None = None, source: Fitted | None = None
) -> Tensor:
    """Return [count, *input_shape] in [0, 1], given by the model and the seed; image i is the same for any count.

    label: of a conditional model, the class of all images, an index or a name; None takes the classes in turn.
    source: where latents are drawn from instead of the prior.
    """
    classes = trained.model.classes
    labels = torch.arange(count) % classes if classes else None
    if label is not None:
        labels = torch.full((count,), trained.class_of(label))
    z = generate.prior(trained.model, count, seed) if source is None else source.draw(count, seed)
    return generate.decode(trained.model, z, labels)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run_arguments.parser("sample", __doc__, "--count 60 --seed 3", out=output.DRAWN, split="train")
    parser.set_defaults(split=None)  # the training images
    parser.add_argument(
        "--from", dest="source", choices=["prior", "mixture"], default="prior", help="default: %(default)s"
    )
    parser.add_argument(
        "--components",
        type=numbers.positive_number,
        metavar="N",
        help=f"Gaussians of --from mixture (default: {fitted.COMPONENTS})",
    )
    parser.add_argument("--count", type=numbers.positive_number, default=96, help="default: %(default)s")
    parser.add_argument("--columns", type=numbers.positive_number, default=12, help="default: %(default)s")
    parser.add_argument("--seed", type=numbers.whole_number, default=0, help="default: %(default)s")
    parser.add_argument("--label", help="of a conditional model: the class of all samples (default: all in turn)")
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    source, of = None, ""
    if chosen.source == "mixture":
        trained, source, of = _fitted(chosen)
    else:
        trained = Trained.open(chosen.run, chosen.device)
        for name in ("components", "split", *run_arguments.IMAGE_SETTINGS):
            if (value := getattr(chosen, name)) is not None:
                raise ConfigError(f"--{name.replace('_', '-')}: expected it with --from mixture, got {value} alone")
    images = sample(trained, chosen.count, chosen.seed, chosen.label, source)
    rows = images.split(chosen.columns)
    of += "" if chosen.label is None else f"-label{trained.class_of(chosen.label)}"
    output.save_pictures(trained, chosen.out, f"samples{of}-seed{chosen.seed}-{chosen.count}", rows, images)


def _fitted(chosen: argparse.Namespace) -> tuple[Trained, Fitted, str]:
    """Return the model, the mixture, and what it adds to the name of a file."""
    chosen.split = chosen.split or "train"
    trained, selection = run_arguments.opened(chosen)
    model = trained.model
    if not model.prior.is_normal:
        raise ConfigError(f"--from mixture: expected a model with a normal prior, that of {trained.source} is learned")
    components = chosen.components or fitted.COMPONENTS
    found = fitted.fit(model, selection.as_seen(model), components, chosen.seed, selection.conditions)
    return trained, found, f"-mixture{components}-{selection.slug}"


if __name__ == "__main__":
    sys.exit(main())
