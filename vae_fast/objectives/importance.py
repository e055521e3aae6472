"""The log-likelihood log p(x) of held-out images, in nats, estimated by importance sampling from the posterior.

log p(x) ~ log 1/K sum_k w_k,  w_k = p(x | z_k) p(z_k) / q(z_k | x),  z_k ~ q(z | x)

The estimate's expectation is a lower bound of log p(x), equal to the ELBO for K = 1, and approaches log p(x) as K grows
(Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, ICLR 2016, section 3).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vae_fast.data.images import Pixels
from vae_fast.kernels import streams
from vae_fast.models.prior import log_density
from vae_fast.models.sizes import layer_sizes
from vae_fast.models.vae import VAE
from vae_fast.objectives.noise import log_posterior, standard_normal

LAYER_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}  # the most bytes for the outputs of a layer, or for a draw of noise
BLOCK = 64  # samples of an image whose noise is drawn at once
DECODES = 512  # approximate number of decoder calls for a batch of images: a second on a CPU


@torch.inference_mode()
def log_likelihoods(
    model: VAE,
    images: Pixels,
    samples: int,
    seed: int,
    *,
    labels: Tensor | None = None,
    first: int = 0,
) -> Iterator[Tensor]:
    """Yield the estimates of one batch of images after another; memory does not grow with K or N.

    Args:
        model: the VAE.
        images: [N, D], uint8 or float in [0, 1], in memory, on a device or in a file.
        samples: K, the exact number of samples of each image.
        seed: the seed of the noise. Sample k of image i has the noise of (seed, step k // 64, row i) from column
            (k % 64) Z on: it does not depend on the batches, and the first sample is the one of the test loss.
        labels: int64 [N], if the VAE has classes.
        first: the index of the image to start or continue from.

    Yields:
        float64 [b] on the CPU, in nats.

    Raises ValueError for fewer than one sample.
    """
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples!r}")
    device, mixture = next(model.parameters()).device, model.mixture()
    numbers = LAYER_BYTES[device.type] // 4
    rows = max(1, numbers // max(layer_sizes(model)["decoder"]))  # rows that the decoder processes at once
    drawn = max(1, numbers // (BLOCK * model.latent))  # images for which one block of noise is drawn at once
    batch = min(drawn, max(1, rows // BLOCK, min(rows, rows * DECODES // samples)))
    for start in range(first, len(images), batch):
        x = images[start : start + batch].to(device)
        y = None if labels is None else labels[start : start + batch].to(device)
        mu, logvar = model.stats(x, y).chunk(2, dim=-1)  # once per image
        total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=device)
        for noise in _noise(samples, len(x), model.latent, seed, start, max(1, rows // len(x)), device):
            z = mu + (0.5 * logvar).exp() * noise  # [S, b, Z]
            logits = model.logits(z.flatten(0, 1), None if y is None else y.repeat(len(z)))  # [S b, D]
            reconstruction = model.likelihood.nll(logits, x.repeat(len(z), 1))
            prior_over_posterior = log_density(z, mixture) - log_posterior(noise, logvar)  # [S, b]
            weights = prior_over_posterior - reconstruction.view_as(prior_over_posterior)
            total = torch.logaddexp(total, weights.double().logsumexp(0))
        yield (total - math.log(samples)).cpu()


def _noise(
    samples: int, count: int, latent: int, seed: int, first: int, together: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield standard normal noise [S, count, latent], with S up to `together`, for `samples` samples in all."""
    for step in range(-(-samples // BLOCK)):
        block = standard_normal(
            count, BLOCK * latent, seed, step, row_offset=first, stream=streams.EVALUATION, device=device
        )
        wanted = block.view(count, BLOCK, latent).transpose(0, 1)[: samples - step * BLOCK]
        yield from wanted.split(together)
