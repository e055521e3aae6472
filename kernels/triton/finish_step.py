"""The end of a training step in Triton: two launches over all parameters, whatever their number.

The first computes partial sums of the gradients' squares and of the loss's terms. In the second, every program adds
them up by itself and in the same order, so that each knows whether the step is taken; then each updates its block of
the parameters with their moments and low-precision copies. Its first program also updates the counters and the loss
scale. The other programs need the number of steps taken and the scale as they were before, so the first launch saves
both.

Parameters, moments and copies are flat, and each parameter begins at a multiple of BLOCK (`adam.Flat`); the gradients
stay where the products left them. Arithmetic is float32, that of the terms' sums float64. Nothing depends on the order
in which programs run.

Source: kernels/reference.py, `finish_step_`, which names the papers.
"""

from math import log

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import reference
from ..adam import ALIGNMENT
from ..reference import BACKOFF, BETA1, BETA2, EPSILON, GROWTH, GROWTH_INTERVAL
from .math import one_minus_exp

BLOCK = ALIGNMENT  # values that a program updates, so that each block belongs to one tensor
LOSS, NLL, KL, IMAGES, SKIPPED, COLUMNS = (
    tl.constexpr(column) for column in (*range(reference.COLUMNS), reference.COLUMNS)
)
MOST_PARTS = 1024  # partial sums, which every program of the second launch reads
CONSTANTS = {
    "BETA1": BETA1,
    "BETA2": BETA2,
    "RATE1": -log(BETA1),
    "RATE2": -log(BETA2),
    "EPSILON": EPSILON,
    "BLOCK": BLOCK,
}
SCALER = {"GROWTH": GROWTH, "BACKOFF": BACKOFF, "INTERVAL": GROWTH_INTERVAL}


@triton.jit
def _block_of(gradients, sizes, firsts, block, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Load block number `block` of all gradients together, float32 [BLOCK], zeros beyond the end of a tensor."""
    gradient = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(COUNT):
        if (block >= firsts[i]) & (block < firsts[i + 1]):
            offset = (block - firsts[i]).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
            gradient = tl.load(gradients[i] + offset, offset < sizes[i], 0.0).to(tl.float32)
    return gradient


@triton.jit
def _finish_step_sum_kernel(
    gradients,  # a tensor for each parameter, contiguous, float32, bfloat16 or float16
    sizes,  # their numbers of values
    firsts,  # the block at which each begins, and the one after the last
    nll_ptr,  # [rows] float32
    kl_ptr,  # [rows] float32
    penalty_ptr,  # [] float32: multiplied by beta in place of the mean of kl, or None
    beta_ptr,  # [] float32
    scale_ptr,  # [] float32, of the loss, or None
    count_ptr,  # [] float32: steps taken
    squares_ptr,  # [parts] float32: sums of squares, inf where the loss of a row is not finite
    terms_ptr,  # [2, parts] float64: sums of nll and kl
    aside_ptr,  # [2] float32: the count and 1 / scale as they are before the step
    rows,
    blocks,
    parts,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    part = tl.program_id(0)
    inverse = 1.0
    if scale_ptr is not None:
        inverse = 1.0 / tl.load(scale_ptr)
    total = tl.zeros([BLOCK], tl.float32)
    for block in range(part, blocks, parts):
        gradient = _block_of(gradients, sizes, firsts, block, COUNT, BLOCK) * inverse
        total += gradient * gradient
    squares = tl.sum(total, 0)
    beta = tl.load(beta_ptr)
    of_nll, of_kl = part.to(tl.float64) * 0.0, part.to(tl.float64) * 0.0
    for row in range(part, rows, parts):
        nll, kl = tl.load(nll_ptr + row), tl.load(kl_ptr + row)
        of_nll += nll.to(tl.float64)
        of_kl += kl.to(tl.float64)
        weighed = kl
        if penalty_ptr is not None:
            weighed = tl.load(penalty_ptr)
        loss = nll + beta * weighed
        squares = tl.where(tl.abs(loss) < float("inf"), squares, float("inf"))
    tl.store(squares_ptr + part, squares)
    tl.store(terms_ptr + part, of_nll)
    tl.store(terms_ptr + parts + part, of_kl)
    if part == 0:
        tl.store(aside_ptr, tl.load(count_ptr))
        tl.store(aside_ptr + 1, inverse)


@triton.jit
def _finish_step_update_kernel(
    parameters_ptr,  # [blocks * BLOCK] float32, as are the two moments
    means_ptr,
    squares_ptr,
    copies_ptr,  # [blocks * BLOCK] bfloat16 or float16, or None
    gradients,  # this and the next four as in the first kernel
    sizes,
    firsts,
    penalty_ptr,
    beta_ptr,
    lr_ptr,  # [] float32
    parts_ptr,  # this and the next two from the first launch: its `squares`, `terms` and `aside`
    terms_ptr,
    aside_ptr,
    count_ptr,  # [] float32
    step_ptr,  # [] int64: steps attempted
    sums_ptr,  # [5] float64: the terms of all steps
    ring_ptr,  # [latest, 5] float64: the terms of each of the latest steps
    scale_ptr,  # [] float32, or None
    growth_ptr,  # [] int32: steps taken since the scale last changed, or None
    weight_decay,
    max_norm,  # or None
    images,
    latest,
    parts,
    COUNT: tl.constexpr,
    PARTS: tl.constexpr,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    RATE1: tl.constexpr,
    RATE2: tl.constexpr,
    EPSILON: tl.constexpr,
    GROWTH: tl.constexpr,
    BACKOFF: tl.constexpr,
    INTERVAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    part = tl.arange(0, PARTS)
    norm = tl.sqrt_rn(tl.sum(tl.load(parts_ptr + part, part < parts, 0.0), 0))
    is_finite = norm < float("inf")  # false for NaN
    count = tl.load(aside_ptr) + 1.0
    if is_finite:
        factor = tl.load(aside_ptr + 1)
        if max_norm is not None:
            factor *= tl.minimum(max_norm / (norm + 1e-6), 1.0)
        gradient = _block_of(gradients, sizes, firsts, block, COUNT, BLOCK) * factor
        lr = tl.load(lr_ptr)
        offset = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mean, square = tl.load(means_ptr + offset), tl.load(squares_ptr + offset)
        mean += (1.0 - BETA1) * (gradient - mean)
        square += (1.0 - BETA2) * (gradient * gradient - square)
        correction = tl.sqrt_rn(one_minus_exp(count * RATE2))
        parameter = tl.load(parameters_ptr + offset) * (1.0 - lr * weight_decay)
        parameter -= lr / one_minus_exp(count * RATE1) * mean / (tl.sqrt_rn(square) / correction + EPSILON)
        tl.store(means_ptr + offset, mean)
        tl.store(squares_ptr + offset, square)
        tl.store(parameters_ptr + offset, parameter)
        if copies_ptr is not None:
            tl.store(copies_ptr + offset, parameter.to(copies_ptr.dtype.element_ty))
    if block == 0:
        of_nll = tl.sum(tl.load(terms_ptr + part, part < parts, 0.0), 0)
        of_kl = tl.sum(tl.load(terms_ptr + parts + part, part < parts, 0.0), 0)
        weighed = of_kl
        if penalty_ptr is not None:
            weighed = tl.load(penalty_ptr).to(tl.float64) * images
        loss = of_nll + tl.load(beta_ptr).to(tl.float64) * weighed
        step = tl.load(step_ptr)
        entry_ptr = ring_ptr + step % latest * COLUMNS
        _enter(sums_ptr, entry_ptr, LOSS, tl.where(is_finite, loss, 0.0))
        _enter(sums_ptr, entry_ptr, NLL, tl.where(is_finite, of_nll, 0.0))
        _enter(sums_ptr, entry_ptr, KL, tl.where(is_finite, of_kl, 0.0))
        _enter(sums_ptr, entry_ptr, IMAGES, tl.where(is_finite, images, 0).to(tl.float64))
        _enter(sums_ptr, entry_ptr, SKIPPED, tl.where(is_finite, 0, 1).to(tl.float64))
        tl.store(step_ptr, step + 1)
        if is_finite:
            tl.store(count_ptr, count)
        if scale_ptr is not None:
            scale, growth = tl.load(scale_ptr), tl.load(growth_ptr) + 1
            grows = is_finite & (growth == INTERVAL)
            larger = scale * GROWTH
            scale = tl.where(grows & (larger < float("inf")), larger, scale)
            tl.store(scale_ptr, tl.where(is_finite, scale, scale * BACKOFF))
            tl.store(growth_ptr, tl.where(is_finite & (growth < INTERVAL), growth, 0))


@triton.jit
def _enter(sums_ptr, entry_ptr, column, value):
    tl.store(sums_ptr + column, tl.load(sums_ptr + column) + value)
    tl.store(entry_ptr + column, value)


def finish_step_triton(
    parameters: Tensor,
    means: Tensor,
    squares: Tensor,
    copies: Tensor | None,
    count: Tensor,
    gradients: list[Tensor],
    nll: Tensor,
    kl: Tensor,
    penalty: Tensor | None,
    lr: Tensor,
    beta: Tensor,
    step: Tensor,
    sums: Tensor,
    ring: Tensor,
    scale: Tensor | None,
    growth: Tensor | None,
    weight_decay: float,
    max_norm: float | None,
    images: int,
) -> None:
    """Finish a step as `finish_step.finish_step_` does, on flat tensors."""
    gradients = [g.contiguous() for g in gradients]
    sizes = tuple(g.numel() for g in gradients)
    firsts = [0]
    for size in sizes:
        firsts.append(firsts[-1] + triton.cdiv(size, BLOCK))
    blocks, layout = firsts[-1], (tuple(gradients), sizes, tuple(firsts))
    parts = min(blocks, MOST_PARTS)
    partial = count.new_empty(parts)
    terms = count.new_empty((2, parts), dtype=torch.float64)
    aside = count.new_empty(2)
    common = {"COUNT": len(gradients), "num_warps": 4}
    _finish_step_sum_kernel[(parts,)](
        *layout,
        nll,
        kl,
        penalty,
        beta,
        scale,
        count,
        partial,
        terms,
        aside,
        len(nll),
        blocks,
        parts,
        BLOCK=BLOCK,
        **common,
    )
    _finish_step_update_kernel[(blocks,)](
        parameters,
        means,
        squares,
        copies,
        *layout,
        penalty,
        beta,
        lr,
        partial,
        terms,
        aside,
        count,
        step,
        sums,
        ring,
        scale,
        growth,
        weight_decay,
        max_norm,
        images,
        len(ring),
        parts,
        PARTS=triton.next_power_of_2(parts),
        **CONSTANTS,
        **SCALER,
        **common,
    )
