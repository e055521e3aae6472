"""Tests of the arguments of the whole step in C++: what is refused, and that nothing changes then."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.mlp_cases import SEED, STEP, Case, Run, same
from vae_fast.kernels import Record, extension, fused_mlp

pytestmark = pytest.mark.skipif(not extension.load(), reason=extension.status())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"parameters": []}, ValueError, "expected weight and bias of as many layers"),
        ({"parameters": [torch.zeros(4, 9)] * 8}, ValueError, r"parameters: expected \[N, 9\] and \[N\] as layer 0"),
        ({"images": torch.zeros(9, 92)}, ValueError, r"images: expected contiguous \[N, 93\], got \[9, 92\]"),
        ({"images": torch.zeros(9, 93).double()}, TypeError, "images: expected uint8 or float32, got Double"),
        ({"rows": torch.tensor([3, 9])}, IndexError, r"order: expected values in \[0, 9\), got 9"),
        ({"rows": torch.tensor([3, -1])}, IndexError, "got -1"),
        ({"rows": torch.zeros(0).long()}, ValueError, r"order: expected contiguous \[steps, B\], neither of them 0"),
        ({"rows": torch.zeros(2)}, TypeError, "order: expected int64"),
        ({"rows": None, "images": torch.zeros(0, 93)}, ValueError, "at least one image"),
        ({"copies": torch.zeros(9).int()}, ValueError, "copies: expected for products in bfloat16 and for no others"),
        ({"products": "portable"}, ValueError, "copies: expected for products in bfloat16 .* got none for portable"),
        ({"seed": torch.tensor(0.0)}, ValueError, "seed: expected a 0-d int64 tensor"),
        ({"beta": torch.zeros(1)}, ValueError, "beta: expected a 0-d tensor"),
        ({"activation": "sine"}, ValueError, "activation: got the unknown 'sine'"),
        ({"likelihood": "cauchy"}, ValueError, "likelihood: got the unknown 'cauchy'"),
        (
            {"likelihood": "gaussian"},
            ValueError,
            "log_scale: expected one, or a learned one with likelihood 'gaussian'",
        ),
        ({"log_scale": 0.5}, ValueError, "log_scale: expected none with likelihood 'bernoulli'"),
        (
            {"parameters": [*Case(4).parameters, torch.zeros(5)]},
            ValueError,
            r"parameters: expected a scale \[S\], S dividing the 93 pixels, got \[5\]",
        ),
        ({"stream": -1}, ValueError, "stream: expected a value in"),
        ({"terms": torch.zeros(5)}, TypeError, "terms: expected float64"),
        ({"workspace": torch.zeros(9)}, ValueError, "workspace: expected contiguous"),
        ({"gradients": [torch.zeros(3)]}, ValueError, "gradients: expected 8 tensors, got 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    case = Case(4)
    arguments = {
        "parameters": case.parameters,
        "gradients": [torch.zeros_like(p) for p in case.parameters],
        "copies": None,
        "images": case.images,
        "rows": case.rows,
        "seed": SEED,
        "step": STEP,
        "beta": case.beta,
        "activation": "relu",
        "workspace": case.workspace,
        "terms": case.terms,
    }
    with pytest.raises(error, match=message):
        fused_mlp.mlp_gradients(**{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": [torch.zeros(3)] * 3}, "means: expected 8 tensors, got 3"),
        ({"squares": [torch.zeros(1, 50, 93)] * 8}, "squares: expected contiguous"),
        ({"count": torch.zeros(1)}, "count: expected a 0-d tensor"),
        ({"copies": torch.zeros(9).int(), "products": "portable"}, r"copies: expected contiguous \[\d+\], got \[9\]"),
        ({"schedule": torch.zeros(3)}, r"schedule: expected contiguous \[steps of an epoch, 2\], got \[3\]"),
        ({"order": torch.zeros(4, 9).long()}, "order: expected as many rows as the schedule's 2, got"),
        ({"order": None}, "images: expected 2 batches of one size, got 9 images"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"record": Record(torch.tensor(-1), *Run(Case(4), 2).record[1:])}, "step: expected a value in"),
        (
            {"record": Record(*Run(Case(4), 2).record[:2], torch.zeros(5).double())},
            "ring: expected contiguous",
        ),
    ],
)
def test_a_step_refuses_arguments_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    run = Run(Case(4), 2)
    before = [t.clone() for t in run.tensors()]
    arguments = {
        **run.state._asdict(),
        "copies": None,
        "images": run.case.images,
        "order": run.order,
        "schedule": run.schedule,
        "seed": SEED,
        "record": run.record,
        "steps": 2,
        "activation": "relu",
        "workspace": run.case.workspace,
    }
    with pytest.raises(ValueError, match=message):
        fused_mlp.mlp_steps_(**{**arguments, **change})
    assert same(run.tensors(), before)


def test_autograd_detects_a_step_if_it_needs_the_old_weights() -> None:
    case, state = Case(4), Case(4).state()
    weight = state.parameters[0].requires_grad_()
    loss = weight.square().sum()
    case.step(state)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_reason_for_refusing_a_network_is_given() -> None:
    parameters = Case(1).parameters
    assert fused_mlp.mlp_refuses(parameters, "relu") is None
    assert (
        fused_mlp.mlp_refuses(parameters, "sine")
        == f"the activation 'sine' is none of {', '.join(fused_mlp.FUSED_ACTIVATIONS)}"
    )
    assert "float64" in str(fused_mlp.mlp_refuses([p.double() for p in parameters], "relu"))


def test_an_unknown_loop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"products: expected float32 or one of .*portable.*, got 'abacus'"):
        fused_mlp.mlp_workspace(Case(4).parameters, 4, products="abacus")


def test_the_operators_accept_fake_tensors() -> None:
    run = Run(Case(4), 2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        run.case.gradients()
        run.advance(run.case.images, run.order, 2)


def test_flushing_denormals_reaches_every_thread() -> None:
    tiny = torch.full((2**20,), 1e-40)
    try:
        for on, left in ((True, 0), (False, len(tiny))):
            assert fused_mlp.set_flush_denormal(on)
            assert (tiny * 1.0).view(torch.int32).count_nonzero() == left
    finally:
        fused_mlp.set_flush_denormal(False)
