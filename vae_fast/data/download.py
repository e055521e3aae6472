"""Downloads of gzipped files, each from the first mirror that delivers it whole.

A transfer writes to `NAME.part`, which survives a broken connection and even the end of the process: the next attempt
requests only the rest. A mirror may ignore ranges, change a file midway or send an error page, so only the SHA-256 of
the unpacked content decides, and only after that check is the file renamed to its final name. A lock on the folder lets
one process at a time download; the others wait and then find the files in place.
"""

import gzip
import hashlib
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from vae_fast.errors import DataError
from vae_fast.runtime.folder_lock import locked

_CHUNK = 1 << 20
_SLACK = 1 << 20  # a generous bound on what gzip adds to incompressible content

_Report = Callable[[int, int | None], None]  # called with the bytes so far, and the total or None if unknown


@dataclass(frozen=True)
class Remote:
    """A gzipped file that mirrors offer: its name, and the SHA-256 and the size in bytes of its unpacked content."""

    name: str
    sha256: str
    size: int


class _Failure(Exception):
    """The error of a mirror that did not deliver; the message says why."""


def download(files: Iterable[Remote], mirrors: Sequence[str], folder: Path, *, timeout: float = 20.0) -> None:
    """Download into `folder` those of `files` that it lacks, each from the first of `mirrors` that delivers it.

    mirrors: URLs to which a file's name is appended.
    timeout: seconds of silence after which a connection counts as broken.

    Raises `DataError` if no mirror delivers a file or if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "downloads"):
            for file in files:
                if not (folder / file.name).exists():
                    _fetch(file, mirrors, folder, timeout)
    except OSError as error:
        raise DataError(f"cannot download into {folder}: {error.strerror or error}") from error


def _fetch(file: Remote, mirrors: Sequence[str], folder: Path, timeout: float) -> None:
    part, causes = folder / f"{file.name}.part", []
    for mirror in mirrors:
        url = mirror + file.name
        try:
            with _progress(url) as report:
                _complete(part, url, file, timeout, report)
            return _publish(part, folder / file.name)
        except _Failure as cause:
            causes.append(f"{url}: {cause}")
    raise DataError(
        f"{file.name} could not be downloaded ({'; '.join(causes)}); put it there by hand, into "
        f"{folder}, or name the folder that has it by --data-root or VAE_FAST_DATA"
    )


def _complete(part: Path, url: str, file: Remote, timeout: float, report: _Report) -> None:
    """Transfer until `part` has the right content, retrying as long as every broken attempt makes progress."""
    restarted = False
    while True:
        before = _size(part)
        try:
            _transfer(part, url, file.size + _SLACK, timeout, report)
        except _Failure:
            if _size(part) <= before:
                raise
            continue
        if _holds(part, file):
            return
        part.unlink()
        if restarted or not before:
            raise _Failure("its content is not the expected one (SHA-256 differs)")
        restarted = True  # the pieces may come from two versions of the file: try once more, from the beginning


def _transfer(part: Path, url: str, limit: int, timeout: float, report: _Report) -> None:
    """Make one attempt: append to `part`, or start it over if the mirror does not continue from its end."""
    done = _size(part)
    response = _request(url, done, timeout)
    if response is None:
        return
    with response, part.open("ab") as out:
        if not _continues(response, done):
            done = 0
            out.truncate(0)
        total = None if response.length is None else done + response.length
        while chunk := _read(response):
            done += len(chunk)
            if done > limit:
                out.truncate(0)
                raise _Failure(f"it sends more than {limit} bytes")
            out.write(chunk)
            report(done, total)
    if total is not None and done < total:  # http.client ends a short body without an error
        raise _Failure(f"the connection ended after {done} of {total} bytes")


def _request(url: str, start: int, timeout: float) -> HTTPResponse | None:
    """Request the bytes from `start` on; return None if the mirror replies that there are no more."""
    headers = {"User-Agent": "vae_fast", "Accept-Encoding": "identity"} | (
        {"Range": f"bytes={start}-"} if start else {}
    )
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=timeout)
        return response
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:
            return None
        raise _Failure(f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _Failure(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _continues(response: HTTPResponse, start: int) -> bool:
    """Return whether the body begins at byte `start`: a mirror may ignore the range and send everything."""
    sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return (int(sent[1]) if response.status == 206 and sent else 0) == start


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)  # read() would lose what arrived before a timeout
    except (OSError, HTTPException) as error:
        raise _Failure(f"the transfer broke: {error or type(error).__name__}") from error


def _holds(part: Path, file: Remote) -> bool:
    """Return whether `part` unpacks to the content of `file`; stop unpacking once it is longer."""
    digest, left = hashlib.sha256(), file.size
    try:
        with gzip.open(part) as stream:
            while left >= 0 and (chunk := stream.read(_CHUNK)):
                digest.update(chunk)
                left -= len(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return False
    return left == 0 and digest.hexdigest() == file.sha256


def _publish(part: Path, target: Path) -> None:
    """Rename `part` to `target` durably: after a crash the file is either whole or absent."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _progress(url: str) -> Iterator[_Report]:
    """Show the progress as a bar on a terminal, or as one line elsewhere."""
    if not sys.stderr.isatty():
        print(f"downloading {url}", file=sys.stderr)
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(url.rpartition("/")[2], total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
