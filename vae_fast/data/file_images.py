"""Images that stay in their file, for sets larger than memory.

`Stored` stands in for the tensor of the same images and supports the few operations that a run needs: it is sliced,
flattened and moved to a device, and only moving it reads anything. No page of the file is ever mapped, so memory holds
what was read and no more.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_fast.errors import DataError
from vae_fast.kernels import file_io

Treatment = Callable[[Tensor, int], Tensor]  # takes images [n, D] and the index of the first

_DTYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.float32): torch.float32}


class File:
    """A file open for reading, closed with its last reference. Failures become a `DataError` that names the file."""

    def __init__(self, path: str) -> None:
        self.path = path
        with self.explained():
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except EOFError:
            raise DataError(f"{self.path}: ends before its last image: it was cut short during the run") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, eq=False)
class Stored:
    """Images [N, ...] in a file, one after the other, uint8 or float32: `Stored.of` makes one.

    first: the index in the file of this view's first image.
    index: the index of that image that `treatment`, if there is one, receives.
    as_uint8: whether floats, every one k/255, are read as k.
    dtype: the dtype of what `to` returns.
    """

    file: File
    offset: int
    stored_dtype: torch.dtype
    shape: torch.Size
    as_uint8: bool = False
    first: int = 0
    index: int = 0
    treatment: Treatment | None = None

    @classmethod
    def of(cls, array: NDArray[Any], as_uint8: bool = False) -> Self:
        """Return the images of a mapped file for which `obstacle` returns None; they are read without the map."""
        assert isinstance(array, np.memmap)
        assert obstacle(array) is None
        return cls(File(str(array.filename)), array.offset, _DTYPES[array.dtype], torch.Size(array.shape), as_uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Self:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"Stored: expected a slice of step 1, got {rows}")
        shape = torch.Size((max(0, stop - start), *self.shape[1:]))
        return replace(self, shape=shape, first=self.first + start, index=self.index + start)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return self.stored_dtype if self.treatment is None and not self.as_uint8 else torch.uint8

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def view(self, *shape: int) -> Self:
        """Return the same images, each with another shape."""
        assert shape[0] == len(self)
        assert math.prod(shape) == self.shape.numel()
        return replace(self, shape=torch.Size(shape))

    def flatten(self, start_dim: int) -> Self:
        """Reshape [N, ...] to [N, D]; `start_dim` must be 1, and exists to match the method of a tensor."""
        assert start_dim == 1
        return self.view(len(self), self.shape[1:].numel())

    def treated(self, treatment: Treatment) -> Self:
        """Return the images with `treatment`, which returns uint8, applied whenever they are read."""
        return replace(self, treatment=treatment, index=0)

    def to(self, device: torch.device | str) -> Tensor:
        """Read all images of this view; raise DataError if that fails."""
        pixels = torch.empty(self.shape, dtype=self.stored_dtype, device="cpu")
        with self.file.explained():
            file_io.read_span(self.file.descriptor, self._position, pixels)
        pixels = self._converted(pixels)
        if self.treatment is not None:
            pixels = self.treatment(pixels.flatten(1), self.index).view(self.shape)
        return pixels.to(device)

    def gather(self, rows: Tensor, out: Tensor) -> None:
        """Read images `rows` (int64 [n]) into `out`, [n, D] of this dtype, on the CPU; raise DataError on failure."""
        assert self.treatment is None, "a treatment needs neighbours"
        assert out.dtype == self.dtype
        is_converted = self.dtype != self.stored_dtype
        read = torch.empty(out.shape, dtype=self.stored_dtype, device="cpu") if is_converted else out
        with self.file.explained():
            file_io.read_rows(self.file.descriptor, self._position, rows, read)
        if is_converted:
            out.copy_(self._converted(read))

    def _converted(self, pixels: Tensor) -> Tensor:
        """Convert pixels as read to `dtype`, with NumPy, whose loops start no threads that compete with a step's."""
        if not self.as_uint8 or pixels.dtype == torch.uint8:
            return pixels
        return torch.from_numpy(np.rint(pixels.numpy() * np.float32(255)).astype(np.uint8))

    @property
    def _position(self) -> int:
        return self.offset + self.first * self.shape[1:].numel() * self.stored_dtype.itemsize


def obstacle(array: NDArray[Any]) -> str | None:
    """Return why images cannot stay in their file, and what to do about it; None if they can."""
    if not isinstance(array, np.memmap):
        return "only a plain .npy or IDX file can be read piece by piece; unpack it, or write one with numpy.save"
    if array.dtype not in _DTYPES:
        return f"its dtype is {array.dtype.str}, expected uint8 or float32 of this machine's byte order; convert it"
    if not array.flags.c_contiguous:
        order = "it is in Fortran order" if array.flags.f_contiguous else "its channels come last"
        return f"{order}; write it with numpy.save(file, numpy.ascontiguousarray(images))"
    return None
