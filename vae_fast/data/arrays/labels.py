"""Labels: integers, or strings that become the indices of their sorted names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_fast.data.arrays.readers import TEXT, Source, read_array
from vae_fast.errors import DataError

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


def _text(array: NDArray[Any]) -> NDArray[np.str_]:
    return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array.astype(np.str_)
