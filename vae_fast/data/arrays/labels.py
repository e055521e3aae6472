"""Labels: integers, or strings that become the indices of their sorted names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_fast.config import IN_MEMORY
from vae_fast.data.arrays.readers import TEXT, Source, read_array
from vae_fast.errors import DataError

MOST_CLASSES = 10_000  # of a conditional model: more are probably numbers of something else
_MOST_TEXT = 1 << 28  # bytes of a text file


def read(path: Path) -> Source:
    """Read a file of labels: IDX (plain or gzipped), `.npy`, or text (`.txt`, `.csv`) with one label a line."""
    if path.suffix not in (".txt", ".csv"):
        return read_array(path, TEXT)
    try:
        if path.stat().st_size > _MOST_TEXT:
            raise DataError(f"{path}: expected a label a line in at most {_MOST_TEXT >> 20} MiB; write them as .npy")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    texts = np.array([line.strip() for line in lines])
    try:
        return Source(texts.astype(np.int64), str(path))
    except ValueError:
        return Source(texts, str(path))


def encode(sources: Mapping[str, Source]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the labels of each part as int64 [N], keyed by the part, and the names of the classes if they are strings.

    sources: arrays named as `readers.read` names them, whose labels have passed `checks.check`.
    """
    found = {part: sources[f"{part}_labels"].array for part in ("train", "test") if f"{part}_labels" in sources}
    if not any(array.dtype.kind in "US" for array in found.values()):
        return {part: torch.from_numpy(array.astype(np.int64)) for part, array in found.items()}, ()
    texts = {part: _text(array) for part, array in found.items()}
    names, codes = np.unique(np.concatenate([*texts.values()]), return_inverse=True)
    parts = np.split(codes, np.cumsum([len(text) for text in texts.values()])[:-1])
    encoded = {part: torch.from_numpy(code.astype(np.int64)) for part, code in zip(texts, parts, strict=True)}
    return encoded, tuple(map(str, names))


def count_classes(sources: Mapping[str, Source], parts: Sequence[str], name: str) -> int:
    """Return the number of classes, one more than the largest label; raise DataError unless every image has a label.

    sources: as for `encode`. parts: those with images. name: of the data set, for errors.
    """
    for part in parts:
        if f"{part}_labels" not in sources:
            of = f"its {part} images" if len(parts) > 1 else "its images"
            way = "fit(..., labels=...)" if name == IN_MEMORY else f"{part}_labels in an .npz, or --labels FILE"
            raise DataError(f"conditional: {name} has no labels for {of}; give them by {way}")
        if not len(sources[f"{part}_labels"].array):
            raise DataError(f"conditional: {name} has no {part} labels")
    encoded, _ = encode(sources)
    most = MOST_CLASSES - 1
    for part in parts:
        low, high = (int(value) for value in encoded[part].aminmax())
        if low < 0 or high > most:
            raise DataError(f"conditional: expected {part} labels of 0 to {most}, {name} has {low} to {high}")
        most = high if part == "train" else most
    return most + 1


def _text(array: NDArray[Any]) -> NDArray[np.str_]:
    return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array.astype(np.str_)
