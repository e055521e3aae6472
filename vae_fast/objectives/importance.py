"""log p(x) of images held out, estimated by importance sampling from the posterior, in nats.

log p(x) ~ log 1/K sum_k w_k,  w_k = p(x | z_k) p(z_k) / q(z_k | x),  z_k ~ q(z | x)

Its expectation is a lower bound of log p(x), the ELBO for K = 1, and rises to it with K (Burda, Grosse, Salakhutdinov:
Importance Weighted Autoencoders, ICLR 2016, section 3).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vae_fast.data.images import Pixels
from vae_fast.kernels import nll, streams
from vae_fast.models.vae import VAE
from vae_fast.objectives.priors import standard_normal

LAYER_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}  # bytes that a layer's outputs may take, or a draw of noise
BLOCK = 64  # samples of an image whose noise is drawn at once
DECODES = 512  # calls of the decoder for a batch of images, about: a second on a CPU


@torch.inference_mode()
def log_likelihoods(
    model: VAE,
    images: Pixels,
    samples: int,
    seed: int,
    *,
    likelihood: str | None = None,
    log_scale: float | Tensor | None = None,
    first: int = 0,
) -> Iterator[Tensor]:
    """The estimates of one batch of images after another, from image `first` on; memory does not grow with K or N.

    Args:
        model: the VAE.
        images: [N, D], uint8 or float in [0, 1], wherever they are.
        samples: K, of each image, exactly.
        seed: of the noise. Sample k of image i has the noise of (seed, step k // 64, row i) from column (k % 64) Z on:
            it does not depend on the batches, and the first sample is the one of the test loss.
        likelihood, log_scale: as for `vae_fast.elbo_loss`; None for the model's.
        first: the image to go on with.

    Yields:
        float64 [b] on the CPU, in nats.

    Raises ValueError for fewer samples than one.
    """
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples!r}")
    likelihood = likelihood or model.likelihood.name
    device = next(model.parameters()).device
    numbers = LAYER_BYTES[device.type] // 4
    rows = max(1, numbers // model.decoder.widest)  # of the decoder, at once
    drawn = max(1, numbers // (BLOCK * model.latent))  # images, a block of whose noise is there at once
    batch = min(drawn, max(1, rows // BLOCK, min(rows, rows * DECODES // samples)))
    for start in range(first, len(images), batch):
        x = images[start : start + batch].to(device)
        mu, logvar = model.stats(x).chunk(2, dim=-1)  # once an image
        total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=device)
        for noise in _noise(samples, len(x), model.latent, seed, start, max(1, rows // len(x)), device):
            z = mu + (0.5 * logvar).exp() * noise  # [S, b, Z]
            logits = model.decoder(z.flatten(0, 1))  # [S b, D]
            reconstruction = nll(logits, x.repeat(len(z), 1), likelihood=likelihood, log_scale=log_scale)
            prior_over_posterior = 0.5 * (logvar + noise.square() - z.square()).sum(-1)  # [S, b]
            weights = prior_over_posterior - reconstruction.view_as(prior_over_posterior)
            total = torch.logaddexp(total, weights.double().logsumexp(0))
        yield (total - math.log(samples)).cpu()


def _noise(
    samples: int, count: int, latent: int, seed: int, first: int, together: int, device: torch.device
) -> Iterator[Tensor]:
    """Standard normal [S, count, latent] with S up to `together`, until there were `samples`."""
    for step in range(-(-samples // BLOCK)):
        block = standard_normal(
            count, BLOCK * latent, seed, step, row_offset=first, stream=streams.EVALUATION, device=device
        )
        wanted = block.view(count, BLOCK, latent).transpose(0, 1)[: samples - step * BLOCK]
        yield from wanted.split(together)
