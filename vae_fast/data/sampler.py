"""The images that each step sees: a shuffle that is a pure function of (seed, epoch), wherever the images are.

There are no worker processes and no state: the batch of any step of any epoch can be computed directly, which makes a
resume exact.
"""

import torch
from torch import Tensor

from vae_fast.errors import DataError
from vae_fast.kernels import random_bits, streams

_BLOCK = 1 << 18  # images whose random bits are drawn at a time: drawing then takes less memory than sorting


def shuffled(count: int, seed: int, epoch: int, device: torch.device | str = "cpu") -> Tensor:
    """Return a permutation of range(count), int64 [count]: the images sorted by 63 random bits each, ties by index."""
    keys = torch.empty(count, dtype=torch.int64, device=device)
    for start, block in zip(range(0, count, _BLOCK), keys.split(_BLOCK), strict=False):
        bits = random_bits(len(block), 2, seed, epoch, row_offset=start, stream=streams.SHUFFLE, device=device)
        torch.bitwise_or(bits[:, 0] << 31, bits[:, 1] >> 1, out=block)
    return torch.argsort(keys, stable=True)


class BatchSampler:
    """The indices of each training batch. The last incomplete batch of an epoch is left out (`left_out` images).

    Args:
        count: the number of training images.
        batch_size: the number of images per step, at most `count`.
        seed: the seed of the shuffle.
        device: the device of the images, where the indices go.
    """

    def __init__(self, count: int, batch_size: int, seed: int, device: torch.device | str = "cpu") -> None:
        if batch_size > count:
            raise DataError(
                f"batch_size: expected at most the {count} training images, got {batch_size}; "
                f"take a smaller --batch-size, or more images"
            )
        self.count, self.batch_size, self.seed, self.device = count, batch_size, seed, device

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.batch_size

    @property
    def left_out(self) -> int:
        return self.count % self.batch_size

    def order(self, epoch: int) -> Tensor:
        """Return the indices of every batch of `epoch`, int64 [steps_per_epoch, batch_size]."""
        order = shuffled(self.count, self.seed, epoch, self.device)
        return order[: self.steps_per_epoch * self.batch_size].view(self.steps_per_epoch, self.batch_size)
