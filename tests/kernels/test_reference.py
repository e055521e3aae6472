"""Tests of the specification itself against closed forms, numerical integration and fp64 gradients."""

import math

import pytest
import torch
from torch import Tensor

from vae_fast.kernels import reference

SCALE = torch.tensor(-1.3, dtype=torch.float64)


def arguments(likelihood: str) -> tuple[Tensor, ...]:
    return (SCALE,) if likelihood in reference.SCALED else ()


def probabilities(likelihood: str, logit: float) -> tuple[Tensor, Tensor]:
    """Return exp(-nll) over its whole support, and the weight of each point in the sum or integral."""
    x = {
        "bernoulli": torch.tensor([0, 1], dtype=torch.float64),
        "continuous_bernoulli": torch.linspace(0, 1, 20_001, dtype=torch.float64),
        "gaussian": torch.linspace(-8, 8, 20_001, dtype=torch.float64),
        "discretized_logistic": torch.arange(256, dtype=torch.float64) / 255,
    }[likelihood]
    weight = torch.ones_like(x)
    if likelihood in ("continuous_bernoulli", "gaussian"):  # the trapezoidal rule
        weight *= x[1] - x[0]
        weight[[0, -1]] /= 2
    nll = reference.LIKELIHOODS[likelihood](torch.full_like(x, logit), x, *arguments(likelihood))
    return (-nll).exp(), weight


@pytest.mark.parametrize("likelihood", reference.LIKELIHOODS)
@pytest.mark.parametrize("logit", [-3.0, -0.4, -1e-3, 0.0, 0.05, 0.7, 2.0])
def test_each_likelihood_is_normalised(likelihood: str, logit: float) -> None:
    p, weight = probabilities(likelihood, logit)
    assert (p * weight).sum().item() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("likelihood", reference.LIKELIHOODS)
def test_gradients_of_each_likelihood_are_correct(likelihood: str) -> None:
    logit = torch.linspace(-6, 6, 25, dtype=torch.float64).repeat(3).requires_grad_()
    x = torch.tensor([0, 100 / 255, 1], dtype=torch.float64).repeat_interleave(25)
    scale = tuple(s.clone().requires_grad_() for s in arguments(likelihood))
    assert torch.autograd.gradcheck(lambda *a: reference.LIKELIHOODS[likelihood](a[0], x, *a[1:]), (logit, *scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [0.05, 0.5])
def test_the_continuous_bernoulli_is_smooth_where_its_two_forms_meet(dtype: torch.dtype, bound: float) -> None:
    """Compare value and derivative on both sides of the bound with the even function's values in fp64."""
    around = torch.linspace(-1.02 * bound, 1.02 * bound, 1001, dtype=dtype, requires_grad=True)
    value = reference._log_normalizer(around)
    (slope,) = torch.autograd.grad(value.sum(), around)
    a = around.detach().double().abs().clamp(min=1e-12)
    exact = torch.where(a < 1e-4, math.log(2) + a**2 / 12, (a / (a / 2).tanh()).log())
    exact_slope = around.detach().double().sign() * torch.where(a < 0.02, a / 6 - 7 * a**3 / 360, 1 / a - 1 / a.sinh())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(value.double(), exact, rtol=0, atol=8 * eps)
    # 1/l - 1/sinh(l) loses eps / l to cancellation at the bound; the test's own fp64 formula loses 1e-9 below it
    torch.testing.assert_close(slope.double(), exact_slope, rtol=0, atol=8 * eps / bound + 2e-9)


@pytest.mark.parametrize("likelihood", reference.LIKELIHOODS)
def test_extreme_logits_are_finite_and_nan_and_inf_propagate(likelihood: str) -> None:
    """Check in fp32 that value and gradient are finite for logits of +-1e4, NaN stays NaN, and inf is never finite."""
    logit = torch.tensor([-1e4, -100, 0, 100, 1e4, float("nan")], requires_grad=True)
    x = torch.full_like(logit, 0.3).detach()
    nll = reference.LIKELIHOODS[likelihood](logit, x, *(a.float() for a in arguments(likelihood)))
    (slope,) = torch.autograd.grad(nll.sum(), logit)
    assert nll[:-1].isfinite().all()
    assert slope[:-1].isfinite().all()
    assert nll[-1].isnan()
    assert slope[-1].isnan()
    infinite = reference.LIKELIHOODS[likelihood](torch.tensor(float("inf")), x[0], *arguments(likelihood))
    assert not infinite.isfinite()


def test_the_bernoulli_is_softplus_minus_the_product() -> None:
    logit, x = torch.linspace(-30, 30, 61, dtype=torch.float64), torch.linspace(0, 1, 61, dtype=torch.float64)
    expected = torch.logaddexp(logit, torch.zeros_like(logit)) - x * logit
    torch.testing.assert_close(reference.bernoulli(logit, x), expected, rtol=1e-12, atol=1e-12)


def test_the_kl_is_that_of_two_normals() -> None:
    mu = torch.tensor([[0.0, 1.5, -2.0]], dtype=torch.float64)
    logvar = torch.tensor([[0.0, 0.8, -3.0]], dtype=torch.float64)
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1))
    torch.testing.assert_close(reference.kl_per_dimension(mu, logvar), expected)


def test_large_logvar_overflows_to_inf_and_is_not_clamped() -> None:
    kl = reference.kl_per_dimension(torch.zeros(4), torch.tensor([88.0, 89.0, 1e3, -1e3]))
    assert kl.isinf().tolist() == [False, True, True, False]
    assert kl[-1].item() == pytest.approx(499.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("likelihood", reference.LIKELIHOODS)
def test_the_explicit_gradient_matches_autograd(likelihood: str, target_dtype: torch.dtype, dtype: torch.dtype) -> None:
    logits = torch.linspace(-120, 120, 60, dtype=dtype).view(3, 4, 5)
    if likelihood in reference.SCALED:
        logits = logits / 120  # the mean of pixels
    logits.requires_grad_()
    target = torch.arange(0, 240, 4).view(3, 20)
    target = target.to(torch.uint8) if target_dtype == torch.uint8 else (target / 255).to(target_dtype)
    weight = torch.tensor(0.7)
    for scale in (None,) if likelihood not in reference.SCALED else (torch.tensor(-1.0), torch.linspace(-3, 1, 20)):
        log_scale = None if scale is None else scale.to(dtype).requires_grad_()
        given = likelihood, None if log_scale is None else log_scale.detach()
        value, *gradients = reference.nll_with_gradient(logits.detach(), target, weight, *given)
        exact = reference.nll(logits, target, likelihood, log_scale)
        leaves = [logits] if log_scale is None else [logits, log_scale]
        by_leaves = torch.autograd.grad(exact, leaves, weight.to(dtype).expand(3))
        assert torch.equal(value, exact)
        eps = torch.finfo(dtype).eps
        for gradient, by_leaf in zip(gradients, by_leaves, strict=False):
            torch.testing.assert_close(gradient, by_leaf, rtol=64 * eps, atol=8 * eps * by_leaf.abs().max().item())
