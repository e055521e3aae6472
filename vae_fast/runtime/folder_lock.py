"""A lock on a folder that several processes fill: the first does the work, the others wait and find it done."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """Hold the folder's lock; the system releases it when a process dies, so it cannot go stale.

    work: what a process does that holds it, such as "downloads", for the line that a waiting one prints.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that {work} into {folder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
