"""The conversion of image files to arrays, by several processes: `decode` in each, one thread here to feed it.

Only the files' bytes and a few words travel between the processes; the pixels go straight into the arrays' files.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_fast.data.image_files.decode import FRAME, How
from vae_fast.errors import DataError

HEADER = 128  # bytes of a .npy file before its elements
BATCH = 16  # files for which a worker reports once
MOST_WORKERS = 32
END = FRAME.pack(-1, 0, 0)


class Job(NamedTuple):
    """A file to decode: the number of its array, its row there, and its content, or its path."""

    array: int
    row: int
    content: bytes | str

    @property
    def frame(self) -> bytes:
        """Return the job as a worker reads it; a path's length is negative."""
        if isinstance(self.content, bytes):
            return FRAME.pack(self.array, self.row, len(self.content)) + self.content
        path = os.fsencode(self.content)
        return FRAME.pack(self.array, self.row, -len(path)) + path


class Outcome(NamedTuple):
    """The files that could not be decoded, as (array, row, reason), and how many had alpha or were turned."""

    broken: list[tuple[int, int, str]]
    had_alpha: int
    was_turned: int


def convert(jobs: Iterator[Job], paths: Sequence[Path], how: How, progress: Any) -> Outcome:
    """Decode every job into its row of the files `paths`, which exist; headers are not written.

    progress: called with the number of files done.
    """
    workers = max(1, min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1))
    source = _Shared(jobs, progress)
    with ThreadPoolExecutor(workers, "vae_fast-decoders") as pool:
        try:
            outcomes = list(pool.map(lambda _: _feed(source, paths, how), range(workers)))
        finally:
            source.stop()  # after Ctrl-C
    broken = sorted(each for outcome in outcomes for each in outcome.broken)
    return Outcome(broken, sum(o.had_alpha for o in outcomes), sum(o.was_turned for o in outcomes))


def write_header(path: Path, shape: Sequence[int]) -> None:
    """Write the header of a `.npy` file of uint8 whose elements begin at HEADER."""
    with path.open("r+b") as file:
        about = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, about)
        assert file.tell() == HEADER, "NumPy pads headers to 64 bytes"


class _Shared:
    """Jobs that several threads take, a batch at a time."""

    def __init__(self, jobs: Iterator[Job], progress: Any) -> None:
        self._jobs, self._progress, self._lock = jobs, progress, threading.Lock()
        self._done, self._is_over = 0, False

    def batch(self) -> list[Job]:
        with self._lock:
            jobs = [] if self._is_over else list(islice(self._jobs, BATCH))
            self._done += len(jobs)
            self._progress(self._done, None)
            return jobs

    def stop(self) -> None:
        self._is_over = True


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, ValueError) as error:
        raise DataError("images: a process that decodes them died; is memory or the disk full?") from error


def _feed(source: _Shared, paths: Sequence[Path], how: How) -> Outcome:
    """Start a worker, hand it batches until there are none left, and return what it reported."""
    settings = json.dumps({"how": how._asdict(), "paths": list(map(str, paths)), "offset": HEADER})
    command = [sys.executable, "-m", "vae_fast.data.image_files.decode", settings]
    reports: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            waiting = 0
            while jobs := source.batch():
                with _explained():
                    worker.stdin.writelines(job.frame for job in jobs)
                    worker.stdin.write(END)
                    worker.stdin.flush()
                    waiting += 1
                    if waiting > 1:  # it decodes one batch while the next is on its way
                        reports.append(json.loads(worker.stdout.readline()))
            with _explained():
                while len(reports) < waiting:
                    reports.append(json.loads(worker.stdout.readline()))
        finally:
            source.stop()  # the others, too, if this one has failed
            with suppress(BrokenPipeError):
                worker.stdin.close()
    broken = [(array, row, reason) for report in reports for array, row, reason in report["broken"]]
    return Outcome(broken, *(sum(report[name] for report in reports) for name in ("had_alpha", "was_turned")))
