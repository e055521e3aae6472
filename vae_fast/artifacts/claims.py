"""Who may write into a run directory: one process at a time, by a lock that lives as long as the process.

The lock is flock's, on a file in the directory that says who holds it. The kernel releases it when the process ends, in
whatever way, so no lock outlives its owner; a file that does means nothing by itself. Of the processes of one run the
first holds it for all. A file system without locks cannot keep others out: the claim then carries a warning.
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
HELD = {errno.EWOULDBLOCK, errno.EACCES}  # the latter where NFS has the lock from another machine
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
TRIES = 100  # against processes that remove an empty directory in the moment in which others look into it


class Claim:
    """A directory, made if it is not there, and its lock, until `release`.

    Attributes:
        warning: why nothing keeps other processes out, None where the lock does.
    """

    def __init__(self, directory: Path, *, fresh: bool = False) -> None:
        """Claim `directory`; `fresh`: only if it is made by this call.

        Raises FileExistsError for a fresh one that is there, RunError, which names the holder, for one that is held.
        """
        self.directory = directory
        self.warning: str | None = None
        for _ in range(TRIES):
            try:
                self._made = _make(directory, fresh)
                self._lock()
            except FileNotFoundError:  # it was just removed by who had made it
                continue
            break
        else:
            raise RunError(f"{directory}: cannot be claimed: it is removed again and again")
        _held.add(self)

    def release(self) -> None:
        """Let others have it. Directories that the claim made and that nothing was put into are removed."""
        if self in _held:
            _held.discard(self)
            self._give_up()

    def _give_up(self) -> None:
        with suppress(OSError):  # the directory may be gone, or not empty: another run lies beside this one
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
        """Lock the file that is open; closed where that fails, and left there, for it may be somebody else's."""
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
        """Whether the locked file is still there, then signed with who holds it; else it is closed."""
        is_there = False
        try:
            is_there = _is_at(self._descriptor, path)
        finally:
            if not is_there:  # of a claim that was released meanwhile
                os.close(self._descriptor)
        if is_there:
            self._sign()
        return is_there

    def _sign(self) -> None:
        holder = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder.encode(), 0)
        except OSError:
            self._give_up()  # who else has opened the file finds it gone, and tries again
            raise


def _make(directory: Path, fresh: bool) -> list[Path]:
    """The directories that this call has made, the innermost first."""
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
    """In a process that a holder has forked: the lock is the holder's alone, and ends with it."""
    for claim in _held:
        os.close(claim._descriptor)
    _held.clear()


def _release_all() -> None:
    for claim in list(_held):
        claim.release()


os.register_at_fork(after_in_child=_forget)
at_quiet_end(_release_all)
