"""The two terms of the negative ELBO in Triton, reading each image's pixels once in forward and once in backward.

    nll_b = -sum_d log p(x_bd | l_bd)                               (likelihoods.py)
    kl_b  = -1/2 sum_j (1 + logvar_bj - mu_bj^2 - e^logvar_bj)      (Kingma and Welling 2013, appendix B)

Without a posterior the kernels compute the nll alone. uint8 pixels k stand for k / 255. Sums are taken in float32, in a
fixed order: one program sums a row. Backward writes the gradients by the logits, mu and logvar in one pass, and if
there is a scale, partial sums of its gradient over runs of rows, which PyTorch adds up.

Forward does not write dnll/dlogits to spare backward reading the pixels again, because that would move more bytes. Per
pixel, with logits in bfloat16 and a uint8 target, forward now reads 2 + 1, and backward reads 2 + 1 and writes 2: 8 in
all. Otherwise forward would read 3 and write 2, and backward, which alone knows the gradient of each image's nll, would
read 2 and write 2: 9 in all. In float32 it is 13 against 17. And an evaluation, which has no backward, would write for
nothing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import reachable, strides
from .likelihoods import LIKELIHOODS
from .math import exp_f

ROWS = 32  # rows whose gradients by the scale one program adds up


@triton.jit
def pixels(target_ptr, offset, mask):
    """Load pixels as float32 in [0, 1], from uint8 or floats."""
    x = tl.load(target_ptr + offset, mask, 0)
    if target_ptr.dtype.element_ty == tl.uint8:
        # The addition keeps the compiler from fusing the product with what follows: 1 - 255 / 255 would not be 0.
        return tl.fma(x.to(tl.float32), 0.003921569, 0.0)  # 1 / 255
    return x.to(tl.float32)


@triton.jit
def _elbo_fwd_kernel(
    logits_ptr,  # [B, D]
    target_ptr,  # [B, D]
    mu_ptr,  # [B, Z], or None: no kl
    logvar_ptr,  # [B, Z], or None with mu
    log_scale_ptr,  # [] or [D], or None
    nll_ptr,  # [B] float32
    kl_ptr,  # [B] float32, or None with mu
    D,
    Z,
    logits_stride,
    logits_column,
    target_stride,
    target_column,
    mu_stride,
    mu_column,
    logvar_stride,
    logvar_column,
    log_scale_column,  # 0 for one scale for all pixels
    VALUE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Z: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    nll = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, D, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        mask = column < D
        logit = tl.load(logits_ptr + row * logits_stride + column * logits_column, mask, 0).to(tl.float32)
        x = pixels(target_ptr, row * target_stride + column * target_column, mask)
        scale = tl.zeros_like(logit)
        if log_scale_ptr is not None:
            scale = tl.load(log_scale_ptr + column * log_scale_column, mask, 0).to(tl.float32)
        nll += tl.where(mask, VALUE(logit, x, scale), 0.0)
    tl.store(nll_ptr + row, tl.sum(nll, 0))
    if mu_ptr is not None:
        kl = tl.zeros([BLOCK_Z], tl.float32)
        for start in range(0, Z, BLOCK_Z):
            column = start + tl.arange(0, BLOCK_Z)
            mask = column < Z
            mu = tl.load(mu_ptr + row * mu_stride + column * mu_column, mask, 0).to(tl.float32)
            logvar = tl.load(logvar_ptr + row * logvar_stride + column * logvar_column, mask, 0).to(tl.float32)
            kl += tl.where(mask, -0.5 * (1.0 + logvar - mu * mu - exp_f(logvar)), 0.0)
        tl.store(kl_ptr + row, tl.sum(kl, 0))


@triton.jit
def _elbo_bwd_kernel(
    grad_nll_ptr,  # [B] float32
    grad_kl_ptr,  # [B] float32, or None with mu
    logits_ptr,  # [B, D]
    target_ptr,  # [B, D]
    mu_ptr,  # [B, Z], or None: no kl
    logvar_ptr,  # [B, Z], or None with mu
    log_scale_ptr,  # [] or [D], or None
    grad_logits_ptr,  # [B, D], contiguous
    grad_mu_ptr,  # [B, Z], contiguous, or None with mu
    grad_logvar_ptr,  # [B, Z], contiguous, or None with mu
    partial_ptr,  # [ceil(B / ROWS), D] float32: sums of the gradient by the scale
    B,
    D,
    Z,
    grad_nll_stride,
    grad_kl_stride,
    logits_stride,
    logits_column,
    target_stride,
    target_column,
    mu_stride,
    mu_column,
    logvar_stride,
    logvar_column,
    log_scale_column,
    GRADIENT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Z: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    if mu_ptr is not None:  # known at compile time: without mu none of this code exists
        is_first = tl.program_id(1) == 0
        if is_first:
            for row in range(first, tl.minimum(first + ROWS, B)):
                grad_kl = tl.load(grad_kl_ptr + row * grad_kl_stride).to(tl.float32)
                for start in range(0, Z, BLOCK_Z):
                    j = start + tl.arange(0, BLOCK_Z)
                    mu = tl.load(mu_ptr + row * mu_stride + j * mu_column, j < Z, 0).to(tl.float32)
                    logvar = tl.load(logvar_ptr + row * logvar_stride + j * logvar_column, j < Z, 0).to(tl.float32)
                    tl.store(grad_mu_ptr + row * Z + j, grad_kl * mu, j < Z)
                    tl.store(grad_logvar_ptr + row * Z + j, 0.5 * grad_kl * (exp_f(logvar) - 1.0), j < Z)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = column < D
    partial = tl.zeros([BLOCK_D], tl.float32)
    # Without disable_licm the compiler keeps what depends only on the scale in registers, and spills them on sm_75.
    for row in tl.range(first, tl.minimum(first + ROWS, B), disable_licm=True):
        grad_nll = tl.load(grad_nll_ptr + row * grad_nll_stride).to(tl.float32)
        logit = tl.load(logits_ptr + row * logits_stride + column * logits_column, mask, 0).to(tl.float32)
        x = pixels(target_ptr, row * target_stride + column * target_column, mask)
        scale = tl.zeros_like(logit)
        if log_scale_ptr is not None:
            scale = tl.load(log_scale_ptr + column * log_scale_column, mask, 0).to(tl.float32)
        by_logit, by_scale = GRADIENT(logit, x, scale)
        tl.store(grad_logits_ptr + row * D + column, grad_nll * by_logit, mask)
        if log_scale_ptr is not None:
            partial += grad_nll * by_scale
    if log_scale_ptr is not None:
        tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * D + column, partial, mask)


def elbo_fwd_triton(
    logits: Tensor, target: Tensor, mu: Tensor | None, logvar: Tensor | None, log_scale: Tensor | None, likelihood: str
) -> tuple[Tensor, Tensor | None]:
    """Return nll and kl, [B] float32 each, from logits and target [B, ...], mu and logvar [B, Z]; no kl without mu."""
    logits, target = reachable(logits.flatten(1)), reachable(target.flatten(1))
    mu, logvar = _reachable(mu), _reachable(logvar)
    rows, pixels = logits.shape
    nll = logits.new_empty(rows, dtype=torch.float32)
    kl = None if mu is None else nll.new_empty(rows)
    if rows == 0:
        return nll, kl
    _elbo_fwd_kernel[(rows,)](
        logits,
        target,
        mu,
        logvar,
        log_scale,
        nll,
        kl,
        pixels,
        _latents(mu),
        *logits.stride(),
        *target.stride(),
        *strides(mu),
        *strides(logvar),
        _column(log_scale),
        VALUE=LIKELIHOODS[likelihood].value,
        **_blocks(pixels, _latents(mu)),
    )
    return nll, kl


def elbo_bwd_triton(
    grad_nll: Tensor,
    grad_kl: Tensor | None,
    logits: Tensor,
    target: Tensor,
    mu: Tensor | None,
    logvar: Tensor | None,
    log_scale: Tensor | None,
    likelihood: str,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Return the gradients by logits, mu, logvar and log_scale, contiguous, each in its input's dtype and shape.

    grad_kl, mu and logvar are all given or all None; if None, so are the gradients by mu and logvar. The gradient by a
    log_scale of None is an empty tensor.
    """
    mu, logvar = _reachable(mu), _reachable(logvar)
    grad_logits = logits.new_empty(logits.shape)
    grad_mu, grad_logvar = (None if t is None else t.new_empty(t.shape) for t in (mu, logvar))
    logits, target = reachable(logits.flatten(1)), reachable(target.flatten(1))
    rows, pixels = logits.shape
    height = 1 if log_scale is None else ROWS
    runs = triton.cdiv(rows, height)
    partial = None if log_scale is None else logits.new_empty((runs, pixels), dtype=torch.float32)
    blocks = _blocks(pixels, _latents(mu))
    if rows > 0:
        _elbo_bwd_kernel[(runs, max(1, triton.cdiv(pixels, blocks["BLOCK_D"])))](
            grad_nll,
            grad_kl,
            logits,
            target,
            mu,
            logvar,
            log_scale,
            grad_logits,
            grad_mu,
            grad_logvar,
            partial,
            rows,
            pixels,
            _latents(mu),
            grad_nll.stride(0),
            0 if grad_kl is None else grad_kl.stride(0),
            *logits.stride(),
            *target.stride(),
            *strides(mu),
            *strides(logvar),
            _column(log_scale),
            GRADIENT=LIKELIHOODS[likelihood].gradient,
            ROWS=height,
            **blocks,
        )
    if log_scale is None or partial is None:
        return grad_logits, grad_mu, grad_logvar, logits.new_empty(0)
    by_scale = partial.sum() if log_scale.dim() == 0 else partial.sum(0)
    return grad_logits, grad_mu, grad_logvar, by_scale.to(log_scale.dtype)


def _blocks(pixels: int, latents: int) -> dict[str, int]:
    """Return block sizes of up to 1024 pixels, 8 per thread, so that it loads 16 bytes of float32, and 256 latents."""
    return {
        "BLOCK_D": min(max(16, triton.next_power_of_2(pixels)), 1024),
        "BLOCK_Z": min(max(4, triton.next_power_of_2(latents)), 256),
        "num_warps": 4,
    }


def _reachable(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else reachable(matrix)


def _latents(mu: Tensor | None) -> int:
    return 0 if mu is None else mu.shape[1]


def _column(log_scale: Tensor | None) -> int:
    return 0 if log_scale is None or log_scale.dim() == 0 else log_scale.stride(0)
