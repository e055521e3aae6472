"""Paths through the latent space: between two latents, and along single dimensions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LOWEST_SINE = 1e-3  # of the angle between two latents; below it the straight line replaces the arc


def linear(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Interpolate from a to b, [..., Z] each, on a straight line, both ends included: [..., steps, Z]."""
    t = torch.linspace(0, 1, steps, dtype=a.dtype)[:, None]
    return (1 - t) * a.unsqueeze(-2) + t * b.unsqueeze(-2)


def spherical(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Interpolate on the arc that keeps the length between those of a and b, where the prior has its mass.

    White: Sampling Generative Networks, 2016. Shoemake: Animating Rotation with Quaternion Curves, SIGGRAPH 1985.
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[..., None, None]
    angle = cosine.acos()
    t = torch.linspace(0, 1, steps, dtype=a.dtype)[:, None]
    sine = angle.sin()
    arc = (((1 - t) * angle).sin() * a.unsqueeze(-2) + (t * angle).sin() * b.unsqueeze(-2)) / sine
    return torch.where(sine < LOWEST_SINE, linear(a, b, steps), arc)


PATHS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"linear": linear, "spherical": spherical}


def sweeps(around: Tensor, dimensions: Sequence[int], values: Tensor) -> Tensor:
    """Return latents [len(dimensions), steps, Z]: `around` [Z], one dimension a row set to its `values` [Z, steps]."""
    z = around.expand(len(dimensions), values.shape[1], -1).clone()
    for row, dimension in zip(z, dimensions, strict=True):
        row[:, dimension] = values[dimension]
    return z
