"""The standardization of tables: each column is shifted and scaled to mean 0 and variance 1 over the training part."""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_fast.data.images import Pixels, pieces
from vae_fast.data.transforms import floats


class Standardization(NamedTuple):
    """What is subtracted from each value and what it is divided by: float32 [D] each."""

    mean: Tensor
    scale: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Return values [N, ...] standardized, float32 of the same shape."""
        return ((floats(values.flatten(1)) - self.mean) / self.scale).view(values.shape)


def measure(values: Pixels) -> Standardization:
    """Return the means and the standard deviations of values [N, ...]; columns that do not vary get the scale 1.

    Sums are float64, those of squares about the means.
    """
    count, width = len(values), values.shape[1:].numel()
    mean, square = torch.zeros(2, width, dtype=torch.float64)
    for piece in pieces(values):
        mean += floats(piece.to("cpu")).flatten(1).double().sum(0) / count
    for piece in pieces(values):
        square += (floats(piece.to("cpu")).flatten(1).double() - mean).square().sum(0) / count
    scale = square.sqrt().float()
    return Standardization(mean.float(), torch.where(scale > 0, scale, 1.0))
