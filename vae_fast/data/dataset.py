"""Images to train on: known by name (digits, mnist, fashion-mnist), in a file, or in memory; checked before any use.

`data.checks` finds once, up front, everything that could spoil a run later. Pixels stay uint8 where possible, one byte
each; k stands for k/255.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_fast.config import CATALOGUE, IN_MEMORY, Config
from vae_fast.data import builtin, file_images
from vae_fast.data.arrays import checks, hdf5, in_memory, labels, readers
from vae_fast.data.arrays.layout import Layout, channels_first
from vae_fast.data.arrays.readers import Source
from vae_fast.data.file_images import Stored
from vae_fast.data.image_files import cache, detect
from vae_fast.data.image_files.cache import Wish
from vae_fast.data.images import Pixels
from vae_fast.errors import DataError
from vae_fast.runtime import pytorch_state
from vae_fast.runtime.printer import Printer

P = TypeVar("P", bound=Pixels)
ARRAYS = Wish()  # settings of image files that are all left open, as they must be for arrays


@dataclass(frozen=True, eq=False)
class Images(Generic[P]):
    """A checked set of images.

    pixels: [N, C, H, W], contiguous; uint8 (k stands for k/255) or float32 in [0, 1]. A tensor, unless `DataSet.splits`
        was asked to leave them in their file.
    labels: int64 [N], or None if there are none.
    name: a short name for titles. note: how the pixels are stored, and why.
    label_names: the names of the classes if their labels were strings; label k is label_names[k].
    """

    pixels: P
    labels: Tensor | None
    name: str
    note: str
    label_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)


def load_images(
    data: str | os.PathLike[str],
    split: Literal["train", "test"] = "train",
    root: str | os.PathLike[str] | None = None,
    *,
    test_fraction: float = 0.1,
    layout: Layout = "auto",
    image_size: tuple[int, int] | None = None,
    crop: Literal["none", "center"] = "none",
    channels: int | None = None,
) -> Images[Tensor]:
    """Load one part of a data set.

    data: "digits" (embedded), "mnist", "fashion-mnist", or the path of an IDX file (plain or gzipped), a `.npy`, a
        `.npz` with the members `train` and optionally `test`, `train_labels` and `test_labels` (or other common names,
        such as `x_train` and `arr_0`), a folder of IDX files with MNIST's names, or a folder, zip or tar of image
        files. Arrays are [N, H, W], [N, C, H, W], [N, H, W, C] or [N, D] (which becomes [N, 1, 1, D]); integers of 0
        to 255, bool, or floats in [0, 1], stored as uint8 if every one is k/255 within 1e-6, else as float32.
    root: where to look first for mnist and fashion-mnist, before the folder that the environment variable
        VAE_FAST_DATA names, the user's cache, and the system's folders. If none has the set, it is downloaded.
    test_fraction: the fraction at the end of a set without a test part that is held out as one; 0 for none.
    layout: "nchw" or "nhwc", the order of the axes of an array with four; "auto" sees it by the shape.
    image_size, crop, channels: of image files: (H, W) to resize them to, "center" to cut out their middle instead of
        stretching them, 1 or 3 for grey or colour; None for those of the files.

    Raises `DataError` (a `ValueError`) if anything is wrong with the arguments or the file.
    """
    if split not in ("train", "test"):
        raise DataError(f"split: expected 'train' or 'test', got {split!r}")
    wish = Wish(image_size, crop, channels)
    train, test = load_splits(data, root, test_fraction=test_fraction, layout=layout, image_files=wish)
    if split == "train":
        return train
    if test is None:
        raise DataError(f"{data}: has no test part; give it one, or hold one out with a test_fraction above 0")
    return test


@pytorch_state.as_it_starts()
def load_splits(
    data: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    test_fraction: float = 0.1,
    layout: Layout = "auto",
    image_files: Wish = ARRAYS,
) -> tuple[Images[Tensor], Images[Tensor] | None]:
    """Load the training and the test part of a data set, as `load_images` does; the latter is None if there is none."""
    found = DataSet.open(data, root, layout, image_files=image_files)
    return cast(tuple[Images[Tensor], Images[Tensor] | None], found.splits(test_fraction))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set that has been found but not yet read: plain files are only mapped.

    name: for titles. notes: what happened to its image files, for the user.
    """

    name: str
    sources: Mapping[str, Source]
    layout: Layout = "auto"
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        data: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        layout: Layout = "auto",
        labels_file: str | os.PathLike[str] | None = None,
        image_files: Wish = ARRAYS,
        printer: Printer | None = None,
    ) -> Self:
        """Find a data set by name or path; see `load_images`.

        labels_file: the labels of a single array. printer: shows the progress of decoding image files.
        """
        name, sources, notes = _open(data, root, image_files, printer or Printer(quiet=True))
        if labels_file is not None:
            if "train_labels" in sources or "test" in sources:
                has = "labels of its own" if "train_labels" in sources else "a test part, so labels belong beside both"
                raise DataError(f"labels: expected none, since {data} has {has}; got {labels_file}")
            sources = {**sources, "train_labels": labels.read(Path(os.path.expanduser(labels_file)))}
        return cls(name, sources, layout, notes)

    @classmethod
    def of(cls, config: Config, printer: Printer | None = None) -> Self:
        """Find the data set that the settings name."""
        size = config.image_size
        wish = Wish(None if size is None else (size[0], size[-1]), config.crop, config.channels)
        return cls.open(config.data, config.data_root, config.layout, config.labels, wish, printer)

    @classmethod
    def in_memory(cls, given: Mapping[str, Any], layout: Layout = "auto", printer: Printer | None = None) -> Self:
        """Return a data set of `given`, the arguments of `in_memory.sources` by their names."""
        return cls(IN_MEMORY, in_memory.sources(**given, printer=printer), layout)

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
    def image_shape(self) -> tuple[int, ...]:
        """Return the shape of an image, (C, H, W)."""
        shape = channels_first(self.sources["train"], self.layout).array.shape[1:]
        return (1,) * (3 - len(shape)) + shape

    @property
    def classes(self) -> int:
        """Return the number of classes of the labels; raise DataError if not every image has one."""
        checks.check_labels(self.sources)
        return labels.count_classes(self.sources, list(self.parts), self.name)

    @property
    def obstacle(self) -> str | None:
        """Return why the images cannot stay in their files, and what to do about it; None if they can."""
        arranged = (channels_first(source, self.layout) for source in self.parts.values())
        found = ((where, file_images.obstacle(array)) for array, where, _ in arranged)
        return next((f"{where}: {why}" for where, why in found if why is not None), None)

    def splits(
        self, test_fraction: float = 0.1, *, in_file: bool = False, any_values: bool = False
    ) -> tuple[Images[Pixels], Images[Pixels] | None]:
        """Check the images and return the training and the test part, in memory or, with `in_file`, as `Stored`.

        any_values: whether they are a table of any real values, not pixels in [0, 1].
        Raises `DataError` for a `test_fraction` outside [0, 1) and if anything is wrong with the images.
        """
        if not 0 <= test_fraction < 1:
            raise DataError(f"test_fraction: expected at least 0 and less than 1, got {test_fraction!r}")
        parts = {part: channels_first(source, self.layout) for part, source in self.parts.items()}
        factors = checks.check({**self.sources, **parts}, any_values)
        encoded, names = labels.encode(self.sources)
        keep = _in_file if in_file else _in_memory
        images: dict[str, Images[Pixels]] = {}
        for part, source in parts.items():
            pixels: Pixels
            pixels, note = _as_float32(source.array) if any_values else keep(source.array, factors[part])
            if source.array is not self.parts[part].array:
                note += ", given with channels last"
            count, *shape = pixels.shape
            pixels = pixels.view(count, *(1,) * (3 - len(shape)), *shape)
            images[part] = Images(pixels, encoded.get(part), self.name, note, names)
        if "test" in images:
            return images["train"], images["test"]
        if test_fraction == 0:
            return images["train"], None
        return _hold_out(images["train"], test_fraction, self.sources["train"].where)


def _open(
    data: str | os.PathLike[str], root: str | os.PathLike[str] | None, image_files: Wish, printer: Printer
) -> tuple[str, dict[str, Source], tuple[str, ...]]:
    """Return a name for titles, the arrays, and notes on image files."""
    path, name = (None, None) if _is_known(data) else _path(data)
    container = None if path is None else detect.container_of(path)
    if path is not None and container is not None:
        sources, notes = cache.read(container, image_files, printer)
        return _title(path), sources, tuple(notes)
    if image_files != ARRAYS:
        setting = _first_setting(image_files)
        raise DataError(f"{setting}: expected none, since {data} is no folder or archive of image files")
    if path is None:
        return str(data), builtin.read_known(str(data), root), ()
    return _title(path), hdf5.read(path, name) if hdf5.is_hdf5(path) else readers.read(path), ()


def _is_known(data: str | os.PathLike[str]) -> bool:
    """Return whether the data are a known set's name; raise DataError for what is neither a name nor a path."""
    if not isinstance(data, str | os.PathLike):
        raise DataError(f"data: expected a name or a path, got {data!r}")
    if data == IN_MEMORY:
        raise DataError(
            f"data: {IN_MEMORY!r} stands for images that a program passes to vf.fit(config, images=...); "
            f"expected these, or a file with the same ones (--data FILE)"
        )
    return isinstance(data, str) and data in CATALOGUE


def _path(data: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Return the path, and for FILE:NAME the name of a data set in an HDF5 file."""
    path, name = hdf5.file_and_name(os.path.expanduser(data))
    if not data or not os.path.exists(path):
        near = difflib.get_close_matches(str(data), CATALOGUE, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{data}: no such file or folder, and not one of {', '.join(CATALOGUE)}{hint}")
    return path, name


def _title(path: Path) -> str:
    name = path.resolve().name
    for suffix in () if path.is_dir() else (".gz", *detect.TAR_SUFFIXES):
        name = name.removesuffix(suffix)
    return name if path.is_dir() else Path(name).stem


def _first_setting(wish: Wish) -> str:
    given = {"image_size": wish.size, "crop": None if wish.crop == "none" else wish.crop, "channels": wish.channels}
    return next(name for name, value in given.items() if value is not None)


def _in_memory(array: NDArray[Any], factor: int | None) -> tuple[Tensor, str]:
    """Return pixels as a tensor, and a note. `factor`: what makes them bytes, from `checks.check`."""
    if array.dtype == np.uint8:
        pixels, note = np.require(array, requirements=["C", "W", "E"]), "uint8"  # copies a map, not an array
    elif factor is None:
        pixels, note = np.require(array, np.float32, ["C", "W", "E"]), "float32 (not multiples of 1/255)"
    else:
        values = {"f": "every value is a multiple of 1/255"}.get(array.dtype.kind, f"0 to {255 // factor}")
        kind = "float" if array.dtype.kind == "f" else array.dtype.name
        pixels, note = _to_uint8(array, factor), f"{kind} pixels stored as uint8: {values}"
    return torch.from_numpy(pixels), note


def _as_float32(array: NDArray[Any]) -> tuple[Tensor, str]:
    return torch.from_numpy(np.require(array, np.float32, ["C", "W", "E"])), "any values, as float32"


def _in_file(array: NDArray[Any], factor: int | None) -> tuple[Stored, str]:
    note = f"{array.dtype.name}, left in the file"
    if factor is not None and array.dtype.kind == "f":
        note += " and read as uint8: every value is a multiple of 1/255"
    return Stored.of(array, as_uint8=factor is not None), note


def _to_uint8(array: NDArray[Any], factor: int) -> NDArray[Any]:
    pixels = np.empty(array.shape, np.uint8)
    for start, chunk in checks.chunks(array):
        pixels[start : start + len(chunk)] = np.rint(chunk.astype(np.float64) * factor)
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
