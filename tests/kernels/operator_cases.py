"""Inputs and error budgets for the operators, shared by the tests of every implementation.

An implementation computes in float32 and is compared with the reference in float64. Its budget is a number of
roundings, each relative to the size of the rounded value: not the result, which may have cancelled, but the largest
intermediate value. A value stored in a narrower dtype is rounded once more.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae_fast.kernels import (
    elbo_loss,
    nll,
    philox,
    random_bits,
    reference,
    registration,
    reparameterize,
    sample_posterior,
)

EPS = torch.finfo(torch.float32).eps
SHAPES = [(1, 1, 1), (41, 401, 3), (128, 784, 20), (0, 5, 4), (3, 2049, 33), (2, 12288, 128)]  # B, D, Z
LAYOUTS = ["contiguous", "halves", "strided"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EXTREMES = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 88.0, -88.0, 89.0, 104.0, -104.0, 177.0, 1e3, -1e3, 1e4, -1e4, 3e38]
EXTREMES += [-3e38, float("inf"), float("-inf"), float("nan")]
SEED, STEP = torch.tensor(2**40 + 7), torch.tensor(2**33 + 3)
# With this seed e^(logvar / 2) eps does not overflow where mu is infinite. If it did, their sum would be NaN with two
# operations, and inf with the single one that a GPU fuses them into.
EXTREME_SEED = 5


def cases(every: int) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """Yield every combination of shape, layout, dtype and likelihood, and whether it runs in sweeps only.

    The others have one layout for each dtype, and one likelihood in `every`.
    """
    for i, shape in enumerate(SHAPES):
        for (j, layout), (k, dtype) in product(enumerate(LAYOUTS), enumerate(DTYPES)):
            for n, likelihood in enumerate(reference.LIKELIHOODS):
                yield (*shape, layout, dtype, likelihood), j != k or (i + j + n) % every > 0


# Inputs are drawn on the CPU, so that they are the same on every device, and converted to their dtype and device before
# they are sliced: a copy of a slice would be contiguous.


def posterior(
    b: int, z: int, layout: str, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return mu and logvar, [B, Z]: two tensors, two halves of one, or two transposed ones."""
    generator = torch.Generator().manual_seed(b + z)
    if layout == "halves":
        mu, logvar = torch.randn(b, 2 * z, generator=generator).to(device, dtype).chunk(2, dim=-1)
        return mu, logvar
    shape = (b, z) if layout == "contiguous" else (z, b)
    mu, logvar = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    return (mu, logvar) if layout == "contiguous" else (mu.t(), logvar.t())


def encoded(b: int, z: int, layout: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Return an encoder's output, [B, 2 Z]: a whole tensor, the middle half of a wider one, or a transposed one."""
    generator = torch.Generator().manual_seed(b + z)
    if layout == "halves":
        return torch.randn(b, 4 * z, generator=generator).to(device, dtype)[:, z : 3 * z]
    shape = (b, 2 * z) if layout == "contiguous" else (2 * z, b)
    stats = torch.randn(shape, generator=generator).to(device, dtype)
    return stats if layout == "contiguous" else stats.t()


def images(
    b: int,
    d: int,
    layout: str,
    target_dtype: torch.dtype,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Return logits and target, [B, D]: whole tensors, halves of wider ones, or every second column of them."""
    generator = torch.Generator().manual_seed(b + d)
    width = d if layout == "contiguous" else 2 * d
    logits = (4 * torch.randn(b, width, generator=generator)).to(device, dtype)
    target = torch.randint(0, 256, (b, width), generator=generator, dtype=torch.uint8)
    target = (target if target_dtype == torch.uint8 else (target / 255).to(target_dtype)).to(device)
    if layout == "halves":
        return logits[:, d:], target[:, :d]
    return (logits[:, ::2], target[:, 1::2]) if layout == "strided" else (logits, target)


def scales(likelihood: str, d: int, device: str = "cpu") -> list[Tensor | None]:
    """Return logs of a likelihood's scale: [] and [D], or only None if it has no scale."""
    if likelihood not in reference.SCALED:
        return [None]
    each = 0.3 * torch.randn(d, generator=torch.Generator().manual_seed(d)) - 1
    return [torch.tensor(-1.0, device=device), each.to(device)]


def within(actual: Tensor, exact: Tensor, roundings: float, size: Tensor | float) -> None:
    """Check |actual - exact| <= roundings eps size, plus one rounding of the result if its dtype is narrower."""
    assert actual.shape == exact.shape
    actual, exact, info = actual.detach(), exact.detach(), torch.finfo(actual.dtype)
    # Triton's interpreter truncates float32 to bfloat16, where a GPU rounds to nearest (triton 3.7, interpreter.py)
    ulps = 1.0 if registration.INTERPRETED and actual.dtype == torch.bfloat16 else 0.5
    stored = 0.0 if actual.dtype == torch.float32 else ulps * info.eps * exact.abs() + info.tiny * info.eps
    error = (actual.double() - exact).abs()
    allowed = roundings * EPS * size + stored
    assert (error <= allowed).all(), f"{float((error / allowed).max()):.2f} times what is allowed"


def check_reparameterize(impl: str, mu: Tensor, logvar: Tensor, row_offset: int = 0) -> None:
    """Check value and gradients of one call, on inputs of any shape [..., Z]."""
    mu, logvar = mu.detach().requires_grad_(), logvar.detach().requires_grad_()
    seed, step = SEED.to(mu.device), STEP.to(mu.device)
    z = reparameterize(mu, logvar, seed, step, row_offset=row_offset, stream=16, impl=impl)
    grad_z = torch.linspace(-2, 2, z.numel(), device=z.device).view(z.shape).to(z.dtype)
    grads = torch.autograd.grad(z, (mu, logvar), grad_z)

    eps = _noise(mu, row_offset)
    exact_mu, exact_logvar = (t.detach().double().requires_grad_() for t in (mu, logvar))
    exact = exact_mu + (exact_logvar / 2).exp() * eps
    exact_grads = torch.autograd.grad(exact, (exact_mu, exact_logvar), grad_z.double())
    noise = (exact_logvar / 2).exp().detach() * eps.abs().clamp(min=1)
    assert (z.dtype, *(g.dtype for g in grads)) == (torch.promote_types(mu.dtype, logvar.dtype), mu.dtype, logvar.dtype)
    within(z, exact, 12, exact_mu.abs() + noise)  # 1e-6 for the noise is 8.4 eps, then three roundings
    within(grads[0], exact_grads[0], 0, 0.0)
    within(grads[1], exact_grads[1], 12, grad_z.double().abs() * noise / 2)


def _noise(like: Tensor, row_offset: int) -> Tensor:
    """Return the normals of stream 16 for every position of a tensor [..., Z], float64."""
    rows, columns = like.shape[:-1].numel(), like.shape[-1]
    seed, step = SEED.to(like.device), STEP.to(like.device)
    bits = random_bits(rows, columns + columns % 2, seed, step, row_offset=row_offset, stream=16, impl="reference")
    return philox.normals(bits)[:, :columns].view(like.shape)


def check_sample_posterior(impl: str, stats: Tensor, row_offset: int = 0) -> None:
    """Check the values of one call on [B, 2 Z], and the gradients through both, through z alone and kl alone."""
    stats = stats.detach().requires_grad_()
    seed, step = SEED.to(stats.device), STEP.to(stats.device)
    results = sample_posterior(stats, seed, step, row_offset=row_offset, stream=16, impl=impl)
    assert (results.z.dtype, results.kl.dtype) == (stats.dtype, torch.float32)

    exact_stats = stats.detach().double().requires_grad_()
    mu, v = exact_stats.chunk(2, dim=1)
    eps = _noise(mu, row_offset)
    exact = mu + (v / 2).exp() * eps, reference.kl(mu, v)
    m, v = mu.detach(), v.detach()
    noise = (v / 2).exp() * eps.abs().clamp(min=1)
    within(results.z, exact[0], 12, m.abs() + noise)
    within(results.kl, exact[1], 20, (1 + v.abs() + m.square() + v.exp()).sum(1))
    grad_z = torch.linspace(-2, 2, m.numel(), device=m.device).view(m.shape).to(stats.dtype)
    grad_kl = torch.linspace(-1, 2, len(m), device=m.device)
    for used in (slice(0, 2), slice(0, 1), slice(1, 2)):
        weights = (grad_z, grad_kl)[used]
        (grad,) = torch.autograd.grad(results[used], stats, weights, retain_graph=True)
        (exact_grad,) = torch.autograd.grad(exact[used], exact_stats, [w.double() for w in weights], retain_graph=True)
        assert grad.dtype == stats.dtype
        by_z = grad_z.double().abs() * (used.start == 0)
        by_kl = grad_kl.double().abs().view(-1, 1) * (used.stop == 2)
        # the roundings of reparameterize, of the KL in check_elbo, and of their sum
        size = torch.cat((by_z + by_kl * m.abs(), by_z * noise / 2 + by_kl * (1 + v.exp())), dim=1)
        within(grad, exact_grad, 13, size)


class Sizes(NamedTuple):
    """The largest intermediate values of a pixel's nll and of its derivatives by the logit and the log of the scale."""

    value: Tensor
    by_logit: Tensor
    by_scale: Tensor


def sizes(likelihood: str, logit: Tensor, x: Tensor, log_scale: Tensor) -> Sizes:
    inverse = (-log_scale).exp()
    one = torch.ones_like(logit)
    if likelihood == "bernoulli":
        return Sizes(logit.abs() + 1, one, one)
    if likelihood == "continuous_bernoulli":
        return Sizes(2 * logit.abs() + 2, 2 * one, one)
    # x = k / 255 is rounded first, and the scale magnifies that error
    far = (x - logit).abs() * inverse
    if likelihood == "gaussian":
        return Sizes(
            far**2 + far * inverse + log_scale.abs() + 1, far * inverse + inverse**2, 1 + far**2 + far * inverse
        )
    near = (x.abs() + logit.abs() + 1) * inverse
    return Sizes(2 * near + log_scale.abs() + 8, inverse * (1 + near), (1 + far) * (1 + near))


def check_elbo(
    impl: str,
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    likelihood: str = "bernoulli",
    log_scale: Tensor | None = None,
) -> None:
    """Check the values and every gradient of one call."""
    leaves = [t.detach().requires_grad_() for t in (logits, mu, logvar, log_scale) if t is not None]
    scale = leaves[3] if len(leaves) > 3 else None
    terms = elbo_loss(leaves[0], target, *leaves[1:3], likelihood=likelihood, log_scale=scale, impl=impl)[1:]
    weights = _weight_of_nll(logits), torch.linspace(-1, 2, len(mu), device=mu.device)
    grads = torch.autograd.grad(terms, leaves, weights)
    assert [g.dtype for g in grads] == [t.dtype for t in leaves]
    assert {t.dtype for t in terms} == {torch.float32}
    _compare_nll(terms[0], [grads[0], *grads[3:]], [leaves[0], *leaves[3:]], target, likelihood)

    m, v = exact_leaves = [t.detach().double().requires_grad_() for t in leaves[1:3]]
    exact = reference.kl(m, v)
    exact_grads = torch.autograd.grad(exact, exact_leaves, weights[1].double())
    m, v = m.detach(), v.detach()
    within(terms[1], exact, 20, (1 + v.abs() + m.square() + v.exp()).sum(1))
    within(grads[1], exact_grads[0], 1, exact_grads[0].abs())
    within(grads[2], exact_grads[1], 5, weights[1].double().abs().view(-1, 1) * (1 + v.exp()))


def check_nll(
    impl: str, logits: Tensor, target: Tensor, likelihood: str = "bernoulli", log_scale: Tensor | None = None
) -> None:
    """Check the values and every gradient of one call."""
    leaves = [t.detach().requires_grad_() for t in (logits, log_scale) if t is not None]
    value = nll(leaves[0], target, likelihood=likelihood, log_scale=leaves[1] if len(leaves) > 1 else None, impl=impl)
    grads = torch.autograd.grad(value, leaves, _weight_of_nll(logits))
    assert (value.dtype, *(g.dtype for g in grads)) == (torch.float32, *(t.dtype for t in leaves))
    _compare_nll(value, grads, leaves, target, likelihood)


def _weight_of_nll(logits: Tensor) -> Tensor:
    return torch.linspace(0.5, 1, len(logits), device=logits.device)


def _compare_nll(
    value: Tensor, grads: Sequence[Tensor], leaves: Sequence[Tensor], target: Tensor, likelihood: str
) -> None:
    """Compare the nll and its gradients by the leaves, the logits and any log of the scale, with the reference's."""
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    x = target if target.dtype == torch.uint8 else target.double()
    exact = reference.nll(exact_leaves[0], x, likelihood, exact_leaves[1] if len(leaves) > 1 else None)
    weight = _weight_of_nll(leaves[0]).double()
    exact_grads = torch.autograd.grad(exact, exact_leaves, weight)

    logit, *scale = (t.detach() for t in exact_leaves)
    x = x.flatten(1).double() / (255 if target.dtype == torch.uint8 else 1)
    size = sizes(likelihood, logit.flatten(1), x, scale[0] if scale else x.new_zeros(()))
    by_nll = weight.view(-1, 1)
    # A term has fewer than 10 roundings; a sum over 4 or more lanes adds fewer than 10 on average.
    within(value, exact, 20, size.value.sum(1))
    within(grads[0].flatten(1), exact_grads[0].flatten(1), 8, by_nll * size.by_logit)
    if scale:
        by_scale = (by_nll * size.by_scale).sum(0)
        within(grads[1], exact_grads[1], 20, by_scale if scale[0].dim() else by_scale.sum())


def check_extremes(
    impl: str,
    target_dtype: torch.dtype,
    repeat: int = 1,
    likelihood: str = "bernoulli",
    log_scale: Tensor | None = None,
    device: str = "cpu",
) -> None:
    """Check that overflow, infinities and NaN in logits, mu and logvar give the reference's values and gradients."""
    mu, logvar = _extreme_posterior(repeat, device)
    images = _extreme_images(target_dtype, repeat, device)
    logits, target = (t.repeat(len(mu) // len(t), 1) for t in images)

    def terms(impl: str) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (logits, mu, logvar)]
        elbo = elbo_loss(leaves[0], target, leaves[1], leaves[2], likelihood=likelihood, log_scale=log_scale, impl=impl)
        return [*elbo[1:], *torch.autograd.grad((elbo.nll.sum(), elbo.kl.sum()), leaves)]

    def samples(impl: str) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (mu, logvar)]
        z = reparameterize(leaves[0], leaves[1], EXTREME_SEED, 2, impl=impl)
        return [z, *torch.autograd.grad(z.sum(), leaves)]

    _alike(terms(impl), terms("reference"))
    _alike(samples(impl), samples("reference"), rtol=1e-3)


def check_extremes_apart(
    impl: str,
    target_dtype: torch.dtype,
    repeat: int = 1,
    likelihood: str = "bernoulli",
    log_scale: Tensor | None = None,
    device: str = "cpu",
) -> None:
    """Check the same as `check_extremes` for `nll` and `sample_posterior`."""
    logits, target = _extreme_images(target_dtype, repeat, device)
    stats = torch.cat(_extreme_posterior(repeat, device), dim=1)

    def terms(impl: str) -> list[Tensor]:
        leaf = logits.clone().requires_grad_()
        value = nll(leaf, target, likelihood=likelihood, log_scale=log_scale, impl=impl)
        return [value, *torch.autograd.grad(value.sum(), leaf)]

    def samples(impl: str) -> list[Tensor]:
        leaf = stats.clone().requires_grad_()
        z, kl = sample_posterior(leaf, EXTREME_SEED, 2, impl=impl)
        sums = z.sum(), kl.sum()  # in the gradient of one alone the other's part would be 0 * inf
        alone = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in sums]
        return [z, kl, *alone, *torch.autograd.grad(sums, leaf)]

    _alike(terms(impl), terms("reference"))
    if likelihood == "bernoulli":  # once, because samples have no likelihood
        _alike(samples(impl), samples("reference"), rtol=1e-3)


def check_extreme_scales(impl: str, likelihood: str, device: str = "cpu") -> None:
    """Check gradients by log scales, one per pixel; not for logits of 3e38, where the reference overflows midway."""
    logits = [value for value in EXTREMES if abs(value) != 3e38]
    choices = (torch.tensor(values, device=device) for values in (logits, [0.0, 0.2, 1.0], [-20.0, 0.0, 20.0, 83.0]))
    every = torch.cartesian_prod(*choices).unbind(1)

    def terms(impl: str) -> list[Tensor]:
        logit, x, scale = (t.clone().view(1, -1) for t in every)
        leaves = [logit.requires_grad_(), scale[0].requires_grad_()]
        value = nll(logit, x, likelihood=likelihood, log_scale=leaves[1], impl=impl)
        alone = nll(logit.mT, x.mT, likelihood=likelihood, log_scale=83.0, impl=impl)
        return [alone, *torch.autograd.grad(value.sum(), leaves)]

    _alike(terms(impl), terms("reference"))


def _extreme_images(target_dtype: torch.dtype, repeat: int, device: str) -> tuple[Tensor, Tensor]:
    """Return logits and target, each value `repeat` times in a row."""
    logits, level = torch.cartesian_prod(torch.tensor(EXTREMES), torch.tensor([0.0, 51.0, 255.0])).unbind(1)
    target = level.to(torch.uint8) if target_dtype == torch.uint8 else level / 255
    return logits[:, None].repeat(1, repeat).to(device), target[:, None].repeat(1, repeat).to(device)


def _extreme_posterior(repeat: int, device: str) -> tuple[Tensor, Tensor]:
    means = torch.tensor([0.5, 0.0, 1e20, *EXTREMES[-3:]])
    mu, logvar = torch.cartesian_prod(means, torch.tensor(EXTREMES)).unbind(1)
    return mu[:, None].repeat(1, repeat).to(device), logvar[:, None].repeat(1, repeat).to(device)


def _alike(ours: list[Tensor], exact: list[Tensor], rtol: float = 3e-6) -> None:
    """Compare; samples need rtol 1e-3: the noise may differ by 1e-6 times the largest finite e^(logvar / 2)."""
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=1e-6, equal_nan=True)
