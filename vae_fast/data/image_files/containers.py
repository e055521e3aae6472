"""Where image files are: in a folder, a zip or a tar. Archives are read in place; nothing is unpacked."""

import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from vae_fast.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp")
MOST_BYTES = 1 << 28  # of one image file


class Entry(NamedTuple):
    """An image file: its path within the container, its stamp (what changes when it does), and where to read it."""

    name: str
    stamp: str
    place: Any


class Container(Protocol):
    """Image files with names."""

    path: Path

    def entries(self) -> list[Entry]:
        """Return the image files, sorted by name; raise DataError for names that lead outside."""

    def read(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes | str]]:
        """Yield each entry's index with its content, or the path of a file, in the order that is fastest to read."""


class Folder:
    """A folder with all its subfolders. Links that lead outside are refused, others are not followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        found, root = [], os.path.realpath(self.path)
        for folder, subfolders, names in os.walk(self.path, onerror=_raise):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            inside = os.path.relpath(folder, self.path)
            pictures = {name for name in names if _is_picture(name)}
            for name in [*subfolders, *names]:
                path = os.path.join(folder, name)
                about = os.lstat(path)
                if stat.S_ISLNK(about.st_mode):
                    if not os.path.realpath(path).startswith(root + os.sep):
                        raise DataError(f"{path}: a link that leads out of {self.path}; replace it by what it leads to")
                    about = os.stat(path) if name in pictures else about
                if name in pictures:
                    if not stat.S_ISREG(about.st_mode):
                        raise DataError(f"{path}: neither a file nor a folder")
                    stamp = f"{about.st_size} {about.st_mtime_ns}"
                    found.append(Entry(name if inside == os.curdir else os.path.join(inside, name), stamp, path))
        return sorted(found)

    def read(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes | str]]:
        return ((index, entry.place) for index, entry in enumerate(entries))


class Zip:
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        with _explained(self.path), zipfile.ZipFile(self.path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir() and _is_picture(info.filename)]
        return sorted(Entry(_inside(self.path, i.filename), f"{i.file_size} {i.CRC}", i.filename) for i in infos)

    def read(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes | str]]:
        with _explained(self.path), zipfile.ZipFile(self.path) as archive:
            for index, entry in enumerate(entries):
                try:
                    with archive.open(entry.place) as file:
                        content = file.read(MOST_BYTES)
                except Exception:  # zlib's and lzma's own types, too
                    content = b""  # which is no image: one broken file is not an error of the whole
                yield index, content


class Tar:
    """A tar archive, plain or compressed, which is read from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        with _explained(self.path), tarfile.open(self.path) as archive:
            members = [m for m in archive if m.isreg() and _is_picture(m.name)]
        return sorted(Entry(_inside(self.path, m.name), f"{m.size} {m.mtime}", m.offset_data) for m in members)

    def read(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes | str]]:
        index_of = {entry.place: index for index, entry in enumerate(entries)}
        with _explained(self.path), tarfile.open(self.path) as archive:
            for member in archive:
                if (index := index_of.get(member.offset_data)) is not None and member.isreg():
                    file = archive.extractfile(member)
                    assert file is not None, "a regular file"
                    yield index, file.read(MOST_BYTES)


def _is_picture(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".") and "__MACOSX" not in name


def _inside(path: Path, name: str) -> str:
    """Return the name of an archive's member; raise DataError if it leads outside, though nothing is unpacked."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith("/"):
        raise DataError(f"{path}: its member {name!r} leads out of the archive: damaged, or hostile")
    return str(PurePosixPath(*parts))


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of reading an archive into a DataError."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # tarfile's, zipfile's, zlib's and lzma's own types, and ValueErrors among them
        raise DataError(f"{path}: damaged: {error or type(error).__name__}; copy or download it again") from error
