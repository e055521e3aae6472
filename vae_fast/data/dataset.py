"""Images to train on: a set known by name (digits, mnist, fashion-mnist) or a user's own file, checked before any use.

`data.checks` finds once, up front, everything that could spoil a run later. Pixels stay uint8 where possible, one byte
each; k stands for k/255.
"""

import difflib
import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_fast.config import CATALOGUE
from vae_fast.data import builtin, checks, file_images, readers
from vae_fast.data.file_images import Stored
from vae_fast.data.images import Pixels
from vae_fast.data.readers import Source
from vae_fast.errors import DataError
from vae_fast.runtime import pytorch_state

P = TypeVar("P", bound=Pixels)


@dataclass(frozen=True, eq=False)
class Images(Generic[P]):
    """A checked set of images.

    pixels: [N, C, H, W], contiguous; uint8 (k stands for k/255) or float32 in [0, 1]. A tensor, unless `DataSet.splits`
        was asked to leave them in their file.
    labels: int64 [N], or None if the file has none.
    name: a short name for titles. note: how the pixels are stored, and why.
    """

    pixels: P
    labels: Tensor | None
    name: str
    note: str

    def __len__(self) -> int:
        return len(self.pixels)


def load_images(
    data: str | os.PathLike[str],
    split: Literal["train", "test"] = "train",
    root: str | os.PathLike[str] | None = None,
    *,
    test_fraction: float = 0.1,
) -> Images[Tensor]:
    """Load one part of a data set.

    data: "digits" (embedded), "mnist", "fashion-mnist", or the path of an IDX file (plain or gzipped), a `.npy`, a
        `.npz` with the members `train` and optionally `test`, `train_labels` and `test_labels` (or other common names,
        such as `x_train` and `arr_0`), or a folder of IDX files with MNIST's names. Images are [N, H, W],
        [N, C, H, W] or [N, D] (which becomes [N, 1, 1, D]); uint8, or floats in [0, 1], stored as uint8 if every one
        is k/255 within 1e-6, else as float32.
    root: where to look first for mnist and fashion-mnist, before the folder that the environment variable
        VAE_FAST_DATA names, the user's cache, and the system's folders. If none has the set, it is downloaded.
    test_fraction: the fraction at the end of a set without a test part that is held out as one; 0 for none.

    Raises `DataError` (a `ValueError`) if anything is wrong with the arguments or the file.
    """
    if split not in ("train", "test"):
        raise DataError(f"split: expected 'train' or 'test', got {split!r}")
    train, test = load_splits(data, root, test_fraction=test_fraction)
    if split == "train":
        return train
    if test is None:
        raise DataError(f"{data}: has no test part; give it one, or hold one out with a test_fraction above 0")
    return test


@pytorch_state.as_it_starts()
def load_splits(
    data: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, *, test_fraction: float = 0.1
) -> tuple[Images[Tensor], Images[Tensor] | None]:
    """Load the training and the test part of a data set, as `load_images` does; the latter is None if there is none."""
    return cast(tuple[Images[Tensor], Images[Tensor] | None], DataSet.open(data, root).splits(test_fraction))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set that has been found but not yet read: plain files are only mapped. `name` is for titles."""

    name: str
    sources: Mapping[str, Source]

    @classmethod
    def open(cls, data: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Self:
        """Find a data set by name or path; see `load_images`."""
        return cls(*_open(data, root))

    @property
    def parts(self) -> dict[str, Source]:
        """Return the images of "train" and, if the set has it, "test"."""
        return {part: self.sources[part] for part in ("train", "test") if part in self.sources}

    @property
    def nbytes(self) -> int:
        """Return the most bytes that the images can take in memory."""
        return sum(array.size * min(array.itemsize, 4) for array, *_ in self.parts.values())

    @property
    def aliases(self) -> dict[str, str]:
        """Return the file's own names for its parts, for those parts that it names differently."""
        return {part: source.alias for part, source in self.parts.items() if source.alias}

    @property
    def pixels(self) -> int:
        """Return the number of values in one image."""
        return math.prod(self.sources["train"].array.shape[1:])

    @property
    def obstacle(self) -> str | None:
        """Return why the images cannot stay in their files, and what to do about it; None if they can."""
        found = ((where, file_images.obstacle(array)) for array, where, _ in self.parts.values())
        return next((f"{where}: {why}" for where, why in found if why is not None), None)

    def splits(
        self, test_fraction: float = 0.1, *, in_file: bool = False
    ) -> tuple[Images[Pixels], Images[Pixels] | None]:
        """Check the images and return the training and the test part, in memory or, with `in_file`, as `Stored`.

        Raises `DataError` for a `test_fraction` outside [0, 1) and if anything is wrong with the images.
        """
        if not 0 <= test_fraction < 1:
            raise DataError(f"test_fraction: expected at least 0 and less than 1, got {test_fraction!r}")
        as_uint8 = checks.check(self.sources)
        keep = functools.partial(_in_file if in_file else _in_memory, as_uint8=as_uint8)
        images = {part: self._images(part, *keep(source.array)) for part, source in self.parts.items()}
        if "test" in images:
            return images["train"], images["test"]
        if test_fraction == 0:
            return images["train"], None
        return _hold_out(images["train"], test_fraction, self.sources["train"].where)

    def _images(self, part: str, pixels: Pixels, note: str) -> Images[Pixels]:
        labels = self.sources.get(f"{part}_labels")
        count, *shape = pixels.shape
        return Images(
            pixels=pixels.view(count, *(1,) * (3 - len(shape)), *shape),
            labels=None if labels is None else torch.from_numpy(labels.array.astype(np.int64)),
            name=self.name,
            note=note,
        )


def _open(data: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> tuple[str, dict[str, Source]]:
    """Return a name for titles, and the arrays."""
    if not isinstance(data, str | os.PathLike):
        raise DataError(f"data: expected a name or a path, got {data!r}")
    if isinstance(data, str) and data in CATALOGUE:
        return data, builtin.read_known(data, root)
    path = Path(os.path.expanduser(data))
    if not data or not os.path.exists(path):
        near = difflib.get_close_matches(str(data), CATALOGUE, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{data}: no such file or folder, and not one of {', '.join(CATALOGUE)}{hint}")
    name = path.resolve().name
    return name if path.is_dir() else Path(name.removesuffix(".gz")).stem, readers.read(path)


def _in_memory(array: NDArray[Any], as_uint8: bool) -> tuple[Tensor, str]:
    if array.dtype == np.uint8:
        pixels, note = np.require(array, requirements=["C", "W", "E"]), "uint8"  # copies a map, not an array
    elif as_uint8:
        pixels, note = _to_uint8(array), "float pixels stored as uint8: every value is a multiple of 1/255"
    else:
        pixels, note = np.require(array, np.float32, ["C", "W", "E"]), "float32 (not multiples of 1/255)"
    return torch.from_numpy(pixels), note


def _in_file(array: NDArray[Any], as_uint8: bool) -> tuple[Stored, str]:
    note = f"{array.dtype.name}, left in the file"
    if as_uint8 and array.dtype.kind == "f":
        note += " and read as uint8: every value is a multiple of 1/255"
    return Stored.of(array, as_uint8), note


def _to_uint8(array: NDArray[Any]) -> NDArray[Any]:
    pixels = np.empty(array.shape, np.uint8)
    for start, chunk in checks.chunks(array):
        pixels[start : start + len(chunk)] = np.rint(chunk.astype(np.float64) * 255)
    return pixels


def _hold_out(images: Images[P], fraction: float, where: str) -> tuple[Images[P], Images[P]]:
    """Split off the last images as the test part; both parts are views."""
    count = len(images) - round(len(images) * fraction)
    if not 0 < count < len(images):
        raise DataError(
            f"{where}: holding out {fraction:g} of {len(images)} images leaves one part empty; "
            f"choose another test_fraction (0 for no test part)"
        )
    pixels, labels = images.pixels, images.labels
    return (
        replace(images, pixels=pixels[:count], labels=None if labels is None else labels[:count]),
        replace(images, pixels=pixels[count:], labels=None if labels is None else labels[count:]),
    )
