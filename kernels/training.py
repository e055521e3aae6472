"""Operators for a training step: those that know their gradient beforehand, and the density of a learned prior.

The loss is a mean: its gradient by each image's nll is 1 / B, and by its KL beta / B, both times the loss scale.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks, reference, transforms
from .dispatch import IMPLEMENTATIONS, chosen
from .functional import random_bits


class NllWithGradient(NamedTuple):
    """`nll`, [B], in nats per image; its gradients by the logits and by the log of the scale, in their shapes."""

    nll: Tensor
    gradient: Tensor
    scale_gradient: Tensor | None = None


def nll_with_gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    likelihood: str = "bernoulli",
    log_scale: Tensor | None = None,
    impl: str = "auto",
) -> NllWithGradient:
    """Compute nll_b = -sum_d log p(x_bd | z_b) and the gradients of weight sum_b nll_b by the logits and the scale.

    Args:
        logits, target, likelihood: as for `elbo_loss`; no gradient flows back into any tensor.
        weight: 0-d float32 on the same device.
        log_scale: the log of the scale, [] or [D], for the likelihoods that have one.
        impl: as for `elbo_loss`.

    Returns:
        NllWithGradient(nll, gradient, scale_gradient): [B], float32 (float64 if any floating input is); the logits'
        shape and dtype; the shape and dtype of log_scale, None without it.

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available, or not for these.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013; those of the likelihoods are in reference.py.
    """
    checks.images(logits, target)
    checks.one_of("likelihood", likelihood, tuple(reference.LIKELIHOODS))
    checks.one_of("impl", impl, IMPLEMENTATIONS)
    checks.weight("weight", weight, logits, ((),))
    scale = checks.log_scale(log_scale, likelihood, logits, target)
    logits, target, scale = logits.detach(), target.detach(), None if scale is None else scale.detach()
    wanted = chosen("nll_with_gradient", impl, logits, target, scale)
    if wanted == "triton":
        value, by_logits, by_scale = torch.ops.vae_fast.nll_with_gradient(logits, target, weight, scale, likelihood)
    elif wanted == "cpp":
        value = torch.ops.vae_fast.nll(logits, target, scale, likelihood)
        each = weight.expand(len(logits))
        by_logits, by_scale = torch.ops.vae_fast.nll_backward(each, logits, target, scale, likelihood)
    else:
        return NllWithGradient(*reference.nll_with_gradient(logits, target, weight, likelihood, scale))
    return NllWithGradient(value, by_logits, None if scale is None else by_scale)


def sample_posterior_gradient(
    grad_z: Tensor,
    kl_weight: Tensor,
    stats: Tensor,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    row_offset: int = 0,
    stream: int = 0,
    impl: str = "auto",
) -> Tensor:
    """Compute a loss's gradient by an encoder's output from its gradients by the z and KL of `sample_posterior`.

    Args:
        grad_z: [B, Z] or [B, C, ...], the loss's gradient by z; floating.
        kl_weight: its gradient by the KL of each image, 0-d float32, or by the KL of each image and dimension, of z's
            shape without the batch.
        stats, seed, step, row_offset, stream, impl: as passed to `sample_posterior`; the noise is drawn again.

    Returns:
        [B, 2 Z] or [B, 2 C, ...], of stats' dtype; no gradient flows back.

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available, or not for these.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013, section 2.4 and appendix B.
    """
    checks.stats(stats)
    checks.floating("grad_z", grad_z)
    checks.on_device("grad_z", grad_z, stats.device)
    checks.count("row_offset", row_offset)
    checks.count("stream", stream, bits=32)
    latent = (stats.shape[1] // 2, *stats.shape[2:])
    if grad_z.shape != (stats.shape[0], *latent):
        raise ValueError(f"grad_z: expected {[stats.shape[0], *latent]}, got {list(grad_z.shape)}")
    checks.weight("kl_weight", kl_weight, stats, ((), latent))
    checks.one_of("impl", impl, IMPLEMENTATIONS)
    if stats.dim() > 2:
        flat = grad_z.flatten(1), kl_weight.flatten() if kl_weight.dim() else kl_weight, stats.flatten(1)
        of_flat = sample_posterior_gradient(*flat, seed, step, row_offset=row_offset, stream=stream, impl=impl)
        return of_flat.view(stats.shape)
    rows, columns = stats.shape
    seed, step = checks.counter("seed", seed, stats.device), checks.counter("step", step, stats.device)
    grad_z, stats = grad_z.detach(), stats.detach()
    wanted = chosen("sample_posterior_gradient", impl, stats, grad_z)
    noise = (seed, step, row_offset, stream)
    gradient: Tensor
    if wanted == "triton":
        gradient = torch.ops.vae_fast.sample_posterior_gradient(grad_z, kl_weight, stats, *noise)
    elif wanted == "cpp" and kl_weight.dim() == 0:
        gradient = torch.ops.vae_fast.sample_posterior_backward(grad_z, kl_weight.expand(rows), stats, *noise)
    elif wanted == "cpp":  # its kernel takes a weight per image; the gradient of a KL per dimension is added in float32
        exact = stats.float()
        by_z = torch.ops.vae_fast.sample_posterior_backward(grad_z.float(), None, exact, *noise)
        mu, logvar = exact.chunk(2, dim=1)
        by_kl = torch.cat((kl_weight * mu, 0.5 * kl_weight * (logvar.exp() - 1)), dim=1)
        gradient = (by_z + by_kl).to(stats.dtype)
    else:
        pairs = columns // 2 + columns // 2 % 2
        bits = random_bits(rows, pairs, seed, step, row_offset=row_offset, stream=stream, impl=impl)
        gradient = reference.sample_posterior_gradient(grad_z, kl_weight, stats, bits)
    return gradient


def mixture_log_density(z: Tensor, stats: Tensor, log_weights: Tensor, *, impl: str = "auto") -> Tensor:
    """Return log sum_n w_n N(z_b; m_n, diag(s_n^2)), [B], in nats; differentiable in all arguments, once.

    Args:
        z: [B, Z].
        stats: [N, 2 Z], the means m_n, then the log variances.
        log_weights: [N], of weights that sum to 1.
        impl: "auto", "reference", or "cpp" on a CPU.

    Returns:
        float32, or float64 if any input is; accumulated in that dtype.

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available, or not for these.

    Source: Tomczak and Welling, VAE with a VampPrior, AISTATS 2018, equation 9, whose normals are posteriors.
    """
    checks.mixture(z, stats, log_weights)
    checks.one_of("impl", impl, IMPLEMENTATIONS)
    is_cpp = chosen("mixture_log_density", impl, z, stats, log_weights) == "cpp"
    if transforms.active():
        return reference.mixture_log_density(z, stats, log_weights)
    # PyTorch declares no types for `apply`.
    value: Tensor = _MixtureLogDensity.apply(z, stats, log_weights, is_cpp)[0]  # type: ignore[no-untyped-call]
    return value


class _MixtureLogDensity(torch.autograd.Function):
    """Keeps [B, N] for the backward pass, where autograd would keep [B, N, Z]."""

    @staticmethod
    def forward(z: Tensor, stats: Tensor, log_weights: Tensor, is_cpp: bool) -> tuple[Tensor, Tensor]:
        joint_of = torch.ops.vae_fast.mixture_joint if is_cpp else reference.mixture_joint
        joint = joint_of(z, stats, log_weights)
        return joint.logsumexp(1), joint

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        z, stats, log_weights, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(z, stats, output[1])
        ctx.weights_dtype = log_weights.dtype

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        by_z, by_stats, by_weights = reference.mixture_gradient(grad, *ctx.saved_tensors)
        return by_z, by_stats, by_weights.to(ctx.weights_dtype), None
