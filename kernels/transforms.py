"""Detection of the transforms of torch.func and of forward-mode derivatives, which only the reference supports.

The fused implementations support neither: C++ would fail with a message meant for PyTorch's developers, and Triton
would silently lose the tangent. The reference consists of PyTorch's own operators and supports both.
"""

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _functorch
from torch._functorch import pyfunctorch
from torch.autograd import forward_ad

REMEDY = "pass impl='reference'"
_DERIVATIVES = (_functorch.TransformType.Grad, _functorch.TransformType.Jvp)


def active() -> bool:
    """Return whether a transform of torch.func or a level of forward mode is active. Takes 0.1 us, on every call."""
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0


def refused(*tensors: Tensor | None) -> str | None:
    """Return why the fused implementations cannot process these tensors, or None.

    They work within torch.func.vmap, which calls them for one sample after the other, and within functionalize. At a
    level of forward mode they accept tensors that have no tangent.
    """
    if _differentiates() or any(t is not None and _has_tangent(t) for t in tensors):
        return f"it has no derivatives by torch.func or in forward mode; {REMEDY}"
    return None


def no_second_derivative(operator: str) -> RuntimeError:
    """Return the error for differentiating an operator's own backward; csrc/autograd.cpp raises the same one."""
    return RuntimeError(f"vae_fast::{operator}: the fused implementations have no second derivatives; {REMEDY}")


def _differentiates() -> bool:
    """Return whether a transform of torch.func is a derivative; torch.compile sees only the innermost one."""
    if not _are_functorch_transforms_active():
        return False
    if torch.compiler.is_compiling():
        return pyfunctorch.retrieve_current_functorch_interpreter().key() in _DERIVATIVES
    return any(level.key() in _DERIVATIVES for level in _functorch.get_interpreter_stack() or ())


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None
