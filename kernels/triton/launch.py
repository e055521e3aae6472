"""Helpers for launching the kernels: tile sizes, and layouts that the kernels' offsets can address."""

import triton
from torch import Tensor


def tile(columns: int) -> dict[str, int]:
    """Return the sizes of a tile of about 1024 values, a multiple of Philox's four columns and no wider than needed."""
    width = min(max(4, triton.next_power_of_2(columns)), 256)
    return {"BLOCK_R": 1024 // width, "BLOCK_C": width, "num_warps": 4}


def reachable(matrix: Tensor) -> Tensor:
    """Return the matrix, or a copy if offsets of columns exceed 32 bits; those of rows are computed in 64 bits."""
    far = matrix.numel() > 0 and (matrix.shape[1] - 1) * abs(matrix.stride(1)) >= 2**31
    return matrix.contiguous() if far else matrix


def strides(matrix: Tensor | None) -> tuple[int, ...]:
    """Return the strides of rows and columns; zeros for a matrix that a kernel does without."""
    return (0, 0) if matrix is None else matrix.stride()
