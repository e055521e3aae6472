"""Checks of how an implementation handles transforms of torch.func, forward mode and second derivatives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from tests.kernels.operator_calls import CONSTANT, FUSED, Call

Scalar = Callable[[Tensor], Tensor]


def _tangent(f: Scalar, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
        assert tangent is not None, "the tangent was lost"
        return tangent


def _per_sample(f: Scalar, x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.grad(f))(torch.stack((x, x + 1)))


def _twice(f: Scalar, x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    return torch.autograd.grad(first.square().sum(), leaf)[0]


def first(f: Scalar, x: Tensor) -> Tensor:
    """Return the gradient by backward, which every implementation has."""
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


def _second(f: Scalar, x: Tensor) -> Tensor:
    """Return the Hessian row by row, each row being the gradient of an entry of the gradient."""
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    rows = [torch.autograd.grad(g, leaf, retain_graph=True)[0] for g in gradient.flatten()]
    return torch.stack(rows).view(*x.shape, *x.shape)


# Each transform with the plain backward passes that it must equal.
TRANSFORMS: dict[str, tuple[Callable[[Scalar, Tensor], Tensor], Callable[[Scalar, Tensor], Tensor]]] = {
    "func.grad": (lambda f, x: torch.func.grad(f)(x), first),
    "func.jacrev": (lambda f, x: torch.func.jacrev(f)(x), first),
    "func.jacfwd": (lambda f, x: torch.func.jacfwd(f)(x), first),
    "func.vjp": (lambda f, x: torch.func.vjp(f, x)[1](torch.ones(()))[0], first),
    "func.jvp": (lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1], lambda f, x: first(f, x).sum()),
    "func.hessian": (lambda f, x: torch.func.hessian(f)(x), _second),
    "vmap of grad": (_per_sample, lambda f, x: torch.stack((first(f, x), first(f, x + 1)))),
    "forward mode": (_tangent, lambda f, x: first(f, x).sum()),
}
SECOND: dict[str, Callable[[Scalar, Tensor], Tensor]] = {
    "create_graph": _twice,
    "functional.hessian": lambda f, x: torch.autograd.functional.hessian(f, x),
}


def scalar(call: Call, impl: str) -> Scalar:
    def f(x: Tensor) -> Tensor:
        value = call.function(x, impl)
        return sum(t.float().sum() for t in (value if isinstance(value, tuple) else (value,)))

    return f


def check_transform_is_refused(impl: str, function: str, transform: str) -> None:
    """Check that the error names the public function and ends with the remedy."""
    call = {**FUSED, **CONSTANT}[function]
    message = rf"impl='{impl}' of {function.split()[0]} is not available: .*; pass impl='reference'$"
    with pytest.raises(RuntimeError, match=message):
        TRANSFORMS[transform][0](scalar(call, impl), call.argument)


def check_second_derivative_is_refused(impl: str, function: str, way: str) -> None:
    """Check that a second derivative raises, while create_graph alone works."""
    call = FUSED[function]
    f = scalar(call, impl)
    leaf = call.argument.detach().requires_grad_()
    (graph,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    assert torch.equal(graph, first(f, call.argument))
    message = r"^vae_fast::\w+: the fused implementations have no second derivatives; pass impl='reference'$"
    with pytest.raises(RuntimeError, match=message):
        SECOND[way](f, call.argument)


def check_vmap(impl: str, function: str) -> None:
    """Check that vmap gives the same as separate calls for each sample."""
    call = FUSED[function]
    samples = torch.stack((call.argument, call.argument + 1))
    mapped = torch.func.vmap(lambda x: call.function(x, impl))(samples)
    torch.testing.assert_close(mapped, torch.stack([call.function(x, impl) for x in samples]))
