"""vae_fast: a compiled training engine for Variational Autoencoders.

The names below are the public interface. They load on first use, so `import vae_fast` costs nothing: no PyTorch,
no Triton, no device query.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae_fast._version import __version__ as __version__

# Only while python -m vae_fast.COMMAND or python -m vae_fast COMMAND is being located, whose imports take seconds; not
# for other importers.
if sys.argv[:1] == ["-m"] and any(word.partition(".")[0] == "vae_fast" for word in sys.orig_argv):
    from vae_fast.runtime.signals import end_quietly_before

    end_quietly_before("anything began")

_HOME = {
    "VAE": "vae_fast.models.vae",
    "reparameterize": "vae_fast.kernels",
    "elbo_loss": "vae_fast.kernels",
    "kl_per_dimension": "vae_fast.kernels",
    "load_images": "vae_fast.data.dataset",
    "load": "vae_fast.artifacts.checkpoint",
    "Config": "vae_fast.config",
    "fit": "vae_fast.train",
    "Trained": "vae_fast.analysis.trained",
}

__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from vae_fast.analysis.trained import Trained as Trained
    from vae_fast.artifacts.checkpoint import load as load
    from vae_fast.config import Config as Config
    from vae_fast.data.dataset import load_images as load_images
    from vae_fast.kernels import elbo_loss as elbo_loss
    from vae_fast.kernels import kl_per_dimension as kl_per_dimension
    from vae_fast.kernels import reparameterize as reparameterize
    from vae_fast.models.vae import VAE as VAE
    from vae_fast.train import fit as fit


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vae_fast' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
