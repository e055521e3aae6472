"""Checks, made once, of all in a set's images that could spoil a run: dtypes, shapes, scales, NaN, mismatched labels.

Every part of a set is checked in the same way. Each mistake raises a `DataError` that names the file, what is wrong
with it and, judging by the values that it holds, the likely cause.
"""

import math
import mmap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_fast.data.readers import Source
from vae_fast.errors import DataError

PARTS = ("train", "test")
_CHUNK = 1 << 18  # pixels checked at a time: the fp64 copies stay in the cache
_TOLERANCE = 1e-6  # how near to k/255 a float pixel must be to count as one
_BRIGHT = 64  # float pixels up to 255 are assumed to be bytes if some are brighter than this
_OVERSHOOT = 0.1  # how far outside [0, 1] resampling may put a pixel


def check(sources: Mapping[str, Source]) -> bool:
    """Raise `DataError` if a data set is wrong; else return whether its float pixels can be stored as uint8."""
    parts = [part for part in PARTS if part in sources]
    if "test_labels" in sources and "test" not in parts:
        raise DataError(
            f"{sources['test_labels'].where}: labels of test images that are missing; add them or remove it"
        )
    for part in parts:
        _check_kind(sources[part])
        if labels := sources.get(f"{part}_labels"):
            _check_labels(labels, sources[part])
    train, last = sources["train"], sources[parts[-1]]
    if train.array.shape[1:] != last.array.shape[1:]:
        raise DataError(
            f"{last.where}: test images are {list(last.array.shape[1:])}, training images "
            f"{list(train.array.shape[1:])}; expected the same shape"
        )
    found = [_checked_pixels(sources[part]) for part in parts]  # a list: check every part, even after a False
    floats = [sources[part] for part in parts if sources[part].array.dtype.kind == "f"]
    as_uint8 = all(found)
    if not as_uint8 and len(floats) < len(parts):
        raise DataError(
            f"{floats[0].where}: its float pixels are not multiples of 1/255, and the other part of the set is uint8; "
            f"store both parts alike"
        )
    return as_uint8


def chunks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield runs of whole images, each with the index of its first, so that working copies stay small.

    Of a mapped file only one run at a time stays in memory: its pages would otherwise count as the process's.
    """
    step = max(1, _CHUNK // math.prod(array.shape[1:]))
    pages: Any = array.base if isinstance(array, np.memmap) and array.flags.c_contiguous else None
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
        if isinstance(pages, mmap.mmap):
            pages.madvise(mmap.MADV_DONTNEED)


def _check_kind(source: Source) -> None:
    """Check the dtype and the shape of images."""
    array, where, _ = source
    if array.dtype != np.uint8 and array.dtype.name not in ("float16", "float32", "float64"):
        advice = "multiply by 255 and convert to uint8"
        if array.dtype != np.bool_:
            advice = "values of 0 to 255 are taken as images.astype('uint8'), others divided by white's, as float32"
        raise DataError(f"{where}: dtype {array.dtype}: expected uint8, or floats in [0, 1]; {advice}")
    shape = list(array.shape)
    if array.ndim < 2:
        raise DataError(f"{where}: shape {shape}: expected images as [N, H, W], [N, C, H, W] or [N, D]")
    if array.ndim == 4 and _channels_come_last(*shape[1:]):
        raise DataError(
            f"{where}: shape {shape}: its channels seem to come last; expected [N, C, H, W]: use "
            f"numpy.moveaxis(images, -1, 1), or [N, D] if they do not"
        )


def _channels_come_last(first: int, second: int, last: int) -> bool:
    """Return whether a shape must be [H, W, C]: as [C, H, W] it would be too narrow, with too many channels."""
    return last <= 4 and last < first and (first > 4 or first == second)


def _check_labels(labels: Source, images: Source) -> None:
    array, where, _ = labels
    if array.dtype.kind not in "iu" or not np.can_cast(array.dtype, np.int64):
        raise DataError(f"{where}: dtype {array.dtype}: expected integer labels; convert to int64")
    if array.shape != (len(images.array),):
        raise DataError(
            f"{where}: shape {list(array.shape)}: expected [{len(images.array)}], one label for each image of "
            f"{images.where}"
        )


def _checked_pixels(source: Source) -> bool:
    """Raise for pixels of another scale or that are not finite; else return whether every one is k/255."""
    array, where, _ = source
    if array.dtype == np.uint8:
        if _largest(array) == 1:
            raise DataError(f"{where}: its largest pixel is 1, but a uint8 white is 255; multiply the pixels by 255")
        return True
    high, are_255ths = 0.0, True
    for start, chunk in chunks(array):
        with np.errstate(invalid="ignore"):  # a NaN gets its own error below, not NumPy's warning
            pixels = chunk.astype(np.float64)
            inside = (pixels >= 0) & (pixels <= 1)
        if not inside.all():
            first = np.argwhere(~inside)[0]
            value = float(pixels[tuple(first)])
            first[0] += start
            raise DataError(f"{where}: image {first[0]}: pixel {first.tolist()} is {_fault(value, array)}")
        high = max(high, float(pixels.max()))
        are_255ths = are_255ths and bool((np.abs(pixels - np.rint(pixels * 255) / 255) <= _TOLERANCE).all())
    if 0 < high <= 1 / 255 + _TOLERANCE:
        raise DataError(
            f"{where}: its largest pixel is {high:g}, but white is 1: divided by 255 twice? Multiply the pixels by 255"
        )
    return are_255ths


def _largest(array: NDArray[Any]) -> int:
    """Return the largest pixel of uint8 images, or any that is above 1."""
    largest = 0
    for _, chunk in chunks(array):
        largest = max(largest, int(chunk.max()))
        if largest > 1:
            break
    return largest


def _fault(value: float, array: NDArray[Any]) -> str:
    if not math.isfinite(value):
        name = "NaN" if math.isnan(value) else f"infinite ({value})"
        return f"{name}: expected a number in [0, 1]; repair or drop the image"
    low, high, are_whole = math.inf, -math.inf, True
    for _, chunk in chunks(array):
        finite = chunk[np.isfinite(chunk)].astype(np.float64)
        low, high = min(low, float(finite.min(initial=low))), max(high, float(finite.max(initial=high)))
        are_whole = are_whole and bool((finite == np.rint(finite)).all())
    cause = _cause(low, high, are_whole)
    return f"{value:g}: expected a number in [0, 1], and the pixels are between {low:g} and {high:g}: {cause}"


def _cause(low: float, high: float, are_whole: bool) -> str:
    """Return the likely cause of pixels outside [0, 1], and what to do about it."""
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return "overshoot of a resampling? Use numpy.clip(images, 0, 1)"
    if low >= -0.5 and high <= 0.5:
        return "centred? Use images + 0.5"
    if low >= -1 and high <= 1:
        return "rescaled to [-1, 1]? Use (images + 1) / 2"
    if are_whole and -128 <= low < 0 and high <= 127:
        return "signed bytes? Use (images + 128) / 255"
    if low < 0:
        return "standardised? Undo it: images * standard deviation + mean"
    if _BRIGHT < high <= 255:
        return "white is 255? Divide by 255" + (", or convert to uint8" if are_whole else "")
    return "16-bit pixels? Divide by 65535" if 2**15 <= high < 2**16 else "divide by the value that stands for white"
