"""The Bernoulli's nll of each image and, in the same pass, the gradient of the weighted sum by the logits, in Triton.

    nll_b      = sum_d softplus(l_bd) - x_bd l_bd
    dlogits_bd = weight (sigmoid(l_bd) - x_bd)

A training step knows the weight beforehand: it minimises a mean, whose gradient by each image's nll is 1 / B, times the
loss scale under float16. So the gradient need not wait for a backward pass. In bytes per pixel, with logits in bfloat16
and a uint8 target, this reads 2 + 1 and writes 2, in all 5, where `elbo.py`'s two kernels need 8. One program processes
a row; sums are float32 in a fixed order; uint8 pixels k stand for k / 255.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elbo import pixels
from .launch import reachable
from .likelihoods import bernoulli, bernoulli_gradient


@triton.jit
def _nll_with_gradient_kernel(
    logits_ptr,  # [B, D]
    target_ptr,  # [B, D]
    weight_ptr,  # [] float32
    nll_ptr,  # [B] float32
    gradient_ptr,  # [B, D], contiguous
    D,
    logits_stride,
    logits_column,
    target_stride,
    target_column,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weight = tl.load(weight_ptr)
    nll = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, D, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        mask = column < D
        logit = tl.load(logits_ptr + row * logits_stride + column * logits_column, mask, 0).to(tl.float32)
        x = pixels(target_ptr, row * target_stride + column * target_column, mask)
        no_scale = tl.zeros_like(logit)
        nll += tl.where(mask, bernoulli(logit, x, no_scale), 0.0)
        by_logit, _ = bernoulli_gradient(logit, x, no_scale)
        tl.store(gradient_ptr + row * D + column, weight * by_logit, mask)
    tl.store(nll_ptr + row, tl.sum(nll, 0))


def nll_with_gradient_triton(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return nll [B] float32 and the gradient by the logits; logits and target are [B, ...], weight 0-d float32."""
    gradient = logits.new_empty(logits.shape)
    logits, target = reachable(logits.flatten(1)), reachable(target.flatten(1))
    rows, columns = logits.shape
    nll = logits.new_empty(rows, dtype=torch.float32)
    if rows > 0:
        _nll_with_gradient_kernel[(rows,)](
            logits,
            target,
            weight,
            nll,
            gradient,
            columns,
            *logits.stride(),
            *target.stride(),
            BLOCK_D=min(max(16, triton.next_power_of_2(columns)), 1024),
            num_warps=4,
        )
    return nll, gradient
