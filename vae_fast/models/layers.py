"""Layers that the convolutional networks share."""

from collections.abc import Callable
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
MOST_GROUPS = 8  # of channels that are normalised together


class UpConv(nn.Conv2d):
    """A 3 x 3 convolution, with a border of zeros, of an image enlarged twice by repetition: [B, C, H, W] ->
    [B, out, 2 H, 2 W].

    Each output sees 2 x 2 values of the image as it was, so with the weights of equal inputs added up the same is a
    transposed convolution, 4 x 4 with stride 2: 4 products for every 9, and the enlarged image need not exist. (Odena
    et al. 2016, Deconvolution and Checkerboard Artifacts, enlarge first because a transposed convolution with free
    weights leaves a pattern; here its weights are not free.)
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1)
        self._sums: Tensor
        self.register_buffer("_sums", _sums(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kind = "cpu" if x.is_meta else x.device.type  # nothing is computed on "meta", which autocast does not know
        with torch.autocast(kind, enabled=False):  # the sums are to be rounded, not their terms
            sums = F.linear(self.weight.flatten(2), self._sums)  # [out, C, 16]
        weight = sums.unflatten(2, (4, 4)).transpose(0, 1)  # [C, out, 4, 4]
        return F.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)

    def plain(self) -> nn.Module:
        """Return the definition, in PyTorch's own modules."""
        conv = nn.Conv2d(self.in_channels, self.out_channels, 3, padding=1)
        conv.load_state_dict(self.state_dict())
        return nn.Sequential(nn.Upsample(scale_factor=2), conv)


def _sums() -> Tensor:
    """Return the matrix [16, 9] of zeros and ones that adds up the weights of a 3 x 3 kernel that see the same input.

    Of rows as of columns: output 2 i + a takes row k of the kernel from row (2 i + a + k - 1) // 2 of the image; a
    transposed convolution takes it through row t of its own, t = 2 i + a - 2 (row of the image) + 1.
    """
    rows = torch.zeros(4, 3)
    for a in range(2):
        for k in range(3):
            rows[a - 2 * ((a + k - 1) // 2) + 1, k] = 1
    return torch.kron(rows, rows)


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018) with up to 8 groups of channels, in the dtype of its input.

    Its sums are float32 in any case; with float32 weights beside a bfloat16 input the CPU has no compiled version.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(gcd(MOST_GROUPS, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Norm(nn.Sequential):
    """Group normalisation, then the activation."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__(GroupNorm(channels), ACTIVATIONS[activation]())
