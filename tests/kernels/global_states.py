"""PyTorch's global settings as contexts, and the check that a call gives the same bits within them as outside."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from tests.kernels.operator_calls import CALLS, FUSED, Call, results


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device meta": lambda: torch.device("meta"),
    "default device cpu": lambda: torch.device("cpu"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic,
}
WITHOUT_GRADIENTS = ("no_grad", "inference_mode", "set_grad_enabled(False)")


def check_state(impl: str, function: str, state: str) -> None:
    """Compare values, and gradients unless the state disables them."""
    wanted = function in FUSED
    outside = _outside(function, impl)
    with STATES[state]():
        within = _values_and_gradient(CALLS[function], impl, wanted and state not in WITHOUT_GRADIENTS)
    assert len(within) == len(outside) - (wanted and state in WITHOUT_GRADIENTS)
    for ours, theirs in zip(within, outside, strict=False):
        assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)
        assert torch.equal(ours, theirs)


@functools.cache
def _outside(function: str, impl: str) -> list[Tensor]:
    return _values_and_gradient(CALLS[function], impl, function in FUSED)


def _values_and_gradient(call: Call, impl: str, wanted: bool) -> list[Tensor]:
    leaf = call.argument.detach().clone().requires_grad_()
    values = results(call, impl, leaf)
    gradient = list(torch.autograd.grad(values, leaf, [torch.ones_like(v) for v in values])) if wanted else []
    return [*(v.detach() for v in values), *gradient]
