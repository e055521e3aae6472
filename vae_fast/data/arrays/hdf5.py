"""HDF5 files, whose data sets become arrays in memory."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vae_fast.data.arrays.readers import ALIASES, Source
from vae_fast.errors import DataError, RunError
from vae_fast.runtime.memory import free_memory

MAGIC = b"\x89HDF\r\n\x1a\n"


def file_and_name(data: str) -> tuple[Path, str | None]:
    """Split FILE:NAME, an HDF5 file and the name of a data set in it; of any other path the name is None."""
    path, colon, name = data.rpartition(":")
    return (Path(path), name) if colon and is_hdf5(Path(path)) else (Path(data), None)


def is_hdf5(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path, name: str | None) -> dict[str, Source]:
    """Return the arrays of an HDF5 file, named as `readers.read` names them.

    name: the data set with the images; None for data sets named like the members of an `.npz`.

    Raises DataError if there is no such data set or it does not fit in memory, RunError without h5py.
    """
    try:
        import h5py
    except ImportError:
        raise RunError(f"{path}: HDF5 needs h5py: pip install --no-build-isolation '.[hdf5]'") from None
    try:
        with h5py.File(path, "r") as file:
            return _arrays(path, file, name, h5py.Dataset)
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def _arrays(path: Path, file: Any, name: str | None, kind: type[Any]) -> dict[str, Source]:
    held: dict[str, Any] = {}
    file.visititems(lambda key, item: held.update({key: item}) if isinstance(item, kind) else None)
    if name is not None:
        chosen = {"train": name} if name in held else {}
    else:
        part_of = {alias: part for part, aliases in ALIASES.items() for alias in aliases}
        chosen = {part_of[key.lower()]: key for key in held if key.lower() in part_of}
    if "train" not in chosen:
        shown = ", ".join(f"{key} {list(item.shape)}" for key, item in list(held.items())[:8]) or "none"
        wanted = f"no data set {name!r}" if name else "no data set named like images or train"
        raise DataError(f"{path}: {wanted}; it holds {shown}; name one as --data {path}:NAME")
    return {
        part: Source(_array(path, held[key]), f"{path} ({key})", "" if key == part else key)
        for part, key in chosen.items()
    }


def _array(path: Path, item: Any) -> Any:
    if item.dtype.kind not in "biufSUO" or not 1 <= len(item.shape) <= 4 or 0 in item.shape:
        raise DataError(f"{path} ({item.name}): {item.dtype} {list(item.shape)}: expected numbers, 1 to 4 dimensions")
    needed, free = math.prod(item.shape) * item.dtype.itemsize, free_memory(torch.device("cpu"))
    if needed > free:
        raise DataError(
            f"{path} ({item.name}): {list(item.shape)} of {item.dtype} needs {needed / 2**30:,.1f} GiB, "
            f"{free / 2**30:,.1f} GiB are free; write it as .npy, which can be streamed"
        )
    array = item[()]
    if item.dtype.kind != "O":
        return array
    texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in array.flat]
    return np.array(texts).reshape(array.shape)
