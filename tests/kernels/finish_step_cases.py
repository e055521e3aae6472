"""Checks of the end of a training step on random gradients against the specification in float64."""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from vae_fast.kernels import (
    AdamState,
    Flat,
    Rates,
    Record,
    Scale,
    Terms,
    finish_step_,
    flat_like,
    reference,
    registration,
)
from vae_fast.kernels.finish_step import StepEnd, operator_arguments

SHAPES = [(3, 5), (), (0, 4), (7,), (131, 129), (40, 33)]  # the largest spans 17 blocks
STEPS, IMAGES = 9, 37
SKIPPED = {4: "gradient", 6: "loss"}  # the value that is not finite, by step
CASES: list[dict[str, Any]] = [
    {"dtype": torch.float32, "weight_decay": 0.0, "max_norm": inf, "penalty": False},
    {"dtype": torch.bfloat16, "weight_decay": 0.1, "max_norm": 1.0, "penalty": False},
    {"dtype": torch.float16, "weight_decay": 0.0, "max_norm": 1e6, "penalty": True},
]
EPS = torch.finfo(torch.float32).eps


class Case:
    """The tensors that the end of a step changes, with random gradients and losses for each step."""

    def __init__(self, settings: dict[str, Any], device: str, shapes: Sequence[tuple[int, ...]] = SHAPES) -> None:
        self.settings, self.device, self.shapes = settings, device, shapes
        self.dtype = settings["dtype"]
        start = self.random(0)
        zeros = [torch.zeros_like(t) for t in start]
        groups = [flat_like(start, torch.float32) for _ in range(3)]
        copies = flat_like(start, self.dtype) if self.dtype != torch.float32 else None
        for flat, values in zip((*groups, copies), (start, zeros, zeros, start), strict=True):
            for view, value in zip(flat.views if flat else (), values if flat else (), strict=True):
                view.copy_(value)
        self.adam = AdamState(*groups, copies, torch.zeros((), device=device))
        counters = torch.zeros(261, 5, dtype=torch.float64, device=device)
        self.record = Record(torch.tensor(250, device=device), counters[0], counters[5:])
        self.scale = None
        if self.dtype == torch.float16:
            self.scale = Scale(
                torch.tensor(1024.0, device=device), torch.tensor(1996, dtype=torch.int32, device=device)
            )

    def random(self, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(shape, generator=generator).to(self.device) for shape in self.shapes]

    def step(self, number: int) -> tuple[list[Tensor], Terms, Rates]:
        gradients = [(g * 4 if self.scale else g).to(self.dtype) for g in self.random(number + 1)]
        generator = torch.Generator().manual_seed(number)
        nll, kl = (torch.rand(IMAGES, generator=generator).mul(100).to(self.device) for _ in range(2))
        if SKIPPED.get(number) == "gradient":
            gradients[-1].view(-1)[-1] = inf
        if SKIPPED.get(number) == "loss":
            nll[-1] = inf
        penalty = torch.tensor(3.0 + number, device=self.device) if self.settings["penalty"] else None
        rates = Rates(*(torch.tensor(value, device=self.device) for value in (1e-2 / (number + 1), 0.7)))
        return gradients, Terms(nll, kl, penalty), rates

    def arguments(self, number: int) -> tuple[object, ...]:
        """Return the operator's arguments for a step."""
        end = StepEnd(self.adam, *self.step(number), self.record, self.scale, **self.options)
        return operator_arguments(end)

    @property
    def options(self) -> dict[str, Any]:
        return {"weight_decay": self.settings["weight_decay"], "max_norm": self.settings["max_norm"], "images": IMAGES}


def finished(case: Case, impl: str) -> Case:
    adam = case.adam
    if impl == "torch":  # it also accepts separate tensors
        adam = adam._replace(**{k: Flat(None, getattr(adam, k).views) for k in ("parameters", "means", "squares")})
    for number in range(STEPS):
        gradients, terms, rates = case.step(number)
        finish_step_(adam, gradients, terms, rates, case.record, case.scale, impl=impl, **case.options)
    return case


def check_finish_step(impl: str, device: str = "cpu", **settings: Any) -> None:
    """Compare nine steps, two of them skipped, across the end of the ring and a growth of the scale."""
    shapes = settings.pop("shapes", SHAPES)
    ours, exact = finished(Case(settings, device, shapes), impl), Case(settings, device, shapes)
    groups = (exact.adam.parameters, exact.adam.means, exact.adam.squares)
    state = [[t.double() for t in group.views] for group in groups]
    copies = exact.adam.copies.views if exact.adam.copies else None
    count = exact.adam.taken.double()
    for number in range(STEPS):
        reference.finish_step_(*state, copies, count, *exact.step(number), exact.record, exact.scale, **exact.options)
    assert ours.adam.taken.item() == count.item() == STEPS - len(SKIPPED)
    assert ours.record.step.item() == exact.record.step.item() == 250 + STEPS
    torch.testing.assert_close(ours.record, exact.record, rtol=1e-12, atol=0)  # sums of float64 in another order
    if ours.scale and exact.scale:
        assert (ours.scale.factor, ours.scale.growth) == (exact.scale.factor, exact.scale.growth)
    # A few roundings of each update (they sum up to at most 3 lr) and of the parameter; moments relative to their size.
    for flat, theirs, size in zip(
        (ours.adam.parameters, ours.adam.means, ours.adam.squares), state, (0.1, 4, 16), strict=True
    ):
        for t, e in zip(flat.views, theirs, strict=True):
            torch.testing.assert_close(t.double(), e, rtol=24 * EPS, atol=24 * EPS * size)
    if ours.adam.copies:  # the interpreter truncates where a GPU rounds to nearest
        cut = registration.INTERPRETED and ours.dtype == torch.bfloat16
        for copy, parameter in zip(ours.adam.copies.views, ours.adam.parameters.views, strict=True):
            rounding = parameter.abs() * torch.finfo(ours.dtype).eps if cut else torch.zeros_like(parameter)
            assert ((copy.float() - parameter.to(ours.dtype).float()).abs() <= rounding).all()
    for flat in ours.adam[:4]:  # nothing is written between the tensors
        if flat is not None:
            assert flat.data.count_nonzero() == sum(view.count_nonzero() for view in flat.views)
