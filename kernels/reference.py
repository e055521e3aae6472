"""The formulas in plain PyTorch. This file is the specification: every fast implementation is compared with it.

Arithmetic is float32 for float32, float16 and bfloat16 inputs, and float64 as soon as one floating input is float64.
Gradients are autograd's. Nothing is clamped: where a value overflows (exp(logvar) in float32 above 88.7) the result is
inf, NaN propagates, and the training loop decides what to do with such a step.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import philox

MOST_TERMS = 1 << 25  # of a mixture's sums over dimensions that are in memory at a time: 128 MiB in float32
LEVELS = 255  # the uint8 value k stands for the pixel k / 255


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Return float64 if any given tensor is float64, else float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def reparameterize(mu: Tensor, logvar: Tensor, bits: Tensor) -> Tensor:
    """Draw z = mu + exp(logvar / 2) * eps (Kingma and Welling: Auto-Encoding Variational Bayes, 2013, section 2.4).

    `bits` are the bits that Philox draws for the rows of mu: int64 [rows, Z rounded up to an even number].
    """
    dtype = compute_dtype(mu, logvar)
    eps = philox.normals(bits)[:, : mu.shape[-1]]
    z = mu.to(dtype) + (0.5 * logvar.to(dtype)).exp() * eps.to(dtype).view(mu.shape)
    return z.to(torch.promote_types(mu.dtype, logvar.dtype))


def sample_posterior(stats: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Return z and kl of the posterior with mu and logvar in the two halves of `stats` [B, 2 Z]; `bits` as above."""
    mu, logvar = stats.chunk(2, dim=1)
    return reparameterize(mu, logvar, bits), kl(mu, logvar)


def kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, e^logvar) || N(0, 1)), elementwise (Kingma and Welling 2013, appendix B)."""
    dtype = compute_dtype(mu, logvar)
    mu, logvar = mu.to(dtype), logvar.to(dtype)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp())


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return kl_b, the sum of `kl_per_dimension` over everything but the batch: [B]."""
    return kl_per_dimension(mu, logvar).flatten(1).sum(1)


def mixture_log_density(z: Tensor, stats: Tensor, log_weights: Tensor) -> Tensor:
    """Return log sum_n w_n N(z_b; m_n, diag(s_n^2)), [B], of z [B, Z].

    The means and the log variances are the two halves of `stats` [N, 2 Z]; log_weights are [N].
    """
    return mixture_joint(z, stats, log_weights).logsumexp(1)


def mixture_joint(z: Tensor, stats: Tensor, log_weights: Tensor) -> Tensor:
    """Return log w_n N(z_b; m_n, diag(s_n^2)), [B, N], of the arguments of `mixture_log_density`."""
    dtype = compute_dtype(z, stats, log_weights)
    means, logvars = stats.to(dtype).chunk(2, dim=1)
    inverse = (-0.5 * logvars).exp()
    constants = log_weights.to(dtype) - 0.5 * (logvars + math.log(2 * math.pi)).sum(1)
    rows = max(1, MOST_TERMS // max(1, means.numel()))
    parts = z.to(dtype).split(rows)  # [b, N, Z] of distances, in deviations, at a time
    squares = [((part.unsqueeze(1) - means) * inverse).square().sum(-1) for part in parts]
    return constants - 0.5 * torch.cat(squares)


def mixture_gradient(grad: Tensor, z: Tensor, stats: Tensor, joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of sum_b grad_b log p(z_b) by z, stats and log_weights, given `mixture_joint`.

    With the shares r_bn = grad_b w_n N_n(z_b) / p(z_b) all are matrix products of [B, N] with [B, Z] or [N, Z]:
    by z_b it is sum_n r_bn (m_n - z_b) / s_n^2, by m_n sum_b r_bn (z_b - m_n) / s_n^2, and by log s_n^2
    sum_b r_bn ((z_b - m_n)^2 / s_n^2 - 1) / 2. The last two are differences of large sums, hence float64.
    """
    dtype = joint.dtype
    (means, logvars), at = stats.to(dtype).chunk(2, dim=1), z.to(dtype)
    precisions = (-logvars).exp()
    shares = grad.to(dtype).unsqueeze(1) * joint.log_softmax(1).exp()
    by_z = shares @ (means * precisions) - at * (shares @ precisions)
    wide, at, means, precisions = shares.T.double(), at.double(), means.double(), (-logvars.double()).exp()
    total, first, second = wide.sum(1, keepdim=True), wide @ at, wide @ at.square()
    by_means = precisions * (first - means * total)
    by_logvars = 0.5 * (precisions * (second - means * (2 * first - means * total)) - total)
    by_stats = torch.cat((by_means, by_logvars), dim=1)
    return by_z.to(z.dtype), by_stats.to(stats.dtype), total.squeeze(1).to(dtype)


def nll(logits: Tensor, target: Tensor, likelihood: str, log_scale: Tensor | None) -> Tensor:
    """Return nll_b = -sum_d log p(x_bd | logit_bd), [B]; log_scale is [] or [D]."""
    dtype = compute_dtype(logits, target, log_scale)
    scale = () if log_scale is None else (log_scale.to(dtype),)
    return LIKELIHOODS[likelihood](logits.flatten(1).to(dtype), _pixels(target, dtype), *scale).sum(1)


def _pixels(target: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the pixels in [0, 1], [B, D]."""
    pixels = target.flatten(1).to(dtype)
    return pixels / LEVELS if target.dtype == torch.uint8 else pixels


def scale_by_pixel(log_scale: Tensor, image: torch.Size) -> Tensor:
    """Expand a log_scale that broadcasts to [1, *image], such as [C, 1, 1], to `nll`'s [D], or [] for a single value.

    float16 and bfloat16 become float32, so that the gradients of the pixels that share a scale are added in float32 and
    rounded once.
    """
    log_scale = log_scale.to(compute_dtype(log_scale))
    if log_scale.numel() == 1:
        return log_scale.reshape(())
    return log_scale.expand(1, *image).flatten()


def sample_posterior_gradient(grad_z: Tensor, kl_weight: Tensor, stats: Tensor, bits: Tensor) -> Tensor:
    """Return the gradient by `stats` [B, 2 Z] of a loss with gradients grad_z [B, Z] by z and kl_weight by each kl_bj.

    kl_weight is [] or [Z].

    dmu = dz + w mu and dlogvar = (dz exp(logvar / 2) eps + w (e^logvar - 1)) / 2.
    """
    dtype = compute_dtype(stats, grad_z, kl_weight)
    mu, logvar = stats.to(dtype).chunk(2, dim=1)
    eps, grad_z, weight = philox.normals(bits)[:, : mu.shape[1]].to(dtype), grad_z.to(dtype), kl_weight.to(dtype)
    by_logvar = 0.5 * (grad_z * (0.5 * logvar).exp() * eps + weight * (logvar.exp() - 1))
    return torch.cat((grad_z + weight * mu, by_logvar), dim=1).to(stats.dtype)


def nll_with_gradient(
    logits: Tensor, target: Tensor, weight: Tensor, likelihood: str, log_scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return nll_b, [B], and the gradients of `weight` sum_b nll_b by the logits and by log_scale, in their dtypes.

    The derivatives are written out because autograd cannot be called here under torch.inference_mode or torch.func.
    """
    value = nll(logits, target, likelihood, log_scale)
    dtype = value.dtype
    scale = () if log_scale is None else (log_scale.to(dtype),)
    by_logit, by_scale = DERIVATIVES[likelihood](logits.flatten(1).to(dtype), _pixels(target, dtype), *scale)
    gradient = (weight.to(dtype) * by_logit).view(logits.shape).to(logits.dtype)
    if log_scale is None or by_scale is None:
        return value, gradient, None
    by_scale = weight.to(dtype) * (by_scale.sum() if log_scale.dim() == 0 else by_scale.sum(0))
    return value, gradient, by_scale.to(log_scale.dtype)


def elbo(
    logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, likelihood: str, log_scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the two terms of the negative ELBO, nll and kl, in float64 if any of the inputs is, else in float32."""
    dtype = compute_dtype(logits, target, mu, logvar, log_scale)
    return nll(logits.to(dtype), target, likelihood, log_scale), kl(mu.to(dtype), logvar.to(dtype))


def bernoulli(logit: Tensor, x: Tensor) -> Tensor:
    """Return softplus(l) - x l, the cross entropy of x and sigmoid(l), stable for any logit."""
    return F.binary_cross_entropy_with_logits(logit, x, reduction="none")


def continuous_bernoulli(logit: Tensor, x: Tensor) -> Tensor:
    """Return the Bernoulli's value minus the log of the constant that makes it a density on [0, 1].

    Loaiza-Ganem and Cunningham: The continuous Bernoulli, NeurIPS 2019. Their C(sigmoid(l)) is l / tanh(l / 2), even
    in l and 2 at l = 0.
    """
    return bernoulli(logit, x) - _log_normalizer(logit)


def bernoulli_derivatives(logit: Tensor, x: Tensor) -> tuple[Tensor, None]:
    """Return the derivative of `bernoulli` by the logit; the functions below also return the one by log_scale."""
    return logit.sigmoid() - x, None


def continuous_bernoulli_derivatives(logit: Tensor, x: Tensor) -> tuple[Tensor, None]:
    """Return the Bernoulli's derivative minus 1/l - 1/sinh(l), by the series of `_log_normalizer` near 0."""
    near = logit.abs() < (0.05 if logit.dtype == torch.float64 else 0.5)
    away = torch.where(near, 1.0, logit)
    half = torch.where(near, logit / 2, 0.0)
    square = half.square()
    series = half * (1 / 3 - square * (7 / 45 - square * (62 / 945 - square * (127 / 4725))))
    return logit.sigmoid() - x - torch.where(near, series, 1 / away - 1 / away.sinh()), None


def _log_normalizer(logit: Tensor) -> Tensor:
    """Return log(l / tanh(l / 2)): near 0, where the derivative 1/l - 1/sinh(l) cancels, by its series.

    The bounds balance cancellation above them (eps / l against l / 6) with the first omitted term below them
    (0.0022 (l/2)^10).
    """
    near = logit.abs() < (0.05 if logit.dtype == torch.float64 else 0.5)
    size = torch.where(near, 1.0, logit.abs())  # where() on the input too: an inf on the unused branch gives NaN
    far = size.log() + torch.log1p((-size).exp()) - torch.log(-torch.expm1(-size))
    square = torch.where(near, logit / 2, 0.0).square()
    series = square * (1 / 3 - square * (7 / 90 - square * (62 / 2835 - square * (127 / 18900))))
    return torch.where(near, math.log(2) + series, far)


def gaussian(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    """Return -log N(x; mean, e^(2 log_scale)); the decoder's output is the mean."""
    return 0.5 * ((x - mean) * (-log_scale).exp()).square() + log_scale + 0.5 * math.log(2 * math.pi)


def gaussian_derivatives(mean: Tensor, x: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    inverse = (-log_scale).exp()
    scaled = (x - mean) * inverse
    return -scaled * inverse, 1 - scaled.square()


def discretized_logistic(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    """Return -log of a logistic's mass on the bin of width 1/255 around x; the end bins extend to infinity.

    Kingma et al.: Improving Variational Inference with Inverse Autoregressive Flow, 2016, appendix; Salimans et al.:
    PixelCNN++, 2017. The decoder's output is the mean. With a > b the bin's scaled edges, sigmoid(a) - sigmoid(b) =
    sigmoid(a) sigmoid(-b) (1 - e^(b - a)); the logs of the three factors are stable for any x.
    """
    inverse = (-log_scale).exp()
    upper = (x - mean + 0.5 / LEVELS) * inverse
    lower = (x - mean - 0.5 / LEVELS) * inverse
    below_upper, above_lower = F.logsigmoid(upper), F.logsigmoid(-lower)
    inside = below_upper + above_lower + torch.log(-torch.expm1(-inverse / LEVELS))
    return -torch.where(x <= 0, below_upper, torch.where(x >= 1, above_lower, inside))


def discretized_logistic_derivatives(mean: Tensor, x: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    inverse = (-log_scale).exp()
    upper, lower = (x - mean + 0.5 / LEVELS) * inverse, (x - mean - 0.5 / LEVELS) * inverse
    by_upper, by_lower = torch.where(x >= 1, 0, -(-upper).sigmoid()), torch.where(x <= 0, 0, lower.sigmoid())
    width = inverse / LEVELS
    by_width = torch.where((x > 0) & (x < 1), width / torch.expm1(width), 0)
    return -(by_upper + by_lower) * inverse, by_width - by_upper * upper - by_lower * lower


LIKELIHOODS: dict[str, Callable[..., Tensor]] = {
    "bernoulli": bernoulli,
    "continuous_bernoulli": continuous_bernoulli,
    "gaussian": gaussian,
    "discretized_logistic": discretized_logistic,
}
DERIVATIVES: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "bernoulli": bernoulli_derivatives,
    "continuous_bernoulli": continuous_bernoulli_derivatives,
    "gaussian": gaussian_derivatives,
    "discretized_logistic": discretized_logistic_derivatives,
}
SCALED = ("gaussian", "discretized_logistic")


BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's
GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0, 0.5, 2000  # of the loss scale, as in torch.amp.GradScaler

# The columns of a step's terms, float64 [5]; a skipped step has 1 in the last and 0 in the others. csrc/step_terms.h
# has the same names, and a test compares the two.
TERM_NAMES = ("loss", "nll", "kl", "images", "skipped")
LOSS, NLL, KL, IMAGES, SKIPPED = range(len(TERM_NAMES))
COLUMNS = len(TERM_NAMES)


def finish_step_(
    parameters: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    copies: Sequence[Tensor] | None,
    count: Tensor,
    gradients: Sequence[Tensor],
    terms: tuple[Tensor, Tensor, Tensor | None],
    rates: tuple[Tensor, Tensor],
    record: tuple[Tensor, Tensor, Tensor],
    scale: tuple[Tensor, Tensor] | None,
    *,
    weight_decay: float,
    max_norm: float,
    images: int,
) -> None:
    """Finish a training step, in place and in the parameters' dtype; `finish_step.py` documents the arguments.

    The gradients, divided by the loss scale, are clipped to max_norm (Pascanu et al., On the Difficulty of Training
    Recurrent Neural Networks, 2013) and passed to Adam (Kingma and Ba, Adam, 2014, algorithm 1) with decoupled decay
    (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2017). Unless the loss and their norm are finite only
    the counters change, and the step is recorded as skipped. (Triton tests the loss row by row, in float32: a row whose
    loss overflows float32 counts as not finite.)
    """
    (nll, kl, penalty), (lr, beta), (step, sums, ring) = terms, rates, record
    inverse = 1.0 if scale is None else 1 / scale[0].to(parameters[0].dtype)
    gradients = [g.to(p.dtype) * inverse for g, p in zip(gradients, parameters, strict=True)]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    of_nll, of_kl = nll.double().sum(), kl.double().sum()
    loss = of_nll + beta.double() * (of_kl if penalty is None else images * penalty.double())
    finite = bool(norm.isfinite() & loss.isfinite())
    if finite:
        count += 1
        for p, m, v, g in zip(parameters, means, squares, gradients, strict=True):
            g = g * (max_norm / (norm + 1e-6)).clamp(max=1)
            p.mul_(1 - lr * weight_decay)
            m.mul_(BETA1).add_((1 - BETA1) * g)
            v.mul_(BETA2).add_((1 - BETA2) * g * g)
            corrected = m / (1 - BETA1**count), v / (1 - BETA2**count)
            p.sub_(lr * corrected[0] / (corrected[1].sqrt() + EPSILON))
        if copies is not None:
            for copy, parameter in zip(copies, parameters, strict=True):
                copy.copy_(parameter)
    entry = (loss, of_nll, of_kl, images, 0) if finite else (0, 0, 0, 0, 1)
    ring[step % len(ring)] = torch.tensor(entry, dtype=ring.dtype, device=ring.device)
    sums += ring[step % len(ring)]
    step += 1
    if scale is not None:
        factor, growth = scale
        growth.copy_(growth + 1 if finite else torch.zeros_like(growth))
        if not finite:
            factor *= BACKOFF
        elif growth == GROWTH_INTERVAL:
            factor *= GROWTH if (factor * GROWTH).isfinite() else 1.0
            growth.zero_()
