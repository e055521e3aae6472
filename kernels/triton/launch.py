"""How the kernels are launched: sizes of tiles, and layouts that their offsets reach."""

import triton
from torch import Tensor


def tile(columns: int) -> dict[str, int]:
    """A tile of about 1024 values, by size: Philox gives four columns at a time, and no row needs more than it has."""
    width = min(max(4, triton.next_power_of_2(columns)), 256)
    return {"BLOCK_R": 1024 // width, "BLOCK_C": width, "num_warps": 4}


def reachable(matrix: Tensor) -> Tensor:
    """The matrix, or a copy: offsets of rows are computed in 64 bits, those of columns within a row in 32."""
    far = matrix.numel() > 0 and (matrix.shape[1] - 1) * abs(matrix.stride(1)) >= 2**31
    return matrix.contiguous() if far else matrix


def strides(matrix: Tensor | None) -> tuple[int, ...]:
    """Of rows and columns; zeros for what a kernel does without."""
    return (0, 0) if matrix is None else matrix.stride()
