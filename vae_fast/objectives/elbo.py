"""What training minimises: mean_b nll_b + beta * KL, with beta on a schedule and, if asked for, free bits.

One batch's way: x -> encoder -> stats -> z and kl -> decoder -> logits -> nll -> loss. `objective` is the definition;
`forward` and `backward` are the same with its gradients, for a training step: what a backward pass begins with is known
beforehand, so that the loss itself need not be differentiated.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, autograd

from vae_fast.kernels import (
    Elbo,
    Rates,
    Terms,
    kl_per_dimension,
    nll,
    nll_with_gradient,
    sample_posterior,
    sample_posterior_gradient,
    streams,
)
from vae_fast.models.vae import VAE


def objective(
    model: VAE,
    x: Tensor,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    beta: float | Tensor = 1.0,
    free_bits: float = 0.0,
    row_offset: int | Tensor = 0,
    stream: int = streams.TRAINING,
) -> Elbo:
    """The loss of one batch, with its nll and KL per image, in nats.

    Args:
        model: the VAE.
        x: the images, [B, D] or [B, *input_shape], uint8 or float in [0, 1].
        seed, step, row_offset, stream: of the noise, as for `vae_fast.reparameterize`.
        beta: the weight of the KL term: a float, or 0-d.
        free_bits: lambda of Kingma et al. 2016 (Improving Variational Inference with Inverse Autoregressive Flow,
            appendix C.8), in nats: the KL term becomes sum_j max(lambda, mean_b kl_bj).

    Returns:
        Elbo(loss, nll, kl): loss 0-d, nll and kl [B], float32; kl is the true KL whatever free_bits says.
    """
    stats = model.stats(x)  # [B, 2 Z]
    z, kl = sample_posterior(stats, seed, step, row_offset=row_offset, stream=stream)  # [B, Z], [B]
    reconstruction = nll(model.decoder(z), x, likelihood=model.likelihood.name)  # [B]
    if free_bits == 0:
        return Elbo((reconstruction + beta * kl).mean(), reconstruction, kl)
    pressed = kl_per_dimension(*stats.chunk(2, dim=-1)).mean(0).clamp(min=free_bits).sum()
    return Elbo(reconstruction.mean() + beta * pressed, reconstruction, kl)


class Noise(NamedTuple):
    """Where a batch's noise comes from, as for `vae_fast.reparameterize`."""

    seed: Tensor
    step: Tensor
    row_offset: int


class Pass(NamedTuple):
    """What a forward pass leaves for the backward pass: stats [B, 2 Z], z [B, Z], a leaf, kl [B], logits [B, D]."""

    stats: Tensor
    z: Tensor
    kl: Tensor
    logits: Tensor


def forward(model: VAE, x: Tensor, noise: Noise) -> Pass:
    """Images [B, D] through encoder and decoder, each of which is differentiated by itself."""
    stats = model.stats(x)
    z, kl = sample_posterior(stats.detach(), noise.seed, noise.step, row_offset=noise.row_offset)
    z.requires_grad_()
    return Pass(stats, z, kl, model.decoder(z))


def backward(
    model: VAE,
    x: Tensor,
    noise: Noise,
    done: Pass,
    rates: Rates,
    scale: Tensor,
    *,
    images: int,
    free_bits: float = 0.0,
    total: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Terms, tuple[Tensor, ...]]:
    """The losses of `objective`, and the gradients of its loss, times `scale`, by the model's parameters.

    Args:
        model, x, noise: as `forward` was given them; done: what it gave.
        rates: beta counts.
        scale: 0-d float32.
        images: of the whole batch; x may be a part of it, whose gradients then are a part of the batch's.
        free_bits: as for `objective`.
        total: the sum over the parts of the batch, of a tensor that every part has; None where there is one part.

    Returns the terms over x, and the gradients in the parameters' order and the dtypes that the products give them.
    """
    weight = scale / images
    losses = nll_with_gradient(done.logits, x, weight)
    kl_weight, penalty = weight * rates.beta, None
    if free_bits > 0:
        sums = kl_per_dimension(*done.stats.detach().chunk(2, dim=-1)).sum(0)  # [Z]
        means = (sums if total is None else total(sums)) / images
        kl_weight = kl_weight * (means >= free_bits)
        penalty = means.clamp(min=free_bits).sum()
    by_z, *of_decoder = autograd.grad(done.logits, [done.z, *model.decoder.parameters()], losses.gradient)
    seed, step, row_offset = noise
    by_stats = sample_posterior_gradient(by_z, kl_weight, done.stats, seed, step, row_offset=row_offset)
    of_encoder = autograd.grad(done.stats, list(model.encoder.parameters()), by_stats)
    return Terms(losses.nll, done.kl, penalty), (*of_encoder, *of_decoder)
