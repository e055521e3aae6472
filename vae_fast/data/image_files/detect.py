"""Which files and folders are image files, and which are arrays."""

import tarfile
import zipfile
from pathlib import Path

from vae_fast.data.arrays import readers
from vae_fast.data.image_files.containers import Container, Folder, Tar, Zip
from vae_fast.data.image_files.parquet import MAGIC, Parquet

TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")


def container_of(path: Path) -> Container | None:
    """Return the image files that a folder or an archive holds; None for anything that `readers` reads."""
    if path.is_dir():
        if readers.find_idx(path, readers.IDX_NAMES["train"]):
            return None
        return Parquet(path) if next(path.rglob("*.parquet"), None) else Folder(path)
    if not path.is_file():
        return None
    if _begins_with(path, MAGIC):
        return Parquet(path)
    if path.name.lower().endswith(TAR_SUFFIXES) or _begins_with(path, b"ustar", 257):
        return Tar(path) if tarfile.is_tarfile(path) else None
    return Zip(path) if zipfile.is_zipfile(path) and not _is_npz(path) else None


def _begins_with(path: Path, magic: bytes, offset: int = 0) -> bool:
    with path.open("rb") as file:
        return file.read(offset + len(magic))[offset:] == magic


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return True  # its reader says what is wrong
    return path.suffix.lower() == ".npz" or not names or any(name.endswith(".npy") for name in names)
