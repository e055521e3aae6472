"""Tests of the end of a training step with PyTorch's operators, and of its specification against PyTorch's classes."""

from math import inf
from typing import Any

import pytest
import torch

from tests.kernels.finish_step_cases import CASES, IMAGES, Case, check_finish_step, finished
from vae_fast.kernels import Flat, Terms, dispatch, finish_step_, reference
from vae_fast.training.loss_scale import LossScale


@pytest.mark.parametrize("settings", CASES)
def test_the_end_of_a_step_matches_the_specification(settings: dict[str, Any]) -> None:
    check_finish_step("torch", **settings)


def test_the_specification_matches_pytorchs_adam() -> None:
    """Compare with torch.optim.Adam(fused=True) in float64, on the steps that are taken."""
    settings = CASES[0]
    case = Case(settings, "cpu")
    state = [[t.double() for t in group.views] for group in case.adam[:3] if group is not None]
    theirs = [torch.nn.Parameter(t.clone()) for t in state[0]]
    optimizer = torch.optim.Adam(theirs, fused=True)
    count = torch.zeros((), dtype=torch.float64)
    for number in range(4):
        gradients, terms, rates = case.step(number)
        reference.finish_step_(*state, None, count, gradients, terms, rates, case.record, None, **case.options)
        optimizer.param_groups[0]["lr"] = rates.lr.double()
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.double()
        optimizer.step()
    for ours, other in zip(state[0], theirs, strict=True):
        torch.testing.assert_close(ours, other.detach(), rtol=1e-12, atol=1e-12)


def test_the_same_arguments_give_the_same_bits() -> None:
    one, two = (finished(Case(CASES[1], "cpu"), "torch") for _ in range(2))
    assert torch.equal(one.adam.parameters.data, two.adam.parameters.data)
    assert torch.equal(one.record.ring, two.record.ring)


def test_a_skipped_step_is_recorded_as_such() -> None:
    case = finished(Case(CASES[0], "cpu"), "torch")
    rows = case.record.ring[[250, 254, 0]]  # steps 250, 254 and 256
    assert rows[0, 3:].tolist() == [IMAGES, 0]
    assert rows[1].tolist() == rows[2].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("skips", [[], [1], [3, 4, 5]])
def test_the_scale_changes_like_that_of_gradscaler(skips: list[int]) -> None:
    """Compare with torch._amp_update_scale_, which GradScaler.update calls."""
    case = Case(CASES[2], "cpu")
    factor, growth = torch.tensor(1024.0), torch.tensor(1996, dtype=torch.int32)
    for number in range(8):
        gradients, terms, rates = case.step(0)
        found = torch.tensor(float(number in skips))
        if number in skips:
            gradients[0][0, 0] = inf
        torch._amp_update_scale_(factor, growth, found, reference.GROWTH, reference.BACKOFF, reference.GROWTH_INTERVAL)
        state = case.adam, gradients, terms, rates, case.record, case.scale
        finish_step_(*state, impl="torch", **case.options)
        assert case.scale is not None
        assert (case.scale.factor, case.scale.growth) == (factor, growth)


def test_the_state_of_a_gradscaler_is_loaded() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**11)
    scaler.scale(torch.zeros(()))
    before = scaler.state_dict() | {"_growth_tracker": 17}
    scale = LossScale(True, torch.device("cpu"))
    scale.load(before)
    assert scale.state() == before
    off = LossScale(False, torch.device("cpu"))
    off.load({})
    assert (off.state(), off.factor.item()) == ({}, 1.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"impl": "fast"}, ValueError, "impl: expected one of 'auto', 'triton', 'torch', got 'fast'"),
        ({"gradients": []}, ValueError, "gradients: expected one for each of 6 parameters, got 0"),
        ({"gradients": [torch.zeros(1)] * 6}, ValueError, r"gradients\[0\]: expected \[3, 5\], got \[1\]"),
        ({"gradients": [torch.zeros(3, 5).double()] * 6}, TypeError, r"gradients\[0\]: expected float32, bfloat16"),
        ({"terms": Terms(torch.zeros(3), torch.zeros(2))}, ValueError, r"kl: expected \[3\], got \[2\]"),
        ({"impl": "triton", "flat": False}, RuntimeError, "the parameters are not flat"),
        pytest.param(
            {"impl": "triton"},
            RuntimeError,
            "impl='triton' of finish_step_ is not available: it runs on a GPU",
            marks=pytest.mark.skipif(dispatch.missing("triton") is not None, reason=str(dispatch.missing("triton"))),
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    case = Case(CASES[0], "cpu")
    gradients, terms, rates = case.step(0)
    adam = case.adam if change.get("flat", True) else case.adam._replace(parameters=Flat(None, case.random(0)))
    given = adam, change.get("gradients", gradients), change.get("terms", terms), rates, case.record, case.scale
    with pytest.raises(error, match=message):
        finish_step_(*given, impl=change.get("impl", "torch"), **case.options)
