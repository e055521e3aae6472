"""Tests within torch.func and forward mode: the reference's results, the choice of "auto", and the others' errors."""

import pytest
import torch

import vae_fast as vf
from tests.kernels.operator_calls import FUSED, LOGVAR, MU, Z, normal
from tests.kernels.transform_cases import (
    SECOND,
    TRANSFORMS,
    check_second_derivative_is_refused,
    check_transform_is_refused,
    check_vmap,
    first,
    scalar,
)
from vae_fast.kernels import extension, linear, matmul, nll_with_gradient, random_bits

needs_library = pytest.mark.skipif(not extension.load(), reason=extension.status())
# PyTorch's own warning, for code that it uses in forward mode
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
CPP = pytest.param("cpp", marks=needs_library)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("function", FUSED)
def test_the_reference_is_transformed_like_pytorchs_own_operators(function: str, transform: str, impl: str) -> None:
    call = FUSED[function]
    transformed, plain = TRANSFORMS[transform]
    exact = plain(scalar(call, "reference"), call.argument)
    torch.testing.assert_close(transformed(scalar(call, impl), call.argument), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", FUSED)
def test_the_reference_has_second_derivatives(function: str) -> None:
    call = FUSED[function]
    argument = call.argument.double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: call.function(x, "reference"), argument)


@needs_library
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("function", FUSED)
def test_cpp_refuses_a_transform_by_name(function: str, transform: str) -> None:
    check_transform_is_refused("cpp", function, transform)


@needs_library
@pytest.mark.parametrize("function", ["nll_with_gradient", "sample_posterior_gradient"])
def test_cpp_refuses_a_transform_of_a_call_without_gradient(function: str) -> None:
    check_transform_is_refused("cpp", function, "func.grad")


@needs_library
@pytest.mark.parametrize("way", SECOND)
@pytest.mark.parametrize("function", FUSED)
def test_cpp_refuses_second_derivatives_by_name(function: str, way: str) -> None:
    check_second_derivative_is_refused("cpp", function, way)


@pytest.mark.parametrize("impl", ["auto", "reference", CPP])
@pytest.mark.parametrize("function", FUSED)
def test_vmap_matches_a_call_for_each_sample(function: str, impl: str) -> None:
    check_vmap(impl, function)


@pytest.mark.parametrize("impl", ["auto", "reference", CPP])
def test_vmap_over_steps_draws_different_noise(impl: str) -> None:
    steps = torch.tensor([4, 9])
    mapped = torch.func.vmap(lambda step: vf.reparameterize(MU, LOGVAR, 3, step, impl=impl))(steps)
    each = torch.stack([vf.reparameterize(MU, LOGVAR, 3, step, impl=impl) for step in steps])
    torch.testing.assert_close(mapped, each)
    assert not torch.equal(mapped[0], mapped[1])
    bits = torch.func.vmap(lambda step: random_bits(2, 3, 5, step, impl=impl))(steps)
    assert torch.equal(bits, torch.stack([random_bits(2, 3, 5, step) for step in steps]))


@needs_library
def test_in_forward_mode_cpp_accepts_tensors_without_a_tangent() -> None:
    outside = vf.reparameterize(MU, LOGVAR, 3, 4, impl="cpp")
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(vf.reparameterize(MU, LOGVAR, 3, 4, impl="cpp"), outside)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_transform_of_a_call_without_gradient_gives_none(impl: str) -> None:
    logits, target, weight = normal(2, 3), torch.rand(2, 3), torch.tensor(0.5)
    slope = torch.func.grad(lambda x: nll_with_gradient(x, target, weight, impl=impl).gradient.sum() + x.sum())(logits)
    assert torch.equal(slope, torch.ones(2, 3))


@pytest.mark.parametrize("impl", ["auto", CPP])
def test_a_compiled_transform_matches_the_eager_one(impl: str) -> None:
    call = FUSED["elbo_loss bernoulli"]
    f = scalar(call, impl)
    compiled, mapped = (
        torch.compile(transform(f), backend="aot_eager", fullgraph=True)
        for transform in (torch.func.grad, torch.func.vmap)
    )
    samples = torch.stack((call.argument, call.argument + 1))
    torch.testing.assert_close(mapped(samples), torch.stack([f(x) for x in samples]))
    if impl == "auto":
        torch.testing.assert_close(compiled(call.argument), first(f, call.argument))
    else:
        with pytest.raises(RuntimeError, match="pass impl='reference'"):
            compiled(call.argument)


@needs_library
@pytest.mark.parametrize("transform", ["func.grad", "forward mode", "func.hessian"])
def test_linear_can_be_transformed_when_onednn_is_used(monkeypatch: pytest.MonkeyPatch, transform: str) -> None:
    weight, bias = normal(2, Z, seed=5), normal(2, seed=6)
    transformed, plain = TRANSFORMS[transform]
    exact = plain(lambda x: torch.nn.functional.linear(x, weight, bias).square().sum(), MU)
    monkeypatch.setattr(matmul, "USE_ONEDNN", True)
    torch.testing.assert_close(transformed(lambda x: linear(x, weight, bias).square().sum(), MU), exact)
