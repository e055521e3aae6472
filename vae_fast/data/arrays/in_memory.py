"""Images that a program holds: arrays, tensors, data sets and iterables, as the arrays that a file would give."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_fast.config import shown_value
from vae_fast.data.arrays.readers import Source
from vae_fast.errors import DataError
from vae_fast.runtime.printer import Printer

EXPECTED = "an array or a tensor [N, ...], or a data set or iterable of images or of pairs (image, label)"
_FIRST_CAPACITY = 1024  # images; doubled as more come


def sources(
    images: Any, labels: Any = None, test_images: Any = None, test_labels: Any = None, *, printer: Printer | None = None
) -> dict[str, Source]:
    """Return the arrays of a data set, named as `readers.read` names them.

    Args:
        images, test_images: NumPy arrays or whatever NumPy makes one of, tensors on any device, or data sets and
            iterables of images or of pairs (image, label), which are read once.
        labels, test_labels: arrays, tensors or sequences of integers or strings, unless they come in pairs.
        printer: shows the progress of reading; None shows nothing.

    Arrays and tensors on the CPU are shared, not copied. Raises DataError, naming the argument, for anything else.
    """
    printer = printer or Printer(quiet=True)
    found = {}
    for part, given, of_them in (("train", images, labels), ("test", test_images, test_labels)):
        where = "images" if part == "train" else "test_images"
        if given is None:
            if of_them is not None or part == "train":
                raise DataError(f"{where}: expected {EXPECTED}, got none")
            continue
        pixels, paired = _images(given, where, printer)
        if paired is not None and of_them is not None:
            raise DataError(f"{_labels_of(where)}: given twice, as an argument and in pairs with {where}")
        found[part] = Source(pixels, where)
        if (either := paired if of_them is None else of_them) is not None:
            found[f"{part}_labels"] = Source(_array(either, _labels_of(where)), _labels_of(where))
    return found


def _labels_of(where: str) -> str:
    return where.replace("images", "labels")


def _images(given: Any, where: str, printer: Printer) -> tuple[NDArray[Any], list[Any] | None]:
    """Return images [N, ...] and, if they come in pairs, their labels."""
    if isinstance(given, torch.utils.data.DataLoader):
        raise DataError(f"{where}: a DataLoader gives batches, not images; expected its data set, loader.dataset")
    if isinstance(given, Tensor) or hasattr(given, "__array__"):
        return _checked(_array(given, where), where), None
    if isinstance(given, str | bytes | dict | set) or not (hasattr(given, "__getitem__") or hasattr(given, "__iter__")):
        advice = "; a path or a name is Config(data=...)" if isinstance(given, str) else ""
        raise DataError(f"{where}: expected {EXPECTED}, got {shown_value(given)}{advice}")
    return _read(given, where, printer)


def _array(values: Any, where: str) -> NDArray[Any]:
    """Return any values as an array; tensors and arrays share their memory with it."""
    if isinstance(values, np.ma.MaskedArray):
        raise DataError(f"{where}: a masked array: expected every value; fill it first, for example with .filled(0)")
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise DataError(f"{where}: a tensor of layout {values.layout}: expected a dense one; use .to_dense()")
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array: NDArray[Any] = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: no array can be made of it: {error}") from None
    return array


def _checked(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: dtype {array.dtype}: expected numbers")
    if not 1 <= array.ndim <= 4 or 0 in array.shape:
        raise DataError(f"{where}: shape {list(array.shape)}: expected 2 to 4 dimensions, none of them empty")
    return array


def _read(items: Any, where: str, printer: Printer) -> tuple[NDArray[Any], list[Any] | None]:
    """Read every item once into one growing array."""
    count = len(items) if hasattr(items, "__len__") else None
    pixels, labels, seen = np.empty(0), [], 0
    with printer.bar(f"reading {where}", count, unit="images") as show:
        for seen, item in enumerate(_each(items, count), 1):
            image, label = _pair(item, f"{where}: item {seen - 1}")
            if seen == 1:
                pixels = np.empty((count or _FIRST_CAPACITY, *image.shape), image.dtype)
            elif (image.shape, image.dtype) != (pixels.shape[1:], pixels.dtype):
                raise DataError(
                    f"{where}: item {seen - 1} is {image.dtype} {list(image.shape)}, the first is {pixels.dtype} "
                    f"{list(pixels.shape[1:])}; expected all alike"
                )
            if seen > len(pixels):
                pixels.resize((2 * len(pixels), *image.shape), refcheck=False)
            pixels[seen - 1] = image
            labels.append(label)
            show(seen, None)
    if seen == 0:
        raise DataError(f"{where}: expected at least one image, got none")
    pixels.resize((seen, *pixels.shape[1:]), refcheck=False)
    unlabelled = sum(label is None for label in labels)
    if 0 < unlabelled < seen:
        raise DataError(f"{where}: {unlabelled} of {seen} items have no label; expected one for each, or for none")
    return _checked(pixels, where), None if unlabelled else labels


def _each(items: Any, count: int | None) -> Iterator[Any]:
    """Yield the items of an iterable, or of a data set that only has __getitem__ and __len__."""
    if isinstance(items, Iterable):
        yield from items
    else:
        yield from (items[index] for index in range(count or 0))


def _pair(item: Any, where: str) -> tuple[NDArray[Any], Any]:
    """Return an item's image and its label, None if it has none."""
    label = None
    if isinstance(item, tuple):
        if len(item) != 2:
            raise DataError(f"{where}: expected an image or a pair (image, label), got {len(item)} things")
        item, label = item
        label = label.item() if getattr(label, "shape", None) == () else label
    if isinstance(item, str | bytes | dict) or item is None:
        raise DataError(f"{where}: expected an image or a pair (image, label), got {shown_value(item)}")
    return _checked(_array(item, where)[None], where)[0], label
