"""The construction of a new model from the settings."""

from collections.abc import Sequence

import torch

from vae_fast.config import Config
from vae_fast.models.vae import VAE


def new_model(config: Config, input_shape: Sequence[int], classes: int = 0) -> VAE:
    """Return a VAE initialised on the CPU from the seed alone, whatever the device and the global generator's state.

    classes: the number of classes of the labels, which a conditional VAE needs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return VAE(
            input_shape,
            config.hidden,
            config.latent,
            config.activation,
            config.likelihood,
            config.scale,
            config.network,
            config.options,
            classes,
            config.standardize,
            config.prior,
            config.components,
        )
