"""The interface to a set of images that every part of the program uses, whether it is in memory or in a file."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol, Self

import torch
from torch import Tensor

PIECE = 1 << 22  # bytes read at a time when going through a whole set


class Pixels(Protocol):
    """Images [N, ...], uint8 or float32: a Tensor, or images that stay in their file (`file_images.Stored`).

    They are sliced, reshaped and moved to a device; only moving them reads the file.
    """

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Self: ...

    def view(self, *shape: int) -> Self: ...

    def flatten(self, start_dim: int) -> Self: ...

    def to(self, device: torch.device | str) -> Tensor: ...


def pieces(images: Pixels, nbytes: int = PIECE) -> Iterator[Pixels]:
    """Yield the images in runs of about `nbytes`."""
    step = max(1, nbytes // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        yield images[start : start + step]


def sha256(parts: Iterable[Pixels]) -> str:
    """Return the SHA-256 digest, in hexadecimal digits, of the pixels of several sets, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        for piece in pieces(part):
            digest.update(piece.to("cpu").contiguous().numpy().data)
    return digest.hexdigest()
