"""`.npz` files written piece by piece, so that memory does not grow with the number of rows."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vae_fast.artifacts import atomic

COPIED = 1 << 20  # bytes at a time


def write(path: Path, arrays: Mapping[str, tuple[type, tuple[int, ...]]], pieces: Iterable[Mapping[str, Any]]) -> None:
    """Write arrays of which each piece holds the next rows; the file appears complete or not at all.

    A zip holds one array after the other, so all but the first wait in nameless files next to it. Equal arrays give
    equal files.

    Args:
        path: the file, which replaces an existing one.
        arrays: the dtype and the shape of each array, by its name.
        pieces: rows [n, ...] of arrays, by their names. An array may be missing from a piece.

    Raises OSError, which names the file, if it cannot be written, and ValueError for rows that do not fit a shape.
    """
    first, *others = arrays
    with atomic.new_file(path) as file, ExitStack() as stack, zipfile.ZipFile(file, "w") as archive:
        waiting: dict[str, IO[bytes]] = {
            name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in others
        }
        rows = dict.fromkeys(arrays, 0)
        with _member(archive, first, *arrays[first]) as member:
            for piece in pieces:
                for name, values in piece.items():
                    dtype, shape = arrays[name]
                    _append(member if name == first else waiting[name], values, dtype, shape)
                    rows[name] += len(values)
        for name, (_, shape) in arrays.items():
            if rows[name] != shape[0]:
                raise ValueError(f"{name}: expected {shape[0]} rows, got {rows[name]}")
        for name in others:
            waiting[name].seek(0)
            with _member(archive, name, *arrays[name]) as member:
                shutil.copyfileobj(waiting[name], member, COPIED)


def _member(archive: zipfile.ZipFile, name: str, dtype: type, shape: tuple[int, ...]) -> IO[bytes]:
    """Open an array in the archive, without the date that would make equal files differ, and write its header."""
    member = archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


def _append(file: IO[bytes], values: Any, dtype: type, shape: tuple[int, ...]) -> None:
    rows: NDArray[Any] = np.ascontiguousarray(values)
    if rows.dtype != dtype or rows.shape[1:] != shape[1:]:
        raise ValueError(f"expected rows {[*shape[1:]]}, {np.dtype(dtype)}, got {[*rows.shape[1:]]}, {rows.dtype}")
    file.write(rows.tobytes())
