"""Inputs and error budgets for the operators, shared by the tests of every implementation.

An implementation computes in float32 and is held against the reference in float64. Its budget is a number of roundings,
each relative to the size of what was rounded: not of the result, which may have cancelled, but of the largest value on
the way to it. What is stored in a narrower dtype is rounded once more.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_fast.kernels import elbo_loss, operators, philox, random_bits, reference, reparameterize

EPS = torch.finfo(torch.float32).eps
SHAPES = [(1, 1, 1), (41, 401, 3), (128, 784, 20), (0, 5, 4), (3, 2049, 33), (2, 12288, 128)]  # B, D, Z
LAYOUTS = ["contiguous", "halves", "strided"]
EXTREMES = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 88.0, -88.0, 89.0, 104.0, -104.0, 177.0, 1e3, -1e3, 1e4, -1e4, 3e38]
EXTREMES += [-3e38, float("inf"), float("-inf"), float("nan")]
SEED, STEP = torch.tensor(2**40 + 7), torch.tensor(2**33 + 3)


def posterior(b: int, z: int, layout: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """mu and logvar, [B, Z]: two tensors, two halves of one, or two transposed ones."""
    generator = torch.Generator().manual_seed(b + z)
    if layout == "halves":
        mu, logvar = torch.randn(b, 2 * z, generator=generator).to(dtype).chunk(2, dim=-1)
        return mu, logvar
    shape = (b, z) if layout == "contiguous" else (z, b)
    mu, logvar = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    return (mu, logvar) if layout == "contiguous" else (mu.t(), logvar.t())


def images(
    b: int, d: int, layout: str, target_dtype: torch.dtype, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Logits and target, [B, D]: whole tensors, halves of wider ones, or every second column of them."""
    generator = torch.Generator().manual_seed(b + d)
    width = d if layout == "contiguous" else 2 * d
    logits = 4 * torch.randn(b, width, generator=generator)
    target = torch.randint(0, 256, (b, width), generator=generator, dtype=torch.uint8)
    if layout == "halves":
        logits, target = logits[:, d:], target[:, :d]
    elif layout == "strided":
        logits, target = logits[:, ::2], target[:, 1::2]
    return logits.to(dtype) if dtype != torch.float32 else logits, target if target_dtype == torch.uint8 else (
        target / 255
    ).to(target_dtype)


def within(actual: Tensor, exact: Tensor, roundings: float, size: Tensor | float) -> None:
    """|actual - exact| <= roundings eps size, and one rounding of the result where its dtype is narrower."""
    assert actual.shape == exact.shape
    actual, exact, info = actual.detach(), exact.detach(), torch.finfo(actual.dtype)
    # Triton's interpreter cuts float32 off to bfloat16, where a GPU rounds to nearest (triton 3.7, interpreter.py)
    ulps = 1.0 if operators.INTERPRETED and actual.dtype == torch.bfloat16 else 0.5
    stored = 0.0 if actual.dtype == torch.float32 else ulps * info.eps * exact.abs() + info.tiny * info.eps
    error = (actual.double() - exact).abs()
    allowed = roundings * EPS * size + stored
    assert (error <= allowed).all(), f"{float((error / allowed).max()):.2f} times what is allowed"


def check_reparameterize(impl: str, mu: Tensor, logvar: Tensor, row_offset: int = 0) -> None:
    """Value and gradients of one call, on inputs of any shape [..., Z]."""
    mu, logvar = mu.detach().requires_grad_(), logvar.detach().requires_grad_()
    z = reparameterize(mu, logvar, SEED, STEP, row_offset=row_offset, stream=16, impl=impl)
    grad_z = torch.linspace(-2, 2, z.numel()).view(z.shape).to(z.dtype)
    grads = torch.autograd.grad(z, (mu, logvar), grad_z)

    rows, columns = mu.shape[:-1].numel(), mu.shape[-1]
    bits = random_bits(rows, columns + columns % 2, SEED, STEP, row_offset=row_offset, stream=16, impl="reference")
    eps = philox.normals(bits)[:, :columns].view(mu.shape)
    exact_mu, exact_logvar = (t.detach().double().requires_grad_() for t in (mu, logvar))
    exact = exact_mu + (exact_logvar / 2).exp() * eps
    exact_grads = torch.autograd.grad(exact, (exact_mu, exact_logvar), grad_z.double())
    noise = (exact_logvar / 2).exp().detach() * eps.abs().clamp(min=1)
    assert (z.dtype, *(g.dtype for g in grads)) == (torch.promote_types(mu.dtype, logvar.dtype), mu.dtype, logvar.dtype)
    within(z, exact, 12, exact_mu.abs() + noise)  # 1e-6 for the noise is 8.4 eps, then three roundings
    within(grads[0], exact_grads[0], 0, 0.0)
    within(grads[1], exact_grads[1], 12, grad_z.double().abs() * noise / 2)


class Sizes(NamedTuple):
    """The largest values on the way to a pixel's nll, and to its derivatives by the logit and the log of the scale."""

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
    # x = k / 255 is rounded before anything else, which the scale then magnifies
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
    """Values and every gradient of one call."""
    scaled = () if log_scale is None else (log_scale,)
    leaves = [t.detach().requires_grad_() for t in (logits, mu, logvar, *scaled)]
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    b = len(mu)
    weights = torch.linspace(0.5, 1, b), torch.linspace(-1, 2, b)
    scale = leaves[3] if scaled else None
    terms = elbo_loss(leaves[0], target, *leaves[1:3], likelihood=likelihood, log_scale=scale, impl=impl)[1:]
    exact_target = target if target.dtype == torch.uint8 else target.double()
    exact_scale = exact_leaves[3] if scaled else None
    exact = reference.elbo(exact_leaves[0], exact_target, exact_leaves[1], exact_leaves[2], likelihood, exact_scale)
    grads = torch.autograd.grad(terms, leaves, weights)
    exact_grads = torch.autograd.grad(exact, exact_leaves, [w.double() for w in weights])
    assert [g.dtype for g in grads] == [t.dtype for t in leaves]
    assert {t.dtype for t in terms} == {torch.float32}

    logit, m, v = (t.detach().flatten(1) for t in exact_leaves[:3])
    x = exact_target.flatten(1).double() / (255 if target.dtype == torch.uint8 else 1)
    size = sizes(likelihood, logit, x, exact_leaves[3].detach() if scaled else torch.zeros((), dtype=torch.float64))
    by_nll, by_kl = (w.double().abs().view(-1, 1) for w in weights)
    # A term has fewer than 10 roundings; a sum over 4 or more lanes adds fewer than 10 of its own in the mean.
    within(terms[0], exact[0], 20, size.value.sum(1))
    within(terms[1], exact[1], 20, (1 + v.abs() + m.square() + v.exp()).sum(1))
    within(grads[0].flatten(1), exact_grads[0].flatten(1), 8, by_nll * size.by_logit)
    within(grads[1], exact_grads[1], 1, exact_grads[1].abs())
    within(grads[2], exact_grads[2], 5, by_kl * (1 + v.exp()))
    if scaled:
        by_scale = (by_nll * size.by_scale).sum(0)
        within(grads[3], exact_grads[3], 20, by_scale if leaves[3].dim() else by_scale.sum())


def check_extremes(
    impl: str,
    target_dtype: torch.dtype,
    repeat: int = 1,
    likelihood: str = "bernoulli",
    log_scale: Tensor | None = None,
) -> None:
    """Overflow, infinities and NaN in logits, mu and logvar come out as the reference's, in values and gradients."""
    logits, level = torch.cartesian_prod(torch.tensor(EXTREMES), torch.tensor([0.0, 51.0, 255.0])).unbind(1)
    mu, logvar = torch.cartesian_prod(torch.tensor([0.5, 0.0, 1e20, *EXTREMES[-3:]]), torch.tensor(EXTREMES)).unbind(1)
    logits, level, mu, logvar = (t.view(-1, 1).repeat(1, repeat) for t in (logits, level, mu, logvar))
    target = level.to(torch.uint8) if target_dtype == torch.uint8 else level / 255
    count = len(mu)
    pad = (count + len(logits) - 1) // len(logits)
    logits, target = (t.repeat(pad, 1)[:count] for t in (logits, target))
    terms: dict[str, list[Tensor]] = {}
    samples: dict[str, list[Tensor]] = {}
    for name in (impl, "reference"):
        leaves = [t.clone().requires_grad_() for t in (logits, mu, logvar)]
        _, nll, kl = elbo_loss(
            leaves[0], target, leaves[1], leaves[2], likelihood=likelihood, log_scale=log_scale, impl=name
        )
        grads = torch.autograd.grad((nll.sum(), kl.sum()), leaves)
        terms[name] = [nll, kl, *grads]
        z = reparameterize(leaves[1], leaves[2], 1, 2, impl=name)
        samples[name] = [z, *torch.autograd.grad(z.sum(), leaves[1:])]
    for ours, exact in zip(terms[impl], terms["reference"], strict=True):
        torch.testing.assert_close(ours, exact, rtol=3e-6, atol=1e-6, equal_nan=True)
    for ours, exact in zip(samples[impl], samples["reference"], strict=True):
        # the noise may differ by 1e-6, which the largest finite e^(logvar / 2) multiplies
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-6, equal_nan=True)
