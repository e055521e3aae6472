"""Tests that PyTorch's global settings change no result: default dtype and device, no_grad, autocast, determinism."""

import pytest
import torch
from torch import Tensor

from tests.kernels.global_states import STATES, check_state
from tests.kernels.mlp_cases import Case
from tests.kernels.operator_calls import CALLS, NOT_IN_CPP, normal
from vae_fast.kernels import adam, adam_, extension, mlp_copies, mlp_workspace

needs_library = pytest.mark.skipif(not extension.load(), reason=extension.status())


@pytest.mark.parametrize(
    ("impl", "function"),
    [
        pytest.param(impl, function, marks=[needs_library] if impl == "cpp" else [])
        for impl in ("auto", "reference", "cpp")
        for function in CALLS
        if impl != "cpp" or function not in NOT_IN_CPP
    ],
)
@pytest.mark.parametrize("state", STATES)
def test_a_call_gives_the_same_bits(impl: str, function: str, state: str) -> None:
    check_state(impl, function, state)


@pytest.mark.parametrize("has_library", [pytest.param(True, marks=needs_library), False])
@pytest.mark.parametrize("state", STATES)
def test_adam_takes_the_same_step(monkeypatch: pytest.MonkeyPatch, state: str, has_library: bool) -> None:
    monkeypatch.setattr(adam, "HAS_LIBRARY", has_library)

    def stepped() -> list[Tensor]:
        parameters, gradients = [normal(4, 3), normal(5)], [normal(4, 3, seed=1), normal(5, seed=2)]
        means, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        count = parameters[0].new_zeros(())
        norm = adam_(parameters, means, squares, count, gradients, lr=1e-3, weight_decay=0.1, max_norm=1.0)
        return [*parameters, *means, *squares, count, norm]

    outside = stepped()
    with STATES[state]():
        within = stepped()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(within, outside, strict=True))


@needs_library
@pytest.mark.parametrize("state", STATES)
def test_the_fused_steps_memory_has_the_right_dtype_and_device(state: str) -> None:
    parameters = Case(8).parameters
    with STATES[state]():
        made = mlp_workspace(parameters, 8), mlp_copies(parameters)
    assert [(t.dtype, t.device.type) for t in made] == [(torch.float32, "cpu"), (torch.int32, "cpu")]
