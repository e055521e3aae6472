"""What a trained VAE generates: images decoded from latents, reconstructions, and samples."""

import torch
from torch import Tensor

from vae_fast.kernels import streams
from vae_fast.models.vae import VAE
from vae_fast.objectives.priors import standard_normal

BATCH = 1000


@torch.inference_mode()
def decode(model: VAE, z: Tensor) -> Tensor:
    """Decode latents [..., Z] to the likelihood's means, cut to [0, 1]: [..., *input_shape], float32 on the CPU."""
    device = next(model.parameters()).device
    mean = model.likelihood.mean
    parts = [mean(model.decode(part.to(device))).float().cpu() for part in z.reshape(-1, model.latent).split(BATCH)]
    return torch.cat(parts).clamp(0, 1).view(*z.shape[:-1], *model.input_shape)


@torch.inference_mode()
def means(model: VAE, images: Tensor) -> Tensor:
    """Return the posterior means of images [N, ...]: [N, Z] on the CPU, the latents that reconstructions decode."""
    device = next(model.parameters()).device
    return torch.cat([model.encode(part.flatten(1).to(device))[0].cpu() for part in images.split(BATCH)])


def prior(model: VAE, count: int, seed: int) -> Tensor:
    """Draw from N(0, I): [count, Z]; row i does not depend on `count`."""
    return standard_normal(count, model.latent, seed, 0, stream=streams.SAMPLING)


def sample(model: VAE, count: int, seed: int) -> Tensor:
    """Decode draws from `prior` to images [count, *input_shape]."""
    return decode(model, prior(model, count, seed))


def reconstruct(model: VAE, images: Tensor) -> Tensor:
    """Decode the posterior means of images [N, ...] to images [N, *input_shape]."""
    return decode(model, means(model, images))
