"""Readers for untrusted files: IDX, `.npy` and `.npz` become NumPy arrays, or raise a `DataError`.

A header is only a claim. Its shape is checked against the size of the file before any memory is allocated, gunzip and
unzip may produce only what the header announced, and nothing is ever unpickled. The first bytes of a file, not its
name, decide its format.

IDX: two zero bytes, a code for the dtype, the number of dimensions, one big-endian uint32 for each, then the elements
in C order, big-endian (http://yann.lecun.com/exdb/mnist). npy: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import gzip
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae_fast.errors import DataError

# The arrays a data set may hold, and the files that hold them in a folder of IDX files.
IDX_NAMES = {
    "train": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
# Common names for the members of an .npz; case does not matter.
ALIASES = {
    "train": ("train", "x_train", "train_images", "x", "images", "arr_0"),
    "train_labels": ("train_labels", "y_train", "y", "labels"),
    "test": ("test", "x_test", "test_images"),
    "test_labels": ("test_labels", "y_test"),
}
# Other kinds of files, recognised by their first bytes to explain the error.
_OTHERS = {
    b"PAR1": "Parquet",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "HDF5",
    b"\x80": "a pickle",
    b"MATL": "a MATLAB file",
    b"BZh": "packed by bzip2",
    b"\xfd7zX": "packed by xz",
    b"ustar": "a tar archive",
    b"<htm": "a web page",
    b"<!DO": "a web page",
    b"vers": "a Git LFS pointer, perhaps, in the place of the file",
}
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC, _ZIP_MAGIC, _NPY_MAGIC = b"\x1f\x8b", b"PK", b"\x93NUMPY"
TEXT = "US"  # NumPy's letters of dtypes that hold text
_CHUNK = 1 << 20
_MAX_RATIO = 1040  # deflate packs at most 1032 bytes into one; the rest is slack for the frame


class Source(NamedTuple):
    """An array as its file holds it, the words that name it in an error, and its name in the file if not ours."""

    array: NDArray[Any]
    where: str
    alias: str = ""


class Header(NamedTuple):
    """The array that a file claims to hold. `order` is 'C' or 'F'."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Any

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read(path: Path) -> dict[str, Source]:
    """Read a data set: an IDX file (plain or gzipped), a `.npy`, a `.npz`, or a folder of IDX files with MNIST's names.

    Returns arrays named as in `IDX_NAMES`, always including "train": a file with a single array is its training part.
    Arrays keep the dtype and shape of the file (1 to 4 dimensions, not empty) and may be read-only maps of it.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():  # opening a pipe would block forever
        raise DataError(f"{path}: neither a file nor a folder")
    with _explained(str(path)), path.open("rb") as file:
        if file.read(2) != _ZIP_MAGIC:
            return {"train": read_array(path)}
        with zipfile.ZipFile(file) as archive:
            return _read_npz(archive, path)


def find_idx(folder: Path, name: str) -> Path | None:
    """Return the file in `folder` that MNIST's `name` stands for, or None.

    Both train-images-idx3-ubyte and train-images.idx3-ubyte occur in practice, each plain, as .gz, or in a folder of
    the same name.
    """
    for base in (name, name.replace("-idx", ".idx")):
        for path in (folder / base, folder / f"{base}.gz", folder / base / base):
            if path.is_file():
                return path
    return None


def _read_folder(folder: Path) -> dict[str, Source]:
    with _explained(str(folder)):
        files = {part: find_idx(folder, name) for part, name in IDX_NAMES.items()}
        if files["train"] is None:
            held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise DataError(
                f"{folder}: no {IDX_NAMES['train']}[.gz] in this folder, which holds {held}; "
                f"a folder must hold IDX files with MNIST's names"
            )
    return {part: read_array(path) for part, path in files.items() if path}


def _read_npz(archive: zipfile.ZipFile, path: Path) -> dict[str, Source]:
    part_of = {alias: part for part, aliases in ALIASES.items() for alias in aliases}
    members = {part_of.get(_member(info).lower(), ""): info for info in archive.infolist()}
    if len(members) != len(archive.infolist()) or "train" not in members or "" in members:
        held = ", ".join(_member(info) for info in archive.infolist()[:8]) or "nothing"
        raise DataError(
            f"{path}: expected the members train and, optionally, {', '.join([*IDX_NAMES][1:])} (or x_train, y_train, "
            f"x_test, y_test; images, labels; X, y; arr_0), each once and nothing else; it holds {held}"
        )
    return {part: _read_member(archive, info, path, part) for part, info in members.items()}


def _member(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, part: str) -> Source:
    name = _member(info)
    where = f"{path} ({name})"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise DataError(f"{where}: is encrypted or in an unusual compression; write it with numpy.savez_compressed")
    with _explained(where), archive.open(info) as stream:
        header = _read_header(stream, where, TEXT if part.endswith("_labels") else "")
        _check_size(header, info.file_size - stream.tell(), where)
        _check_ratio(header, info.compress_size, where)
        return Source(_fill(stream, header, where), where, "" if name == part else name)


def read_array(path: Path, kinds: str = "") -> Source:
    """Read an IDX file (plain or gzipped) or a `.npy`. `kinds`: NumPy's letters of accepted dtypes besides numbers."""
    where = str(path)
    with _explained(where), path.open("rb") as file:
        size = path.stat().st_size
        gzipped = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        if gzipped:
            return Source(_gunzip(file, size, where), where)
        header = _read_header(file, where, kinds)
        _check_size(header, size - file.tell(), where)
        # A map, so that floats which turn out to be uint8 are never in memory all at once.
        array = np.memmap(file, header.dtype, "r", file.tell(), header.shape, header.order)
        return Source(array, where)


def _gunzip(file: IO[bytes], size: int, where: str) -> NDArray[Any]:
    with gzip.GzipFile(fileobj=file) as stream:
        header = _read_header(stream, where)
        _check_ratio(header, size, where)
        array = _fill(stream, header, where)
        if stream.read(1):  # this read also makes gzip check its CRC
            raise DataError(
                f"{where}: trailing bytes: it unpacks to more than the {header.nbytes} bytes that its header announces"
            )
    return array


def _read_header(stream: Any, where: str, kinds: str = "") -> Header:
    """Read an IDX or npy header, leaving the stream at the first element."""
    start = stream.read(4)
    if start == _NPY_MAGIC[:4]:
        header = _npy_header(stream, start, where, kinds)
    elif len(start) == 4 and start[:2] == b"\0\0":
        header = _idx_header(stream, start, where)
    else:
        begins = f"begins with {start!r}"
        what = next((f"is {kind}" for magic, kind in _OTHERS.items() if start.startswith(magic)), begins)
        raise DataError(
            f"{where}: {what}; expected an array, as IDX, .npy, .npz or HDF5, or a folder, zip or tar of image files"
        )
    if not 1 <= len(header.shape) <= 4 or min(header.shape) < 0:
        raise DataError(f"{where}: shape {list(header.shape)}: expected 1 to 4 dimensions, none negative")
    if 0 in header.shape:
        raise DataError(f"{where}: empty: its shape is {list(header.shape)}")
    return header


def _idx_header(stream: Any, start: bytes, where: str) -> Header:
    code, ndim = start[2:]
    if code not in _IDX_DTYPES:
        known = ", ".join(f"0x{code:02x}" for code in _IDX_DTYPES)
        raise DataError(f"{where}: bad magic: IDX has no dtype code 0x{code:02x} (it has {known})")
    dims = stream.read(4 * ndim)
    if len(dims) < 4 * ndim:
        raise DataError(f"{where}: truncated: it ends inside its header")
    return Header(np.dtype(_IDX_DTYPES[code]), tuple(np.frombuffer(dims, ">u4").tolist()), "C")


def _npy_header(stream: Any, start: bytes, where: str, kinds: str) -> Header:
    magic = start + stream.read(4)
    if magic != _NPY_MAGIC + b"\x01\x00":  # only structured dtypes need later versions
        raise DataError(f"{where}: bad magic: {magic!r} is not .npy version 1.0; write it with numpy.save")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise DataError(f"{where}: holds pickled Python objects, which are never loaded; save an array of numbers")
    if dtype.kind not in "biuf" + kinds:
        raise DataError(f"{where}: dtype {dtype}: expected numbers")
    return Header(dtype, shape, "F" if fortran else "C")


def _check_size(header: Header, held: int, where: str) -> None:
    if held != header.nbytes:
        problem = "truncated" if held < header.nbytes else "trailing bytes"
        raise DataError(
            f"{where}: {problem}: its header announces {header.dtype}{list(header.shape)}, "
            f"{header.nbytes} bytes, and {held} follow; copy or download it again"
        )


def _check_ratio(header: Header, packed: int, where: str) -> None:
    if header.nbytes > _MAX_RATIO * packed + _MAX_RATIO:
        raise DataError(
            f"{where}: truncated or forged: its header announces {header.dtype}{list(header.shape)}, "
            f"{header.nbytes} bytes, which {packed} compressed bytes cannot hold"
        )


def _fill(stream: Any, header: Header, where: str) -> NDArray[Any]:
    """Read the elements that `header` announces, and not a byte more, from a stream that decompresses on the fly."""
    flat = np.empty(header.nbytes, np.uint8)
    done = 0
    while done < flat.size:
        count = stream.readinto(flat[done : done + _CHUNK].data)
        if not count:
            raise DataError(
                f"{where}: truncated: it unpacks to {done} of the {flat.size} bytes that its header "
                f"announces; copy or download it again"
            )
        done += count
    return flat.view(header.dtype).reshape(header.shape, order=header.order)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn any exception that reading raises into a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{where}: does not fit in memory: {error}") from error
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
    # On damaged bytes gzip, zlib, zipfile and NumPy's header parser raise a dozen types, some of them undocumented.
    except Exception as error:
        raise DataError(f"{where}: damaged: {error or type(error).__name__}; copy or download it again") from error
