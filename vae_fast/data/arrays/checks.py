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

from vae_fast.data.arrays.readers import Source
from vae_fast.errors import DataError

PARTS = ("train", "test")
_CHUNK = 1 << 18  # pixels checked at a time: the fp64 copies stay in the cache
_TOLERANCE = 1e-6  # how near to k/255 a float pixel must be to count as one
_BRIGHT = 64  # float pixels up to 255 are assumed to be bytes if some are brighter than this
_OVERSHOOT = 0.1  # how far outside [0, 1] resampling may put a pixel


def check(sources: Mapping[str, Source], any_values: bool = False) -> dict[str, int | None]:
    """Raise `DataError` if a data set is wrong; else return the factor that makes the pixels of each part bytes.

    It is 1 for 0 to 255, 255 for 0 and 1 or multiples of 1/255; None if the pixels are no bytes but float32, as all are
    with `any_values`, which accepts any finite numbers.
    """
    parts = [part for part in PARTS if part in sources]
    check_labels(sources)
    for part in parts:
        _check_kind(sources[part])
    train, last = sources["train"], sources[parts[-1]]
    if train.array.shape[1:] != last.array.shape[1:]:
        raise DataError(
            f"{last.where}: test images are {list(last.array.shape[1:])}, training images "
            f"{list(train.array.shape[1:])}; expected the same shape"
        )
    if any_values:
        for part in parts:
            _require_finite(sources[part])
        return dict.fromkeys(parts, None)
    factors = {part: _checked_pixels(sources[part]) for part in parts}
    if None not in factors.values():
        integers = [part for part in parts if sources[part].array.dtype.kind in "iu"]
        if any(factors[part] == 1 for part in integers):  # then 0 and 1 in the other part are dark pixels
            factors |= dict.fromkeys(integers, 1)
        return factors
    floats = [sources[part] for part in parts if sources[part].array.dtype.kind == "f"]
    if len(floats) < len(parts):
        other = sources[next(part for part in parts if sources[part].array.dtype.kind != "f")].array.dtype
        raise DataError(
            f"{floats[0].where}: its float pixels are not multiples of 1/255, and the other part of the set is "
            f"{other}; store both parts alike"
        )
    return dict.fromkeys(parts, None)


def check_labels(sources: Mapping[str, Source]) -> None:
    """Raise `DataError` unless the labels, of those parts that have any, are one for each image."""
    if "test_labels" in sources and "test" not in sources:
        raise DataError(
            f"{sources['test_labels'].where}: labels of test images that are missing; add them or remove it"
        )
    for part in PARTS:
        if part in sources and (labels := sources.get(f"{part}_labels")):
            _check_labels(labels, sources[part])


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
    if array.dtype.kind not in "biu" and array.dtype.name not in ("float16", "float32", "float64"):
        raise DataError(f"{where}: dtype {array.dtype}: expected integers of 0 to 255, bool, or floats in [0, 1]")
    if array.ndim < 2:
        raise DataError(f"{where}: shape {list(array.shape)}: expected [N, H, W], [N, C, H, W], [N, H, W, C] or [N, D]")


def _check_labels(labels: Source, images: Source) -> None:
    array, where, _ = labels
    if array.dtype.kind not in "biuUS" or array.dtype == np.uint64:
        raise DataError(f"{where}: dtype {array.dtype}: expected labels that are integers or strings; convert to int64")
    if array.shape != (len(images.array),):
        raise DataError(
            f"{where}: shape {list(array.shape)}: expected [{len(images.array)}], one label for each of {images.where}"
        )


def _checked_pixels(source: Source) -> int | None:
    """Raise for pixels not finite or of another scale; else return the factor that makes them bytes, if any."""
    array, where, _ = source
    if array.dtype == np.bool_:
        return 255
    if array.dtype.kind in "iu":
        return _checked_integers(source)
    high, are_255ths = 0.0, True
    for start, chunk in chunks(array):
        with np.errstate(invalid="ignore"):  # a NaN gets its own error below, not NumPy's warning
            pixels = chunk.astype(np.float64)
            inside = (pixels >= 0) & (pixels <= 1)
        if not inside.all():
            first = np.argwhere(~inside)[0]
            value = float(pixels[tuple(first)])
            first[0] += start
            raise DataError(f"{where}: image {first[0]}: the value at {first.tolist()} is {_fault(value, array)}")
        high = max(high, float(pixels.max()))
        are_255ths = are_255ths and bool((np.abs(pixels - np.rint(pixels * 255) / 255) <= _TOLERANCE).all())
    if 0 < high <= 1 / 255 + _TOLERANCE:
        raise DataError(
            f"{where}: its largest pixel is {high:g}, but white is 1: divided by 255 twice? Multiply the pixels by 255"
        )
    return 255 if are_255ths else None


def _require_finite(source: Source) -> None:
    for start, chunk in chunks(source.array):
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            finite = np.isfinite(chunk.astype(np.float32))
        if not finite.all():
            first = np.argwhere(~finite)[0]
            value = chunk[tuple(first)]
            first[0] += start
            raise DataError(
                f"{source.where}: row {first[0]}: the value at {first.tolist()} is {value}: expected a finite float32; "
                f"repair or drop the row"
            )


def _checked_integers(source: Source) -> int:
    """Raise for pixels of another scale; else return 1 for those of 0 to 255, and 255 for those of 0 and 1."""
    array, where, _ = source
    low, high = 0, 0
    for _, chunk in chunks(array):
        low, high = min(low, int(chunk.min())), max(high, int(chunk.max()))
        if array.dtype == np.uint8 and high > 1:  # there is nothing else to find
            return 1
    if low < 0 or high > 255:
        cause = _cause(low, high, are_whole=True).replace(", or convert to uint8", "")
        raise DataError(
            f"{where}: its {array.dtype} pixels are between {low} and {high}: expected 0 to 255, or floats in [0, 1]: "
            f"{cause}, as float32"
        )
    if array.dtype == np.uint8 and high == 1:
        raise DataError(f"{where}: its largest pixel is 1, but a uint8 white is 255; multiply the pixels by 255")
    return 255 if high == 1 else 1


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
    if array.ndim == 2:
        cause += "; rows of a table need --standardize --likelihood gaussian"
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
        return "probably white is 255: divide by 255" + (", or convert to uint8" if are_whole else "")
    return "16-bit pixels? Divide by 65535" if 2**15 <= high < 2**16 else "divide by the value that stands for white"
