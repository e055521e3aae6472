"""Durable, atomic writes: a file is on disk once the call returns, and complete or absent whatever happens before.

Data is first written next to its destination, as .NAME.RANDOM.vae_fast.tmp, locked while its writer lives. A write that
fails removes the temporary file; `sweep` removes those of killed writers.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.vae_fast\.tmp")
# From file systems that cannot tell when data is on disk; some also refuse to sync directories.
NO_FSYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
NO_FSYNC_OF_A_DIRECTORY = NO_FSYNC | {errno.EACCES, errno.EPERM, errno.EISDIR}


def write(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on disk; raise OSError, naming the file, if it cannot be completed."""
    with naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with removed_on_failure(path), _closed(descriptor):
            _fill(descriptor, data)


def append(path: Path, data: bytes) -> None:
    """Append to a file and wait until the data is on disk; a failed append is truncated again."""
    with naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        with _closed(descriptor):
            before = os.fstat(descriptor).st_size
            try:
                _fill(descriptor, data)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise


def replace(path: Path, data: bytes) -> None:
    """Write a file, replacing an existing one; a reader sees either the old file or the new one."""
    sweep(path.parent)
    with naming(path):
        descriptor, temporary = _new_temporary(path)
        with _closed(descriptor), removed_on_failure(temporary):
            _fill(descriptor, data)
            temporary.replace(path)
    sync(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to fill piece by piece, then move it to `path`, replacing what is there; after an error, remove it.

    An OSError that names no file gets the name of this one.
    """
    sweep(path.parent)
    try:
        descriptor, temporary = _new_temporary(path)
        try:
            with _closed(descriptor):
                with open(descriptor, "wb", closefd=False) as file:
                    yield file
                _wait(descriptor)
                temporary.replace(path)
        finally:
            with suppress(OSError):  # it has its new name, or the error says more
                temporary.unlink()
    except OSError as error:
        if error.filename is not None and not str(error.filename).endswith(".vae_fast.tmp"):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    sync(path.parent)


def read(path: Path) -> bytes:
    """Read a file; raise OSError that names it, even for an error during reading."""
    with naming(path):
        return path.read_bytes()


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on disk, as far as the file system can tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (NO_FSYNC_OF_A_DIRECTORY if path.is_dir() else NO_FSYNC):
            raise OSError(error.errno, error.strerror, str(path)) from error


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; files that others are writing stay."""
    for path in folder.glob(".*.vae_fast.tmp"):
        if TEMPORARY.fullmatch(path.name) is None:
            continue
        with suppress(OSError):  # it may be gone by now, or not ours to remove
            is_folder = path.is_dir()
            descriptor = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_CLOEXEC)
            with _closed(descriptor):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if is_folder else path.unlink()


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a directory to fill, then move it to `path` as a whole; after an error, remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = _temporary_name(path)
    temporary.mkdir()
    try:
        with _closed(os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)) as descriptor:
            _lock(descriptor)
            yield temporary
            for file in (*temporary.iterdir(), temporary):
                sync(file)
            with naming(path):
                temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an OSError name this path, since calls on descriptors name none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def removed_on_failure(path: Path) -> Iterator[None]:
    """Remove a file if an OSError shows that it will be incomplete or not reach its destination."""
    try:
        yield
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise


def _new_temporary(path: Path) -> tuple[int, Path]:
    while True:
        temporary = _temporary_name(path)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        _lock(descriptor)
        with removed_on_failure(temporary):
            if os.fstat(descriptor).st_nlink:
                return descriptor, temporary
        os.close(descriptor)  # swept before it was locked


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.vae_fast.tmp")


def _lock(descriptor: int) -> None:
    with suppress(OSError):  # on a file system without locks, nothing is swept either
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def _closed(descriptor: int) -> Iterator[int]:
    """Close at the end, when some file systems first report a failed write; an earlier error is not hidden."""
    try:
        yield descriptor
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
    os.close(descriptor)


def _fill(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    _wait(descriptor)


def _wait(descriptor: int) -> None:
    """Wait until a file is on disk, as far as the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
