"""Files that are on the disk once the call returns, and whole or not there whatever happens before.

What is written lies beside its place under a name that begins with a dot and ends with .tmp, locked while its writer
lives. A write that fails removes it; of a writer that was killed, `sweep` does.
"""

import errno
import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

# Of file systems that cannot say when something is on the disk; directories may also refuse to be asked.
NO_FSYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
NO_FSYNC_OF_A_DIRECTORY = NO_FSYNC | {errno.EACCES, errno.EPERM, errno.EISDIR}


def write(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk. OSError, which names the file, if it cannot be whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _fill(descriptor, path, data)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def append(path: Path, data: bytes) -> None:
    """Append to a file and wait until it is on the disk; what a failure leaves incomplete is cut off again."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    before = os.fstat(descriptor).st_size
    try:
        _fill(descriptor, path, data)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, before)
        raise
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes) -> None:
    """Write a file, in the place of one that may be there; a reader sees the old one or the new."""
    sweep(path.parent)
    descriptor, temporary = _new_temporary(path)
    try:
        _fill(descriptor, temporary, data)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a directory's entries, are on the disk, as far as the file system can say so."""
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
    """Remove what killed processes left half-written in a folder; what others are writing stays."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # gone meanwhile, or not ours to remove
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)


def _new_temporary(path: Path) -> tuple[int, Path]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: then nothing is swept there, either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)  # swept before it was locked


def _fill(descriptor: int, path: Path, data: bytes) -> None:
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in NO_FSYNC:
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
