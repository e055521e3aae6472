"""The training objective: mean_b nll_b + beta * KL, with beta on a schedule and, if asked for, free bits.

The path of a batch: x -> encoder -> stats -> z and kl -> decoder -> logits -> nll -> loss. `objective` is the
definition; `forward` and `backward` compute the same and its gradients, for a training step: the gradient that a
backward pass starts from is known in advance, so that the loss itself need not be differentiated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor, autograd

from vae_fast.kernels import (
    Elbo,
    Rates,
    Terms,
    kl_per_dimension,
    sample_posterior,
    sample_posterior_gradient,
    streams,
)
from vae_fast.models.likelihood import Likelihood
from vae_fast.models.prior import log_density
from vae_fast.models.vae import VAE
from vae_fast.objectives.noise import log_posterior, standard_normal


def objective(
    model: VAE,
    x: Tensor,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    labels: Tensor | None = None,
    beta: float | Tensor = 1.0,
    free_bits: float = 0.0,
    row_offset: int | Tensor = 0,
    stream: int = streams.TRAINING,
) -> Elbo:
    """Return the loss of one batch, with its nll and KL per image, in nats.

    Args:
        model: the VAE.
        x: the images, [B, D] or [B, *input_shape], uint8 or float in [0, 1].
        seed, step, row_offset, stream: select the noise, as for `vae_fast.reparameterize`.
        labels: int64 [B], if the VAE has classes.
        beta: the weight of the KL term: a float, or a 0-d tensor.
        free_bits: lambda of Kingma et al. 2016 (Improving Variational Inference with Inverse Autoregressive Flow,
            appendix C.8), in nats, with a normal prior: the KL term becomes sum_j max(lambda, mean_b kl_bj).

    Returns:
        Elbo(loss, nll, kl): loss 0-d, nll and kl [B], float32; kl is the true KL whatever the value of free_bits, and
        under a mixture its estimate by the sample, log q(z | x) - log p(z).
    """
    stats = model.stats(x, labels)  # [B, 2 Z]
    mixture = model.mixture()
    if mixture is None:
        z, kl = sample_posterior(stats, seed, step, row_offset=row_offset, stream=stream)  # [B, Z], [B]
    else:
        mu, logvar = stats.float().chunk(2, dim=-1)
        rows, columns = mu.shape
        eps = standard_normal(rows, columns, seed, step, row_offset=row_offset, stream=stream, device=mu.device)
        z = mu + (0.5 * logvar).exp() * eps
        kl = log_posterior(eps, logvar) - log_density(z, mixture)
    reconstruction = model.likelihood.nll(model.logits(z, labels), x)  # [B]
    if free_bits == 0:
        return Elbo((reconstruction + beta * kl).mean(), reconstruction, kl)
    pressed = kl_per_dimension(*stats.chunk(2, dim=-1)).mean(0).clamp(min=free_bits).sum()
    return Elbo(reconstruction.mean() + beta * pressed, reconstruction, kl)


class Noise(NamedTuple):
    """The arguments that select a batch's noise, as for `vae_fast.reparameterize`."""

    seed: Tensor
    step: Tensor
    row_offset: int


class Pass(NamedTuple):
    """The results of a forward pass for the backward pass: stats [B, 2 Z], z [B, Z], a leaf, kl [B], logits [B, D]."""

    stats: Tensor
    z: Tensor
    kl: Tensor
    logits: Tensor


Learned = tuple[Terms, tuple[Tensor, ...]]  # the losses of some images, and the gradients by the parameters


class Backward(Protocol):
    """The backward pass of an objective: `backward` below, or another's with the same arguments.

    done: what the objective's forward pass returned.
    """

    def __call__(
        self,
        model: VAE,
        likelihood: Likelihood,
        x: Tensor,
        noise: Noise,
        done: Any,
        rates: Rates,
        scale: Tensor,
        *,
        images: int,
    ) -> Learned: ...


def forward(model: VAE, x: Tensor, noise: Noise, labels: Tensor | None = None) -> Pass:
    """Run images [B, D] (and labels [B]) through the encoder and the decoder, which are differentiated separately."""
    stats = model.stats(x, labels)
    z, kl = sample_posterior(stats.detach(), noise.seed, noise.step, row_offset=noise.row_offset)
    z.requires_grad_()
    return Pass(stats, z, kl, model.logits(z, labels))


def backward(
    model: VAE,
    likelihood: Likelihood,
    x: Tensor,
    noise: Noise,
    done: Pass,
    rates: Rates,
    scale: Tensor,
    *,
    images: int,
    free_bits: float = 0.0,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Learned:
    """Return the losses of `objective`, and the gradients of its loss, times `scale`, by the model's parameters.

    Args:
        model, x, noise: the arguments that `forward` was given.
        likelihood: the model's, or in mixed precision that of the model in float32.
        done: what `forward` returned.
        rates: only beta is used.
        scale: 0-d float32, the factor on the gradients.
        images: the number of images in the whole batch; x may be a part of it, and the gradients of all parts then sum
            to the batch's.
        free_bits: as for `objective`.
        total: returns the sum, over the parts of the batch, of a tensor that each part has; None if there is one part.

    Returns the terms over x, and the gradients in the order of the parameters and in the dtypes of the matrix products.
    """
    weight = scale / images
    reconstruction, by_logits, of_likelihood = likelihood.nll_with_gradient(done.logits, x, weight)
    kl_weight, penalty = weight * rates.beta, None
    if free_bits > 0:
        sums = kl_per_dimension(*done.stats.detach().chunk(2, dim=-1)).sum(0)  # [Z]
        means = (sums if total is None else total(sums)) / images
        kl_weight = kl_weight * (means >= free_bits)
        penalty = means.clamp(min=free_bits).sum()
    by_z, *of_decoder = gradients_of(done.logits, [done.z, *model.decoder.parameters()], by_logits)
    seed, step, row_offset = noise
    by_stats = sample_posterior_gradient(by_z, kl_weight, done.stats, seed, step, row_offset=row_offset)
    of_encoder = gradients_of(done.stats, list(model.encoder.parameters()), by_stats)
    return Terms(reconstruction, done.kl, penalty), (*of_encoder, *of_decoder, *of_likelihood)


def gradients_of(
    outputs: Tensor | list[Tensor], inputs: list[Tensor], by_outputs: Tensor | list[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Return the gradients by `inputs`, zeros for one that the outputs do not depend on; a scalar's start from 1."""
    return autograd.grad(outputs, inputs, by_outputs, allow_unused=True, materialize_grads=True)
