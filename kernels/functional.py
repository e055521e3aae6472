"""The public operators: they check their arguments and call the implementation that dispatch.py chooses."""

from typing import NamedTuple

import torch
from torch import Tensor

from . import checks, philox, reference
from .dispatch import IMPLEMENTATIONS, chosen

_LIKELIHOODS = tuple(reference.LIKELIHOODS)


class Elbo(NamedTuple):
    """The negative ELBO: `loss`, which training minimises, and its terms `nll` and `kl`, [B], in nats per image."""

    loss: Tensor
    nll: Tensor
    kl: Tensor


class PosteriorSample(NamedTuple):
    """A sample `z`, [B, Z] or [B, C, ...], of the posterior, and its divergence from the prior, `kl` [B], in nats."""

    z: Tensor
    kl: Tensor


def random_bits(
    rows: int,
    columns: int,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    row_offset: int = 0,
    stream: int = 0,
    impl: str = "auto",
    device: torch.device | str | None = None,
) -> Tensor:
    """Return 32 random bits for each of `rows` x `columns` positions: Philox4x32-10, a pure function of its arguments.

    Args:
        rows, columns: the shape. Column j of row r has counter (j // 4, row_offset + r, step mod 2^32, stream).
        seed, step: ints, or 0-d int64 tensors on one device; 0 <= seed < 2^63.
        row_offset: added to the row's index, so that parts of a batch draw the same bits as the whole batch.
        stream: separates uses: 0 training, 1 evaluation, 2 sampling, 3 binarization, 4 shuffle; 16 and up are yours.
        impl: "auto", "reference", "triton" (on a GPU), or "cpp" (on a CPU, where the library is built); all yield the
            same integers.
        device: the device of the result when seed and step are ints; the CPU by default.

    Returns:
        int64 [rows, columns], values in [0, 2^32).

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
    """
    if isinstance(seed, Tensor):
        device = seed.device
    elif isinstance(step, Tensor):
        device = step.device
    elif device is None:
        device = "cpu"  # regardless of torch.set_default_device
    seed, step = checks.counter("seed", seed, device), checks.counter("step", step, device)
    checks.count("rows", rows)
    checks.count("columns", columns)
    checks.count("row_offset", row_offset)
    checks.count("stream", stream, bits=32)
    checks.one_of("impl", impl, IMPLEMENTATIONS)
    if chosen("random_bits", impl, seed) != "reference":
        bits: Tensor = torch.ops.vae_fast.random_bits.default(seed, step, rows, columns, row_offset, stream)
        return bits
    return philox.random_bits(rows, columns, seed, step, row_offset, stream)


def reparameterize(
    mu: Tensor,
    logvar: Tensor,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    row_offset: int = 0,
    stream: int = 0,
    impl: str = "auto",
) -> Tensor:
    """Draw z = mu + exp(logvar / 2) * eps with noise that is a pure function of (seed, step, row, column, stream).

    No generator is involved: the same arguments give the same z, on any device, for any split of the batch.

    Args:
        mu, logvar: [..., Z], the same shape and device; float32, float16, bfloat16 or float64. Leading dimensions are
            flattened into rows.
        seed, step: ints, or 0-d int64 tensors on the same device; 0 <= seed < 2^63, step counts training steps from 0.
            A tensor must keep its value until the backward pass, which draws the noise again. Under torch.func.vmap
            every sample has the same rows, and so the same noise, unless seed or step is mapped too.
        row_offset: the index of the first row in the global batch.
        stream: separates uses: 0 training, 1 evaluation, 2 sampling, 3 binarization, 4 shuffle; 16 and up are yours.
        impl: "auto", "reference", "triton" (on a GPU), or "cpp" (on a CPU, where the library is built); neither of the
            last two accepts float64. All agree within float32's rounding. "triton" and "cpp" have first derivatives
            only, and only through backward(): a second derivative, torch.func.grad, jvp and forward mode raise; pass
            impl="reference" for those. "auto" chooses one of the two where possible, and the reference within
            torch.func and forward mode.

    Returns:
        z, [..., Z], of the promoted dtype of mu and logvar; computed in float32, or in float64 if either is float64.
        Differentiable in mu and logvar; each gradient has its input's dtype.

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available, or not for these.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013, section 2.4; noise: `random_bits`.
    """
    checks.floating("mu", mu)
    checks.floating("logvar", logvar)
    if mu.dim() == 0 or mu.shape != logvar.shape:
        raise ValueError(
            f"mu and logvar: expected the same shape [..., Z], got {list(mu.shape)} and {list(logvar.shape)}"
        )
    device = mu.device
    checks.on_device("logvar", logvar, device)
    seed, step = checks.counter("seed", seed, device), checks.counter("step", step, device)
    checks.count("row_offset", row_offset)
    checks.count("stream", stream, bits=32)
    checks.one_of("impl", impl, IMPLEMENTATIONS)
    if chosen("reparameterize", impl, mu, logvar) != "reference":
        if mu.dtype != logvar.dtype:
            dtype = torch.promote_types(mu.dtype, logvar.dtype)
            mu, logvar = mu.to(dtype), logvar.to(dtype)
        z: Tensor = torch.ops.vae_fast.reparameterize.default(mu, logvar, seed, step, row_offset, stream)
        return z
    rows, latent = mu.shape[:-1].numel(), mu.shape[-1]
    return reference.reparameterize(mu, logvar, _bits(rows, latent, seed, step, row_offset, stream, impl))


def sample_posterior(
    stats: Tensor,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    row_offset: int | Tensor = 0,
    stream: int = 0,
    impl: str = "auto",
) -> PosteriorSample:
    """Draw z as `reparameterize` does and compute the KL term of `elbo_loss`, reading an encoder's output only once.

    z = mu + exp(logvar / 2) * eps and kl_b = -1/2 sum_j (1 + logvar - mu^2 - e^logvar), the sum taken in float32, or in
    float64 for stats in float64. One gradient, by stats, covers both results.

    Args:
        stats: [B, 2 Z], mu in the first half of the columns and logvar in the second, or [B, 2 C, ...], in halves of
            the channels; float32, float16, bfloat16 or float64. Large logvar is not clamped: e^logvar overflows float32
            at 88.7, and kl is then inf.
        seed, step: ints, or 0-d int64 tensors on the same device; 0 <= seed < 2^63, step counts training steps from 0.
            A tensor must keep its value until the backward pass, which draws the noise again. Under torch.func.vmap
            every sample has the same rows, and so the same noise, unless seed or step is mapped too.
        row_offset: the index of the first row in the global batch: an int; or, without gradients, a 0-d int64 tensor on
            the same device, so that a replayed graph can advance from batch to batch.
        stream: separates uses: 0 training, 1 evaluation, 2 sampling, 3 binarization, 4 shuffle; 16 and up are yours.
        impl: as for `reparameterize`; z and kl of "triton" and "cpp" share one node of the autograd graph, so that
            separate backward passes through the two need retain_graph=True.

    Returns:
        PosteriorSample(z, kl): z [B, Z] or [B, C, ...] in stats' dtype, with the noise that `reparameterize` draws for
        mu flattened to [B, Z]; kl [B] in float32, or float64 for stats in float64. Both are differentiable in stats,
        with a gradient of its dtype; if only one of them is used the other contributes nothing.

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available, or not for these.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013, section 2.4 and appendix B.
    """
    checks.stats(stats)
    if stats.dim() > 2:
        z, kl = sample_posterior(stats.flatten(1), seed, step, row_offset=row_offset, stream=stream, impl=impl)
        return PosteriorSample(z.view(stats.shape[0], stats.shape[1] // 2, *stats.shape[2:]), kl)
    device = stats.device
    seed, step = checks.counter("seed", seed, device), checks.counter("step", step, device)
    checks.count("stream", stream, bits=32)
    checks.one_of("impl", impl, IMPLEMENTATIONS)
    if isinstance(row_offset, Tensor):
        return _sample_posterior_from(
            stats.detach(), seed, step, checks.counter("row_offset", row_offset, device), stream, impl
        )
    checks.count("row_offset", row_offset)
    if chosen("sample_posterior", impl, stats) != "reference":
        return PosteriorSample(*torch.ops.vae_fast.sample_posterior.default(stats, seed, step, row_offset, stream))
    rows, columns = stats.shape
    bits = _bits(rows, columns // 2, seed, step, row_offset, stream, impl)
    return PosteriorSample(*reference.sample_posterior(stats, bits))


def elbo_loss(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    beta: float | Tensor = 1.0,
    likelihood: str = "bernoulli",
    log_scale: float | Tensor | None = None,
    reduction: str = "mean",
    impl: str = "auto",
) -> Elbo:
    """Compute the negative evidence lower bound, loss_b = nll_b + beta kl_b, in nats per image.

    nll_b = -sum_d log p(x_bd | z_b) and kl_b = -1/2 sum_j (1 + logvar - mu^2 - e^logvar), sums taken in float32, or
    in float64 if any floating input is float64.

    Args:
        logits: [B, ...], the decoder's output; for "gaussian" and "discretized_logistic" it is the mean.
        target: the images, of the logits' shape, or one of the two flattened to [B, D]; uint8 (k stands for k / 255) or
            float in [0, 1] (the range is not checked: that would synchronise). No gradient.
        mu, logvar: [B, Z] or [B, ...], the same shape; kl sums over all but the first dimension. Large logvar is not
            clamped: e^logvar overflows float32 at 88.7, and kl is then inf.
        beta: the weight of the KL term: a float, or a 0-d or [B] tensor. No gradient.
        likelihood: "bernoulli", "continuous_bernoulli", "gaussian" or "discretized_logistic".
        log_scale: the log of the scale, for the last two likelihoods only: a float, or a tensor, 0-d, [D], or of a
            shape that broadcasts to an image's, such as [C, 1, 1] or [1, C, 1, 1] for one per channel. Differentiable.
        reduction: "mean", "sum" or "none", over the batch; applies to `loss` only.
        impl: as for `reparameterize`; nll and kl of "triton" and "cpp" share one node of the autograd graph, so that
            separate backward passes through the two need retain_graph=True.

    Returns:
        Elbo(loss, nll, kl): loss 0-d, or [B] with "none"; nll and kl always [B]; all three float32 (float64 if any
        input is) and differentiable in logits, mu, logvar and log_scale, with gradients of their inputs' dtypes. For an
        empty batch the loss is [0], 0 or NaN with "none", "sum" or "mean".

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available, or not for these.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013; beta: Higgins et al., beta-VAE, 2017.
    """
    checks.images(logits, target)
    checks.posterior(logits, mu, logvar)
    checks.one_of("likelihood", likelihood, _LIKELIHOODS)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    scale = checks.log_scale(log_scale, likelihood, logits, target)
    checks.beta(beta, logits)
    checks.one_of("impl", impl, IMPLEMENTATIONS)
    if mu.dim() > 2:
        mu, logvar = mu.flatten(1), logvar.flatten(1)
    if chosen("elbo_loss", impl, logits, mu, logvar, target, scale) != "reference":
        nll, kl = torch.ops.vae_fast.elbo.default(logits, _constant(target), mu, logvar, scale, likelihood)
    else:
        nll, kl = reference.elbo(logits, _constant(target), mu, logvar, likelihood, scale)
    return Elbo(_reduce(_weighted(nll, kl, beta), reduction), nll, kl)


def nll(
    logits: Tensor,
    target: Tensor,
    *,
    likelihood: str = "bernoulli",
    log_scale: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Compute only the reconstruction term of `elbo_loss`, nll_b = -sum_d log p(x_bd | z_b), in nats per image.

    Args:
        logits, target, likelihood, log_scale: as for `elbo_loss`.
        impl: as for `elbo_loss`.

    Returns:
        [B], float32 (float64 if any floating input is), differentiable in logits and log_scale, with gradients of their
        inputs' dtypes.

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: `impl` is not available, or not for these.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2013; those of the likelihoods are in reference.py.
    """
    checks.images(logits, target)
    checks.one_of("likelihood", likelihood, _LIKELIHOODS)
    scale = checks.log_scale(log_scale, likelihood, logits, target)
    checks.one_of("impl", impl, IMPLEMENTATIONS)
    if chosen("nll", impl, logits, target, scale) != "reference":
        value: Tensor = torch.ops.vae_fast.nll.default(logits, _constant(target), scale, likelihood)
        return value
    return reference.nll(logits, _constant(target), likelihood, scale)


def kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """Compute KL(N(mu, e^logvar) || N(0, 1)) of every latent dimension, in nats, in mu's shape: [B, Z] or [B, ...].

    The result is float32, or float64 if either input is, and differentiable. Its sum over all but the first dimension
    is the kl of `elbo_loss`; free bits (Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive
    Flow, appendix C.8) are computed from it.

    Raises TypeError or ValueError for other shapes, dtypes and devices.
    """
    checks.posterior(None, mu, logvar)
    return reference.kl_per_dimension(mu, logvar)


def _constant(target: Tensor) -> Tensor:
    return target.detach() if target.requires_grad else target


def _bits(rows: int, latent: int, seed: Tensor, step: Tensor, row_offset: int, stream: int, impl: str) -> Tensor:
    """Draw the bits for the reference's normals: an even number of columns, because normals are made in pairs."""
    return random_bits(rows, latent + latent % 2, seed, step, row_offset=row_offset, stream=stream, impl=impl)


def _sample_posterior_from(
    stats: Tensor, seed: Tensor, step: Tensor, row_offset: Tensor, stream: int, impl: str
) -> PosteriorSample:
    if chosen("sample_posterior_from", impl, stats) == "triton":
        return PosteriorSample(*torch.ops.vae_fast.sample_posterior_from(stats, seed, step, row_offset, stream))
    rows, latent = stats.shape[0], stats.shape[1] // 2
    bits = philox.random_bits(rows, latent + latent % 2, seed, step, row_offset, stream)
    return PosteriorSample(*reference.sample_posterior(stats, bits))


def _weighted(nll: Tensor, kl: Tensor, beta: float | Tensor) -> Tensor:
    """Return nll + beta kl, [B], with no gradient for beta."""
    if isinstance(beta, Tensor):
        weight = beta if beta.dtype == kl.dtype else beta.to(kl.dtype)
        return torch.addcmul(nll, kl, weight.detach() if weight.requires_grad else weight)
    if torch.compiler.is_compiling():  # Inductor would recompile for every alpha
        return nll + beta * kl
    return nll + kl if beta == 1 else torch.add(nll, kl, alpha=float(beta))


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()
