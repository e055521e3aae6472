"""z = mu + exp(logvar / 2) eps in Triton, forward and backward, alone or with the KL divergence of the same values.

    z_bj  = mu_bj + exp(logvar_bj / 2) eps_bj                      (Kingma and Welling 2013, section 2.4)
    kl_b  = -1/2 sum_j (1 + logvar_bj - mu_bj^2 - e^logvar_bj)     (appendix B)

    dmu   = dz + dkl mu
    dlogvar = dz exp(logvar / 2) eps / 2 + dkl (e^logvar - 1) / 2

eps is made from Philox's bits of (seed, step, row, column): drawn again in backward, never stored. mu and logvar are
read in place, for instance as the two halves of one encoder output, and their gradients are written likewise. Loads are
converted to float32, sums are taken in float32 in a fixed order, results are stored in the dtype of the inputs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import reachable, strides, tile
from .math import exp_f
from .philox import normals


@triton.jit
def _reparameterize_fwd_kernel(
    mu_ptr,  # [B, Z]
    logvar_ptr,  # [B, Z]
    z_ptr,  # [B, Z], contiguous
    kl_ptr,  # [B] float32, or None
    seed_ptr,  # [] int64
    step_ptr,  # [] int64
    row_offset_ptr,  # [] int64, in place of row_offset, or None
    row_offset,
    stream,
    B,
    Z,
    mu_stride,
    mu_column,
    logvar_stride,
    logvar_column,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]  # [BLOCK_R, 1]
    seed, step = tl.load(seed_ptr), tl.load(step_ptr)
    if row_offset_ptr is not None:
        row_offset = tl.load(row_offset_ptr)
    kl = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in range(0, Z, BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)[None, :]
        mask = (row < B) & (column < Z)
        mu = tl.load(mu_ptr + row * mu_stride + column * mu_column, mask, 0).to(tl.float32)
        logvar = tl.load(logvar_ptr + row * logvar_stride + column * logvar_column, mask, 0).to(tl.float32)
        block = start // 4 + tl.arange(0, BLOCK_C // 4)[None, :]
        eps = normals(seed, step, row + row_offset, block, stream)
        tl.store(z_ptr + row * Z + column, mu + exp_f(0.5 * logvar) * eps, mask)
        if kl_ptr is not None:
            kl += tl.where(mask, -0.5 * (1.0 + logvar - mu * mu - exp_f(logvar)), 0.0)
    if kl_ptr is not None:
        tl.store(kl_ptr + row, tl.sum(kl, 1, keep_dims=True), row < B)


@triton.jit
def _reparameterize_bwd_kernel(
    grad_z_ptr,  # [B, Z], or None: no noise is drawn
    grad_kl_ptr,  # [B], [Z] or [] float32, depending on its strides, or None
    mu_ptr,  # [B, Z]; used with grad_kl only
    logvar_ptr,  # [B, Z]
    grad_mu_ptr,  # [B, Z]
    grad_logvar_ptr,  # [B, Z]
    seed_ptr,  # [] int64
    step_ptr,  # [] int64
    row_offset,
    stream,
    B,
    Z,
    grad_z_stride,
    grad_z_column,
    grad_kl_stride,
    grad_kl_column,
    mu_stride,
    mu_column,
    logvar_stride,
    logvar_column,
    out_stride,  # of both gradients, whose columns are contiguous
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    mask = (row < B) & (column < Z)
    logvar = tl.load(logvar_ptr + row * logvar_stride + column * logvar_column, mask, 0).to(tl.float32)
    if grad_z_ptr is not None:
        block = tl.program_id(1) * (BLOCK_C // 4) + tl.arange(0, BLOCK_C // 4)[None, :]
        eps = normals(tl.load(seed_ptr), tl.load(step_ptr), row + row_offset, block, stream)
        grad_mu = tl.load(grad_z_ptr + row * grad_z_stride + column * grad_z_column, mask, 0).to(tl.float32)
        grad_logvar = 0.5 * grad_mu * (exp_f(0.5 * logvar) * eps)
    else:
        grad_mu = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
        grad_logvar = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    if grad_kl_ptr is not None:
        grad_kl = tl.load(grad_kl_ptr + row * grad_kl_stride + column * grad_kl_column, mask, 0).to(tl.float32)
        mu = tl.load(mu_ptr + row * mu_stride + column * mu_column, mask, 0).to(tl.float32)
        grad_mu += grad_kl * mu
        grad_logvar += 0.5 * grad_kl * (exp_f(logvar) - 1.0)
    tl.store(grad_mu_ptr + row * out_stride + column, grad_mu, mask)
    tl.store(grad_logvar_ptr + row * out_stride + column, grad_logvar, mask)


def reparameterize_fwd_triton(
    mu: Tensor, logvar: Tensor, seed: Tensor, step: Tensor, row_offset: int | Tensor, stream: int, with_kl: bool
) -> tuple[Tensor, Tensor | None]:
    """Return z like mu, contiguous, and with `with_kl` the KL [B], float32, for mu and logvar [..., Z] of one dtype."""
    on_device = isinstance(row_offset, Tensor)
    rows, columns = _rows(mu), mu.shape[-1]
    z = mu.new_empty(mu.shape)
    kl = mu.new_empty(rows, dtype=torch.float32) if with_kl else None
    if rows == 0:
        return z, kl
    mu_rows, logvar_rows = (reachable(t.reshape(rows, columns)) for t in (mu, logvar))
    blocks = tile(columns)
    _reparameterize_fwd_kernel[(triton.cdiv(rows, blocks["BLOCK_R"]),)](
        mu_rows,
        logvar_rows,
        z,
        kl,
        seed,
        step,
        row_offset if on_device else None,
        0 if on_device else row_offset,
        stream,
        rows,
        columns,
        *mu_rows.stride(),
        *logvar_rows.stride(),
        **blocks,
    )
    return z, kl


def reparameterize_bwd_triton(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor | None,
    logvar: Tensor,
    seed: Tensor,
    step: Tensor,
    row_offset: int,
    stream: int,
    out: tuple[Tensor, Tensor],
    kl_strides: tuple[int, int] | None = None,
) -> None:
    """Write dmu and dlogvar into `out`: [..., Z] each, with the same row stride and contiguous columns.

    A gradient of None contributes nothing; mu is needed with grad_kl only. grad_kl is [B], unless `kl_strides` gives
    its strides over images and dimensions.
    """
    rows, columns = _rows(logvar), logvar.shape[-1]
    if rows == 0 or columns == 0:
        return
    grad_rows, mu_rows, logvar_rows = (
        None if t is None else reachable(t.reshape(rows, columns)) for t in (grad_z, mu, logvar)
    )
    blocks = tile(columns)
    grid = (triton.cdiv(rows, blocks["BLOCK_R"]), triton.cdiv(columns, blocks["BLOCK_C"]))
    _reparameterize_bwd_kernel[grid](
        grad_rows,
        grad_kl,
        mu_rows,
        logvar_rows,
        *out,
        seed,
        step,
        row_offset,
        stream,
        rows,
        columns,
        *strides(grad_rows),
        *(kl_strides or (0 if grad_kl is None else grad_kl.stride(0), 0)),
        *strides(mu_rows),
        *strides(logvar_rows),
        out[0].stride(-2) if out[0].dim() > 1 else columns,
        **blocks,
    )


def _rows(tensor: Tensor) -> int:
    return tensor.shape[:-1].numel()
