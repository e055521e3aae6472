"""Standard normal noise, and the density of the posterior that is drawn with it."""

import math

import torch
from torch import Tensor

from vae_fast.kernels import reparameterize, sample_posterior


def standard_normal(
    rows: int,
    columns: int,
    seed: int | Tensor,
    step: int | Tensor,
    *,
    row_offset: int | Tensor = 0,
    stream: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Return float32 [rows, columns], a pure function of (seed, step, stream, row, column); device: the CPU if None."""
    if isinstance(row_offset, Tensor):
        stats = torch.zeros(rows, 2 * columns, device=device)
        return sample_posterior(stats, seed, step, row_offset=row_offset, stream=stream).z
    zeros = torch.zeros(rows, columns, device=device)
    return reparameterize(zeros, zeros, seed, step, row_offset=row_offset, stream=stream)


def log_posterior(eps: Tensor, logvar: Tensor) -> Tensor:
    """Return log q(z | x), in nats, [...], at z = mu + exp(logvar / 2) eps; eps and logvar broadcast to [..., Z]."""
    return -0.5 * (eps.square() + logvar + math.log(2 * math.pi)).sum(-1)
