"""Standard normal noise on its own: what `reparameterize` draws for a posterior that is N(0, I)."""

import torch
from torch import Tensor

from vae_fast.kernels import reparameterize


def standard_normal(
    rows: int,
    columns: int,
    seed: int,
    step: int,
    *,
    row_offset: int = 0,
    stream: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Return float32 [rows, columns], a pure function of (seed, step, stream, row, column); device: the CPU if None."""
    zeros = torch.zeros(rows, columns, device=device)
    return reparameterize(zeros, zeros, seed, step, row_offset=row_offset, stream=stream)
