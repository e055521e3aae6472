"""Tensors that lie in one, so that one launch of a kernel goes over all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Values: what each tensor's place is a multiple of, and what one program of the kernel updates: 8 a thread, so that 16
# bytes of a bfloat16 gradient are read at once.
ALIGNMENT = 1024


class Flat(NamedTuple):
    """Tensors as `views` of one, `data`, 1-d, zero between them; None where they lie apart."""

    data: Tensor | None
    views: list[Tensor]


def flat_like(tensors: Sequence[Tensor], dtype: torch.dtype) -> Flat:
    """Make zeros of the tensors' shapes, on their device, each from a multiple of ALIGNMENT on."""
    sizes = [-(-t.numel() // ALIGNMENT) * ALIGNMENT for t in tensors]
    data = tensors[0].new_zeros(sum(sizes), dtype=dtype)
    parts = data.split(sizes)
    return Flat(data, [part[: t.numel()].view(t.shape) for part, t in zip(parts, tensors, strict=True)])
