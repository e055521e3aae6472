"""What training minimises: mean_b nll_b + beta * KL, with beta on a schedule and, if asked for, free bits.

One batch's way: x -> encoder -> stats -> z and kl -> decoder -> logits -> nll -> loss.
"""

from collections.abc import Callable

from torch import Tensor

from vae_fast.kernels import Elbo, kl_per_dimension, nll, sample_posterior, streams
from vae_fast.model import VAE


def objective(
    model: VAE,
    x: Tensor,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    beta: float | Tensor = 1.0,
    free_bits: float = 0.0,
    row_offset: int = 0,
    stream: int = streams.TRAINING,
    batch_mean: Callable[[Tensor], Tensor] | None = None,
) -> Elbo:
    """The loss of one batch, with its nll and KL per image, in nats.

    Args:
        model: the VAE.
        x: the images, [B, D] or [B, *input_shape], uint8 or float in [0, 1].
        seed, step, row_offset, stream: of the noise, as for `vae_fast.reparameterize`.
        beta: the weight of the KL term: a float, or 0-d.
        free_bits: lambda of Kingma et al. 2016 (Improving Variational Inference with Inverse Autoregressive Flow,
            appendix C.8), in nats: the KL term becomes sum_j max(lambda, mean_b kl_bj).
        batch_mean: where x is a part of the batch: the batch's means, from the means over x, for free_bits.

    Returns:
        Elbo(loss, nll, kl): loss 0-d, nll and kl [B], float32; kl is the true KL whatever free_bits says.
    """
    stats = model.stats(x)  # [B, 2 Z]
    z, kl = sample_posterior(stats, seed, step, row_offset=row_offset, stream=stream)  # [B, Z], [B]
    reconstruction = nll(model.decoder(z), x)  # [B]
    if free_bits == 0:
        return Elbo((reconstruction + beta * kl).mean(), reconstruction, kl)
    means = kl_per_dimension(*stats.chunk(2, dim=-1)).mean(0)  # [Z]
    pressed = (batch_mean(means) if batch_mean else means).clamp(min=free_bits).sum()
    return Elbo(reconstruction.mean() + beta * pressed, reconstruction, kl)
