"""The nll of each image and, in the same pass, the gradients of the weighted sum by logits and scale, in Triton.

    nll_b      = -sum_d log p(x_bd | l_bd)         (likelihoods.py)
    dlogits_bd = -weight d log p(x_bd | l_bd) / d l_bd

A training step knows the weight beforehand: it minimises a mean, whose gradient by each image's nll is 1 / B, times the
loss scale under float16. So the gradient need not wait for a backward pass. In bytes per pixel, with logits in bfloat16
and a uint8 target, this reads 2 + 1 and writes 2, in all 5, where `elbo.py`'s two kernels need 8. One program processes
a row; sums are float32 in a fixed order; uint8 pixels k stand for k / 255. The gradient by a single scale is summed
over each row here and over the rows by PyTorch. With a scale for each pixel its sums run down the columns, and the two
kernels of `elbo.py` do the work.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elbo import elbo_bwd_triton, elbo_fwd_triton, pixels
from .launch import reachable
from .likelihoods import LIKELIHOODS


@triton.jit
def _nll_with_gradient_kernel(
    logits_ptr,  # [B, D]
    target_ptr,  # [B, D]
    weight_ptr,  # [] float32
    log_scale_ptr,  # [], or None
    nll_ptr,  # [B] float32
    gradient_ptr,  # [B, D], contiguous
    by_scale_ptr,  # [B] float32: each row's part of the gradient by the scale, or None with log_scale
    D,
    logits_stride,
    logits_column,
    target_stride,
    target_column,
    VALUE: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weight = tl.load(weight_ptr)
    nll, by_scales = tl.zeros([BLOCK_D], tl.float32), tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, D, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        mask = column < D
        logit = tl.load(logits_ptr + row * logits_stride + column * logits_column, mask, 0).to(tl.float32)
        x = pixels(target_ptr, row * target_stride + column * target_column, mask)
        scale = tl.zeros_like(logit)
        if log_scale_ptr is not None:
            scale += tl.load(log_scale_ptr).to(tl.float32)
        nll += tl.where(mask, VALUE(logit, x, scale), 0.0)
        by_logit, by_scale = GRADIENT(logit, x, scale)
        tl.store(gradient_ptr + row * D + column, weight * by_logit, mask)
        by_scales += tl.where(mask, weight * by_scale, 0.0)
    tl.store(nll_ptr + row, tl.sum(nll, 0))
    if log_scale_ptr is not None:
        tl.store(by_scale_ptr + row, tl.sum(by_scales, 0))


def nll_with_gradient_triton(
    logits: Tensor, target: Tensor, weight: Tensor, log_scale: Tensor | None, likelihood: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return nll [B] float32, and the gradients by the logits and by log_scale, empty without it.

    logits and target are [B, ...], weight 0-d float32, log_scale [] or [D].
    """
    if log_scale is not None and log_scale.dim() > 0:
        nll, _ = elbo_fwd_triton(logits, target, None, None, log_scale, likelihood)
        each = weight.expand(logits.shape[0])
        gradient, _, _, by_value = elbo_bwd_triton(each, None, logits, target, None, None, log_scale, likelihood)
        return nll, gradient, by_value
    gradient = logits.new_empty(logits.shape)
    logits, target = reachable(logits.flatten(1)), reachable(target.flatten(1))
    rows, columns = logits.shape
    nll = logits.new_empty(rows, dtype=torch.float32)
    by_scale = None if log_scale is None else nll.new_empty(rows)
    if rows > 0:
        _nll_with_gradient_kernel[(rows,)](
            logits,
            target,
            weight,
            log_scale,
            nll,
            gradient,
            by_scale,
            columns,
            *logits.stride(),
            *target.stride(),
            VALUE=LIKELIHOODS[likelihood].value,
            GRADIENT=LIKELIHOODS[likelihood].gradient,
            BLOCK_D=min(max(16, triton.next_power_of_2(columns)), 1024),
            num_warps=4,
        )
    if log_scale is None or by_scale is None:
        return nll, gradient, logits.new_empty(0)
    return nll, gradient, by_scale.sum().to(log_scale.dtype)
