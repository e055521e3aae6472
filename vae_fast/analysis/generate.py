"""What a trained VAE generates: images decoded from latents, reconstructions, and samples."""

from typing import Any

import torch
from torch import Tensor

from vae_fast.kernels import streams
from vae_fast.models.sizes import rows_at_once
from vae_fast.models.vae import VAE
from vae_fast.objectives.noise import standard_normal

QUANTILE_DRAWS = 4096


@torch.inference_mode()
def decode(model: VAE, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Decode latents [..., Z] to the likelihood's means: [..., *input_shape], float32 on the CPU.

    They are cut to [0, 1], but for a table's rows, which have its units.
    labels: int64 [...], or of any shape that broadcasts to that, if the VAE has classes.
    """
    mean, flat = model.likelihood.mean, z.reshape(-1, model.latent)
    rows = _batches(model, len(flat))
    given = _per_row(labels, z.shape[:-1])
    parts = [mean(model.decode(_on(model, flat[r]), _on(model, given, r))).float().cpu() for r in rows]
    values = torch.cat(parts)
    return (values if model.is_standardized else values.clamp(0, 1)).view(*z.shape[:-1], *model.input_shape)


@torch.inference_mode()
def means(model: VAE, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the posterior means of images [N, ...]: [N, Z] on the CPU, the latents that reconstructions decode.

    labels: int64 [N], if the VAE has classes.
    """
    rows = _batches(model, len(images))
    return torch.cat([model.encode(_on(model, images[r].flatten(1)), _on(model, labels, r))[0].cpu() for r in rows])


@torch.inference_mode()
def prior(model: VAE, count: int, seed: int) -> Tensor:
    """Draw from the prior: [count, Z] on the CPU; row i does not depend on `count`."""
    eps = standard_normal(count, model.latent, seed, 0, stream=streams.SAMPLING)
    mixture = model.mixture()
    if mixture is None:
        return eps
    chosen = components_of(mixture.log_weights, count, seed)
    return mixture.means.cpu()[chosen] + mixture.deviations.cpu()[chosen] * eps


def components_of(log_weights: Tensor, count: int, seed: int) -> Tensor:
    """Draw components of a mixture by their log weights [N]: int64 [count]; row i does not depend on `count`."""
    normal = standard_normal(count, 1, seed, 1, stream=streams.SAMPLING).flatten()
    ends = log_weights.double().exp().cumsum(0).cpu()
    return torch.searchsorted(ends, torch.special.ndtr(normal.double())).clamp(max=len(ends) - 1)


@torch.inference_mode()
def prior_mean(model: VAE) -> Tensor:
    """Return the mean of the prior, [Z] on the CPU."""
    mixture = model.mixture()
    return torch.zeros(model.latent) if mixture is None else (mixture.log_weights.exp() @ mixture.means).cpu()


def prior_quantiles(model: VAE, steps: int, outermost: float = 0.02) -> Tensor:
    """Return quantiles of the prior's dimensions, [Z, steps], at probabilities from `outermost` to 1 - `outermost`.

    Those of a mixture are those of QUANTILE_DRAWS draws.
    """
    probabilities = torch.linspace(outermost, 1 - outermost, steps, dtype=torch.float64)
    if model.prior.is_normal:
        values: Tensor = torch.special.ndtri(probabilities)
        return values.float().expand(model.latent, -1)
    return prior(model, QUANTILE_DRAWS, 0).quantile(probabilities.float(), dim=0).T


def sample(model: VAE, count: int, seed: int, labels: Tensor | None = None) -> Tensor:
    """Decode draws from `prior` to images [count, *input_shape]; labels as for `decode`."""
    return decode(model, prior(model, count, seed), labels)


def reconstruct(model: VAE, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """Decode the posterior means of images [N, ...] to images [N, *input_shape]; labels: int64 [N]."""
    return decode(model, means(model, images, labels), labels)


def _batches(model: VAE, count: int) -> list[slice]:
    size = rows_at_once(model)
    return [slice(start, start + size) for start in range(0, max(count, 1), size)]


def _per_row(labels: Tensor | None, shape: torch.Size) -> Tensor | None:
    return None if labels is None else labels.expand(shape).reshape(-1)


def _on(model: VAE, tensor: Tensor | None, rows: slice = slice(None)) -> Any:
    """Return rows of a tensor on the device of the model."""
    return None if tensor is None else tensor[rows].to(next(model.parameters()).device)
