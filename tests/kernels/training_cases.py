"""Checks of the operators of a training step against the reference in float64: values and the gradients they return."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.kernels.finish_step_cases import CASES, Case
from tests.kernels.operator_cases import SEED, STEP, encoded, images, sizes, within
from vae_fast.kernels import (
    finish_step_,
    nll_with_gradient,
    philox,
    random_bits,
    reference,
    sample_posterior,
    sample_posterior_gradient,
)


def check_nll_with_gradient(
    impl: str, logits: Tensor, target: Tensor, likelihood: str = "bernoulli", log_scale: Tensor | None = None
) -> None:
    weight = torch.tensor(0.7, device=logits.device)
    given = {"likelihood": likelihood, "log_scale": log_scale}
    value, gradient, by_scale = nll_with_gradient(logits, target, weight, **given, impl=impl)
    assert (value.dtype, gradient.dtype, gradient.shape) == (torch.float32, logits.dtype, logits.shape)
    x = target if target.dtype == torch.uint8 else target.double()
    scale = None if log_scale is None else log_scale.double()
    exact, exact_gradient, exact_by_scale = reference.nll_with_gradient(logits.double(), x, weight, likelihood, scale)
    pixels = x.flatten(1).double() / (255 if target.dtype == torch.uint8 else 1)
    size = sizes(likelihood, logits.flatten(1).double(), pixels, pixels.new_zeros(()) if scale is None else scale)
    within(value, exact, 20, size.value.sum(1))  # as in check_nll
    within(gradient.flatten(1), exact_gradient.flatten(1), 8, 0.7 * size.by_logit)
    assert (by_scale is None) == (log_scale is None)
    if log_scale is not None:
        assert by_scale.dtype == log_scale.dtype
        by_pixel = 0.7 * size.by_scale.sum(0)
        within(by_scale, exact_by_scale, 20, by_pixel if log_scale.dim() else by_pixel.sum())


def check_sample_posterior_gradient(impl: str, stats: Tensor, by_dimension: bool, row_offset: int = 0) -> None:
    b, z = stats.shape[0], stats.shape[1] // 2
    grad_z = torch.linspace(-2, 2, b * z, device=stats.device).view(b, z).to(stats.dtype)
    weight = torch.linspace(-1, 2, z, device=stats.device) if by_dimension else torch.tensor(1.5, device=stats.device)
    seed, step = SEED.to(stats.device), STEP.to(stats.device)
    gradient = sample_posterior_gradient(grad_z, weight, stats, seed, step, row_offset=row_offset, stream=16, impl=impl)
    assert (gradient.dtype, gradient.shape) == (stats.dtype, stats.shape)
    leaf = stats.double().requires_grad_()
    bits = random_bits(b, z + z % 2, seed, step, row_offset=row_offset, stream=16, impl="reference")
    sample = reference.sample_posterior(leaf, bits)[0]
    kl = reference.kl_per_dimension(*leaf.chunk(2, dim=1))
    (exact,) = torch.autograd.grad((sample, kl), leaf, (grad_z.double(), weight.double().expand(b, z)))
    m, v = stats.double().chunk(2, dim=1)
    noise = (v / 2).exp() * philox.normals(bits)[:, :z].abs().clamp(min=1)
    by_z, by_kl = grad_z.double().abs(), weight.double().abs()
    size = torch.cat((by_z + by_kl * m.abs(), by_z * noise / 2 + by_kl * (1 + v.exp())), dim=1)
    within(gradient, exact, 13, size)  # as in check_sample_posterior


def check_row_offset_on_the_device(impl: str, stats: Tensor) -> None:
    seed, step = SEED.to(stats.device), STEP.to(stats.device)
    there = torch.tensor(2**33 + 5, device=stats.device)
    ours = sample_posterior(stats, seed, step, row_offset=there, stream=16, impl=impl)
    exact = sample_posterior(stats, seed, step, row_offset=2**33 + 5, stream=16, impl=impl)
    assert torch.equal(ours.z, exact.z)
    assert torch.equal(ours.kl, exact.kl)
    assert not ours.z.requires_grad


def calls(device: str) -> Callable[[], None]:
    """Return a call of every operator that a training step uses besides its networks, on existing tensors."""
    stats, (logits, target) = encoded(9, 5, "contiguous", device=device), images(9, 50, "contiguous", torch.uint8)
    logits, target = logits.to(device), target.to(device)
    weight, row_offset = torch.tensor(0.5, device=device), torch.tensor(7, device=device)
    case = Case(CASES[2], device)
    step = case.step(0)

    def made() -> None:
        nll_with_gradient(logits, target, weight)
        sample_posterior_gradient(stats[:, :5], weight, stats, 3, 4)
        sample_posterior(stats, 3, 4, row_offset=row_offset)
        finish_step_(case.adam, *step, case.record, case.scale, impl="triton", **case.options)

    return made
