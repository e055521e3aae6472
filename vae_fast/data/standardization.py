"""The standardization of tables: each column is shifted and scaled to mean 0 and variance 1 over the training part."""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_fast.data.images import Pixels, pieces


class Standardization(NamedTuple):
    """What is subtracted from each value and what it is divided by: float32 [D] each."""

    mean: Tensor
    scale: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Return values [N, ...] standardized, float32 of the same shape."""
        return ((values.flatten(1).float() - self.mean) / self.scale).view(values.shape)

    def undo(self, values: Tensor) -> Tensor:
        """Return standardized values [N, ...] in their own units."""
        return (values.flatten(1) * self.scale + self.mean).view(values.shape)


def measure(values: Pixels) -> Standardization:
    """Return the means and the standard deviations of values [N, ...]; columns that do not vary get the scale 1.

    Sums are float64, those of squares about the means.
    """
    count, width = len(values), values.shape[1:].numel()
    mean, square = torch.zeros(2, width, dtype=torch.float64)
    for piece in pieces(values):
        mean += piece.to("cpu").flatten(1).double().sum(0) / count
    for piece in pieces(values):
        square += (piece.to("cpu").flatten(1).double() - mean).square().sum(0) / count
    scale = square.sqrt()
    varies = scale > torch.finfo(torch.float32).eps * mean.abs()  # more than the rounding of the values themselves
    return Standardization(mean.float(), torch.where(varies, scale, 1.0).float())
