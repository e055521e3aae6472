"""The end of a training step: the finiteness test, clipping, Adam, low-precision copies, counters and the loss scale.

On a GPU with Triton it is one operator with two launches for any number of parameters, on flat tensors (`adam.Flat`).
Elsewhere `adam_` does the update, and PyTorch's operators do the rest.
"""

from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks, dispatch, registration
from .adam import Flat, Tensors, adam_
from .dispatch import TAKEN
from .reference import BACKOFF, COLUMNS, GROWTH, GROWTH_INTERVAL

torch.library.define(
    "vae_fast::finish_step_",
    "(Tensor(a!) parameters, Tensor(b!) means, Tensor(c!) squares, Tensor(d!)? copies, Tensor(e!) count,"
    " Tensor[] gradients, Tensor nll, Tensor kl, Tensor? penalty, Tensor lr, Tensor beta, Tensor(f!) step,"
    " Tensor(g!) sums, Tensor(h!) ring, Tensor(i!)? scale, Tensor(j!)? growth, float weight_decay, float? max_norm,"
    " SymInt images) -> ()",
)


class AdamState(NamedTuple):
    """The tensors that Adam updates.

    parameters, means, squares: float32, of equal shapes and layout. copies: the parameters rounded to another dtype, in
    the same layout, or None. taken: the number of steps taken, 0-d float32.
    """

    parameters: Flat
    means: Flat
    squares: Flat
    copies: Flat | None
    taken: Tensor


class Terms(NamedTuple):
    """The terms of a step's loss.

    nll, kl: float32 [rows]; their sums are the sums over the step's images. penalty: 0-d float32, multiplied by beta in
    place of the mean of kl; None for the mean of kl.
    """

    nll: Tensor
    kl: Tensor
    penalty: Tensor | None = None


class Rates(NamedTuple):
    """The scheduled values of a step: learning rate and beta, 0-d float32."""

    lr: Tensor
    beta: Tensor


class Record(NamedTuple):
    """The counters, updated in place.

    step: steps attempted so far, 0-d int64. sums, ring: loss, nll and kl summed over the images, in nats, the number of
    images, and whether the step was skipped (`reference.TERM_NAMES`): `sums`, float64 [5], of all steps together, and
    `ring`, float64 [latest, 5], of each of the latest steps, at its number modulo the length.
    """

    step: Tensor
    sums: Tensor
    ring: Tensor


class Scale(NamedTuple):
    """The loss scale under float16, 0-d float32, and the steps taken since it last changed, 0-d int32."""

    factor: Tensor
    growth: Tensor


class StepEnd(NamedTuple):
    """The arguments of `finish_step_`."""

    adam: AdamState
    gradients: Tensors
    terms: Terms
    rates: Rates
    record: Record
    scale: Scale | None
    weight_decay: float
    max_norm: float
    images: int


def finish_step_(
    adam: AdamState,
    gradients: Tensors,
    terms: Terms,
    rates: Rates,
    record: Record,
    scale: Scale | None = None,
    *,
    weight_decay: float = 0.0,
    max_norm: float = inf,
    images: int,
    impl: str = "auto",
) -> None:
    """Finish a training step: update all that depends on its gradients, in place and without involving the host.

    The gradients are divided by the scale, scaled down to max_norm if their norm is larger, and passed to Adam. If the
    loss or their norm is not finite the step is skipped: parameters, moments, copies and count do not change, and the
    step is recorded as (0, 0, 0, 0, 1). The scale halves after a skipped step and doubles after 2,000 steps taken in a
    row.

    Args:
        adam: parameters and moments; Triton needs them flat, as `flat_like` lays them out.
        gradients: one for each parameter, of its shape, float32, bfloat16 or float16, of the loss times the scale; the
            values they hold afterwards are not specified.
        terms: the loss's terms.
        rates: the learning rate and beta of this step.
        record: the counters.
        scale: the loss scale; None for 1.
        weight_decay: lr times this fraction of each weight is subtracted, without passing through the moments (AdamW).
        max_norm: the largest norm of all gradients together.
        images: the number of images in the step.
        impl: "triton", "torch" (`adam_` and PyTorch's operators), or "auto": "triton" for flat tensors.

    Sums are float32 within 1024 values, those of the terms float64; the order is fixed, so that the same arguments give
    the same bits.

    Raises TypeError or ValueError for tensors that do not fit, RuntimeError if Triton is requested but not available.

    Source: reference.py, `finish_step_`, which names the papers.
    """
    checks.one_of("impl", impl, ("auto", "triton", "torch"))
    _check(adam, gradients, terms)
    end = StepEnd(adam, gradients, terms, rates, record, scale, weight_decay, max_norm, images)
    if impl == "auto":
        impl = "torch" if adam.parameters.data is None else "triton"
    if impl == "triton":
        _require_triton(adam)
        torch.autograd.graph.increment_version(adam.parameters.views)
        torch.ops.vae_fast.finish_step_(*operator_arguments(end))
    else:
        _finish_step(end)


def _check(adam: AdamState, gradients: Tensors, terms: Terms) -> None:
    parameters = adam.parameters.views
    if len(gradients) != len(parameters):
        raise ValueError(f"gradients: expected one for each of {len(parameters)} parameters, got {len(gradients)}")
    for index, (gradient, parameter) in enumerate(zip(gradients, parameters, strict=True)):
        if gradient.dtype not in TAKEN:
            raise TypeError(f"gradients[{index}]: expected float32, bfloat16 or float16, got {gradient.dtype}")
        if gradient.shape != parameter.shape:
            raise ValueError(f"gradients[{index}]: expected {list(parameter.shape)}, got {list(gradient.shape)}")
    for name, value in (("nll", terms.nll), ("kl", terms.kl)):
        if value.dim() != 1 or len(value) != len(terms.nll):
            raise ValueError(f"{name}: expected [{len(terms.nll)}], got {list(value.shape)}")


def _require_triton(adam: AdamState) -> None:
    device, missing = adam.taken.device, dispatch.missing("triton")
    if adam.parameters.data is None:
        raise RuntimeError("impl='triton' of finish_step_ is not available: the parameters are not flat (flat_like)")
    if missing is not None or (device.type != "cuda" and not registration.INTERPRETED):
        reason = missing or f"it runs on a GPU, and the parameters are on {device}"
        raise RuntimeError(f"impl='triton' of finish_step_ is not available: {reason}")


def operator_arguments(end: StepEnd) -> tuple[object, ...]:
    """Return the arguments in the form that the operator takes."""
    adam, gradients, terms, rates, record, scale, weight_decay, max_norm, images = end
    flat = (adam.parameters.data, adam.means.data, adam.squares.data, adam.copies.data if adam.copies else None)
    norm = None if max_norm == inf else max_norm
    losses = (terms.nll.contiguous(), terms.kl.contiguous(), terms.penalty, *rates, *record, *(scale or (None, None)))
    return (*flat, adam.taken, list(gradients), *losses, weight_decay, norm, images)


def _finish_step(end: StepEnd) -> None:
    adam, gradients, terms, rates, record, scale, *_ = end
    gradients = [g.float() for g in gradients]
    if scale is not None:
        torch._foreach_mul_(gradients, scale.factor.reciprocal())
    entry, loss = _entry(terms, rates.beta, end.images)
    parameters = adam.parameters.views
    norm = adam_(
        parameters,
        adam.means.views,
        adam.squares.views,
        adam.taken,
        gradients,
        lr=rates.lr,
        weight_decay=end.weight_decay,
        max_norm=end.max_norm,
        loss=loss,
    )
    is_finite = norm.isfinite() & loss.isfinite()
    if adam.copies is not None:
        torch._foreach_copy_(adam.copies.views, parameters)
    enter_(record, torch.cat((entry.where(is_finite, 0), ~is_finite.view(1))))
    if scale is not None:
        _rescale(scale, is_finite)


def enter_(record: Record, entry: Tensor) -> None:
    """Record a step's terms, float64 [5]."""
    step, sums, ring = record
    sums += entry
    ring.index_copy_(0, (step % len(ring)).view(1), entry.view(1, COLUMNS))
    step += 1


def _entry(terms: Terms, beta: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Return loss, nll and kl summed over the images with the number of images, float64 [4], and the loss alone."""
    of_nll, of_kl = terms.nll.sum(dtype=torch.float64), terms.kl.sum(dtype=torch.float64)
    loss = of_nll + beta * (of_kl if terms.penalty is None else images * terms.penalty.double())
    count = loss.new_full((), images)
    return torch.stack((loss, of_nll, of_kl, count)), loss


def _rescale(scale: Scale, is_finite: Tensor) -> None:
    grown = torch.where(is_finite, scale.growth + 1, 0)
    larger = scale.factor * GROWTH
    grows = (grown == GROWTH_INTERVAL) & larger.isfinite()
    taken = torch.where(grows, larger, scale.factor)
    scale.factor.copy_(torch.where(is_finite, taken, scale.factor * BACKOFF))
    scale.growth.copy_(torch.where(grown == GROWTH_INTERVAL, 0, grown))


def _finish_step_triton(*arguments: Any) -> None:
    from .triton.finish_step import finish_step_triton

    finish_step_triton(*arguments)


torch.library.impl("vae_fast::finish_step_", registration.DISPATCH_KEY, registration.on_its_device(_finish_step_triton))


@torch.library.register_fake("vae_fast::finish_step_")
def _finish_step_fake(*arguments: object) -> None:
    pass
