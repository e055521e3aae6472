"""Claims on run directories: one process writes at a time, guarded by a lock that lives as long as the process.

The lock is an flock on a file in the directory, which names its holder. The kernel releases it however the process
ends, so no lock outlives its owner; a file left behind means nothing by itself. Among the processes of one run, the
first holds the lock for all. A file system without locks cannot keep others out: the claim then carries a warning.
"""

import errno
import fcntl
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from vae_fast.artifacts import atomic
from vae_fast.errors import RunError
from vae_fast.runtime.signals import at_quiet_end

LOCK = ".lock"
HELD = {errno.EWOULDBLOCK, errno.EACCES}  # the latter if another machine holds the lock over NFS
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
TRIES = 100  # against processes that remove an empty directory just as others look into it


class Claim:
    """A claimed directory, created if it does not exist, and its lock, held until `release`.

    Attributes:
        warning: why nothing keeps other processes out; None if the lock does.
    """

    def __init__(self, directory: Path, *, fresh: bool = False) -> None:
        """Claim `directory`; `fresh`: only if this call creates it.

        Raises FileExistsError if a fresh directory already exists, and RunError, naming the holder, if it is held.
        """
        self.directory = directory
        self.warning: str | None = None
        for _ in range(TRIES):
            try:
                self._made = _make(directory, fresh)
                self._lock()
            except FileNotFoundError:  # the process that created it has just removed it
                continue
            break
        else:
            raise RunError(f"{directory}: cannot be claimed: it is removed again and again")
        _held.add(self)

    def release(self) -> None:
        """Release the lock. Directories that the claim created and that are still empty are removed."""
        if self in _held:
            _held.discard(self)
            self._give_up()

    def _give_up(self) -> None:
        with suppress(OSError):  # the directory may be gone, or hold another run
            (self.directory / LOCK).unlink()
            for made in self._made:
                made.rmdir()
        with suppress(OSError):
            os.close(self._descriptor)

    def _lock(self) -> None:
        path = self.directory / LOCK
        while True:
            with atomic.naming(path):
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                self._take(path)
                if self._is_mine(path):
                    break

    def _take(self, path: Path) -> None:
        """Lock the open file; on failure close it, but leave it in place since it may be another process's."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                self.warning = f"{self.directory} is on a file system without locks: start no second run in it"
                return
            if error.errno not in HELD:
                os.close(self._descriptor)
                raise
            holder = os.pread(self._descriptor, 1000, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise RunError(f"{self.directory} is in use by {holder or 'another process'}") from None

    def _is_mine(self, path: Path) -> bool:
        """Return whether the locked file is still in place; if so, write the holder into it, otherwise close it."""
        still_exists = False
        try:
            still_exists = _is_at(self._descriptor, path)
        finally:
            if not still_exists:  # it belonged to a claim that was released meanwhile
                os.close(self._descriptor)
        if still_exists:
            self._sign()
        return still_exists

    def _sign(self) -> None:
        holder = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder.encode(), 0)
        except OSError:
            self._give_up()  # others that have opened the file find it gone and try again
            raise


def _make(directory: Path, fresh: bool) -> list[Path]:
    """Create the directory with its parents and return those that were created, the innermost first."""
    absent = [path for path in directory.parents if not path.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir()
    except FileExistsError:
        if fresh or not directory.is_dir():
            raise
        return []
    return [directory, *absent]


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


_held: set[Claim] = set()


def _forget() -> None:
    """Close the locks in a forked child: they belong to the parent alone, and end with it."""
    for claim in _held:
        os.close(claim._descriptor)
    _held.clear()


def _release_all() -> None:
    for claim in list(_held):
        claim.release()


os.register_at_fork(after_in_child=_forget)
at_quiet_end(_release_all)
