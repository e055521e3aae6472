"""A step of Adam on all 652,824 parameters; ours also computes the gradients' norm, skips, and records metrics."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.contenders.network import initial_model
from benchmarks.harness import floors
from benchmarks.harness.metadata import Case
from benchmarks.harness.operator_runs import time_calls
from benchmarks.harness.rounds import Pace, Turn
from benchmarks.harness.suites import Suite
from vae_fast.kernels import Rates, Terms, finish_step_
from vae_fast.training.optim import Adam
from vae_fast.training.step_metrics import StepMetrics

BATCHES, PRECISIONS = [1], ["fp32"]
LABELS = {
    "eager": "torch.optim.Adam",
    "eager-tuned": "torch.optim.Adam(fused=True)",
    "fused": "vae_fast, with norm, skipping and metrics",
}
MOVED = 7 * 4  # bytes per parameter: it and two moments read and written, its gradient read


class Optimizers:
    """Enough networks to fill the caches, each with its optimizer and random gradients."""

    def __init__(self, name: str, device: str) -> None:
        self.models: list[nn.Module] = []
        self.optimizers: list[torch.optim.Optimizer | Ours] = []
        size = 4 * floors.tensor_bytes(*initial_model().parameters())
        for _ in range(max(2, floors.beyond_caches(device) // size)):
            model = initial_model().to(device)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            self.models.append(model)
            self.optimizers.append(_optimizer(name, model, device))

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def check(self) -> None:
        """Check two steps of the first network with Adam's equations in float64 (Kingma & Ba 2015, algorithm 1)."""
        parameters = list(self.models[0].parameters())
        # capturable=True computes 1 - 0.999^t in float32, off by up to 3e-5; a step of 1e-3 is off by half as much
        atol = 1e-7 if parameters[0].is_cuda else 1e-8
        exact = [p.detach().double() for p in parameters]
        gradients = [p.grad.double() for p in parameters if p.grad is not None]
        for _ in range(2):
            self.optimizers[0].step()
            exact = [_adam(p, g) for p, g in zip(exact, gradients, strict=True)]
        for ours, theirs in zip(parameters, exact, strict=True):
            torch.testing.assert_close(ours.detach().double(), theirs, rtol=1e-6, atol=atol)


def _adam(p: Tensor, g: Tensor) -> Tensor:
    """Return an update for the same gradient as in all updates before: the corrected moments are then g and g^2."""
    return p - 1e-3 * g / (g.square().sqrt() + 1e-8)


class Ours:
    """`finish_step_` as the engine calls it, on the parameters' own gradients."""

    def __init__(self, model: nn.Module) -> None:
        parameters = list(model.parameters())
        device = parameters[0].device
        self._gradients = [p.grad for p in parameters if p.grad is not None]
        self._adam = Adam(model.named_parameters(), flat=device.type == "cuda")
        self._terms = Terms(torch.ones(128, device=device), torch.ones(128, device=device))
        self.rates = Rates(torch.tensor(1e-3, device=device), torch.ones((), device=device))
        self._record = StepMetrics(device).record

    def step(self) -> None:
        finish_step_(
            self._adam.state,
            self._gradients,
            self._terms,
            self.rates,
            self._record,
            images=128,
            **self._adam.settings,
        )


def _optimizer(name: str, model: Any, device: str) -> "torch.optim.Optimizer | Ours":
    if name == "fused":
        return Ours(model)
    return torch.optim.Adam(
        model.parameters(), lr=1e-3, fused=True if name == "eager-tuned" else None, capturable=device == "cuda"
    )


@pytest.mark.suite(Suite("adam", LABELS, seconds=1, what="step", has_batch=False))
@pytest.mark.parametrize("name", LABELS)
def test_adam(name: str, case: Case, pace: Pace, benchmark: Any) -> None:
    contender, baseline = (Optimizers(one, case.device) for one in (name, "eager"))
    contender.check()
    baseline.check()
    turns = [Turn(floors.replayed(o.step) if case.device == "cuda" else o.step) for o in (contender, baseline)]
    parameters = sum(p.numel() for p in contender.models[0].parameters())
    time_calls(
        benchmark,
        case,
        turns,
        len(contender.models),
        MOVED * parameters,
        pace.of(name),
        suite="adam",
        what="step",
        contender=name,
        label=LABELS[name],
        ours=name == "fused",
        batch=None,
        shape=[parameters],
    )
