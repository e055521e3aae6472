"""The state of a new model before its first step, beyond the weights that its layers begin with."""

from collections.abc import Callable

import torch
from torch import Tensor

from vae_fast.artifacts import checkpoint
from vae_fast.config import Config
from vae_fast.data.images import Pixels
from vae_fast.data.standardization import Standardization
from vae_fast.errors import RunError
from vae_fast.models.vae import VAE

TABLES = ("offset", "spread")  # of a table: they belong to the images


def initialize(model: VAE, config: Config, images: Pixels, standardization: Standardization | None) -> None:
    """Give the model what depends on the training images.

    images: [N, D], as the network sees them, in memory, on a device or in a file.
    """
    device = next(model.parameters()).device
    if standardization is not None:
        model.offset, model.spread = (t.to(device) for t in standardization)
    if config.prior == "vamp":
        generator = torch.Generator().manual_seed(config.seed)
        rows = torch.randint(len(images), (config.components,), generator=generator)
        model.prior.begin_from(torch.cat([images[row : row + 1].to(device) for row in rows.tolist()]))


def weights_from(path: str, model: VAE, say: Callable[[str], None]) -> dict[str, Tensor]:
    """Return the state of the model in `path`, whatever `vae_fast.load` takes, as one of `model`.

    If its prior is another, the model's own begins anew; the scales of a table stay those of this run's images. `say`
    gets a line on what is taken, and on other settings of the network than the weights have seen. Raises RunError for
    tensors of other names or shapes, naming the first.
    """
    found, ours = checkpoint.opened(path, say), model.state_dict()
    theirs = found.model.state_dict()
    begins = [name for name in ours if _is_priors(name) and not _fits(theirs.get(name), ours[name])]
    stays = [*begins, *(name for name in ours if name in TABLES)]
    for name in [*ours, *theirs]:
        if not _is_priors(name) and name not in TABLES and not _fits(theirs.get(name), ours.get(name)):
            raise RunError(
                f"init_from: {found.source} has {_shape(theirs, name)}, this model has {_shape(ours, name)}; "
                f"expected a model of the same structure"
            )
    say(f"weights: those of {found.source}" + (f"; the prior, {model.prior.title}, begins anew" if begins else ""))
    for name in sorted(set(model.hyperparameters) - {"prior", "components"}):
        before, now = found.model.hyperparameters.get(name), model.hyperparameters[name]
        if before != now:
            say(f"warning: those weights were trained with {name} {before}, this model has {now}")
    return {name: ours[name] if name in stays else theirs[name] for name in ours}


def _is_priors(name: str) -> bool:
    return name.startswith("prior.")


def _fits(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape


def _shape(state: dict[str, Tensor], name: str) -> str:
    return f"{name} {list(state[name].shape)}" if name in state else f"no {name}"
