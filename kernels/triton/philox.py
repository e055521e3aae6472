"""Philox's bits and the normals made from them, in Triton; kernels/philox.py is the specification of both."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import tile
from .math import cos_sin_turn, log_f


@triton.jit
def words(seed, step, row, block, stream):
    """Return the four random words, uint32 [R, C] each, for the counters of rows [R, 1] and four-column blocks [1, C].

    seed, step: int64 scalars; row, block: integers; stream: an int.
    """
    row, block = row.to(tl.uint32), block.to(tl.uint32)
    zero = row * 0 + block * 0
    return tl.philox(seed, zero + block, zero + row, zero + step.to(tl.uint32), (zero + stream).to(tl.uint32))


@triton.jit
def in_columns(first, second, third, fourth):
    """Interleave four [R, C] to [R, 4 C]: column 4 c + i comes from the i-th."""
    joined = tl.join(tl.join(first, third), tl.join(second, fourth))  # [R, C, 2, 2]; the last two dimensions are i
    return tl.reshape(joined, (joined.shape[0], 4 * joined.shape[1]))


@triton.jit
def normal_pair(r0, r1):
    """Return two normals from two words, within 1e-6 max(1, |eps|) of the specification (Box and Muller, 1958)."""
    u1 = ((r0 >> 8) + 1).to(tl.int32, bitcast=True).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
    radius = tl.sqrt_rn(-2.0 * log_f(u1))
    cosine, sine = cos_sin_turn(r1 >> 8)
    return radius * cosine, radius * sine


@triton.jit
def normals(seed, step, row, block, stream):
    """Return eps [R, 4 C], float32; the arguments are those of `words`."""
    r0, r1, r2, r3 = words(seed, step, row, block, stream)
    eps0, eps1 = normal_pair(r0, r1)
    eps2, eps3 = normal_pair(r2, r3)
    return in_columns(eps0, eps1, eps2, eps3)


@triton.jit
def _random_bits_kernel(
    out_ptr,  # [rows, columns] int64
    seed_ptr,  # [] int64
    step_ptr,  # [] int64
    row_offset,
    rows,
    columns,
    stream,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    across = tl.cdiv(columns, BLOCK_C)  # one grid axis for both, because the other axes are limited to 65,535
    down, right = tl.program_id(0) // across, tl.program_id(0) % across
    row = down.to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    block = right * (BLOCK_C // 4) + tl.arange(0, BLOCK_C // 4)[None, :]
    column = right * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    r0, r1, r2, r3 = words(tl.load(seed_ptr), tl.load(step_ptr), row + row_offset, block, stream)
    bits = in_columns(r0, r1, r2, r3).to(tl.int64)
    tl.store(out_ptr + row * columns + column, bits, (row < rows) & (column < columns))


def random_bits_triton(seed: Tensor, step: Tensor, rows: int, columns: int, row_offset: int, stream: int) -> Tensor:
    """Return random bits, int64 [rows, columns] in [0, 2^32)."""
    out = seed.new_empty((rows, columns))
    if out.numel() > 0:
        blocks = tile(columns)
        grid = triton.cdiv(rows, blocks["BLOCK_R"]) * triton.cdiv(columns, blocks["BLOCK_C"])
        _random_bits_kernel[(grid,)](out, seed, step, row_offset, rows, columns, stream, **blocks)
    return out
