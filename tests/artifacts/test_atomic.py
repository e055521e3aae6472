"""Files are complete or absent, and no failure or kill leaves half a file behind."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vae_fast.artifacts import atomic

WRITERS: dict[str, Callable[[Path, bytes], None]] = {
    "write": atomic.write,
    "replace": atomic.replace,
    "append": atomic.append,
}


def failing(
    name: str, number: int, monkeypatch: pytest.MonkeyPatch, on: Callable[[Any], bool] = lambda _: True
) -> None:
    """Make os.NAME fail whenever `on` holds for its first argument."""
    real = getattr(os, name)

    def fail(first: Any, *rest: Any, **kwargs: Any) -> Any:
        if on(first):
            raise OSError(number, os.strerror(number))
        return real(first, *rest, **kwargs)

    monkeypatch.setattr(os, name, fail)


def is_directory(descriptor: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{descriptor}")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("step", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failure_names_the_file_and_leaves_what_was_there(
    writer: str, step: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "file", {} if writer == "write" else {"file": b"before"}
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)
    failing(step, number, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(number)) as failed:
        WRITERS[writer](path, b"new")
    assert Path(failed.value.filename).name.strip(".").startswith("file")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


@pytest.mark.parametrize("writer", WRITERS)
def test_a_failure_to_close_names_the_file_and_hides_no_other(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make close fail, as on a network file system, which may report errors only then."""
    failing("close", errno.EIO, monkeypatch)
    with pytest.raises(OSError, match=f"{os.strerror(errno.EIO)}: '{tmp_path}/file'"):
        WRITERS[writer](tmp_path / "file", b"new")
    failing("write", errno.EROFS, monkeypatch)
    with pytest.raises(OSError, match=f"{os.strerror(errno.EROFS)}: '{tmp_path}/other'"):
        WRITERS[writer](tmp_path / "other", b"new")


def test_a_failure_to_read_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise an error without a path, as calls on an open file do."""

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match=f"Input/output error: '{tmp_path}/file'"):
        atomic.read(tmp_path / "file")


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:2]))
    for writer in WRITERS.values():
        writer(tmp_path / str(writer), b"content")
        assert (tmp_path / str(writer)).read_bytes() == b"content"


@pytest.mark.parametrize("writer", ["write", "replace"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_without_fsync_is_accepted(
    writer: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing("fsync", number, monkeypatch)
    WRITERS[writer](tmp_path / "file", b"content")
    atomic.sync(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_directories_may_refuse_fsync_and_files_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing("fsync", errno.EPERM, monkeypatch, on=is_directory)
    atomic.replace(tmp_path / "file", b"content")
    monkeypatch.undo()
    failing("fsync", errno.EPERM, monkeypatch)
    with pytest.raises(PermissionError):
        atomic.replace(tmp_path / "file", b"content")


def test_leftovers_of_a_killed_writer_are_swept_and_files_being_written_are_not(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from vae_fast.artifacts import atomic
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
atomic.replace(Path({str(tmp_path)!r}) / "file", b"half")
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".file.*.tmp"))) == 1
    other = tmp_path / ".other.01234567.vae_fast.tmp"
    with other.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        atomic.replace(tmp_path / "file", b"whole")
        assert {entry.name for entry in tmp_path.iterdir()} == {"file", other.name}
    foreign = {".draft.tmp", ".vae_fast.tmp", ".x.0123.vae_fast.tmp"}
    for name in foreign:
        (tmp_path / name).touch()
    (tmp_path / ".export.01234567.vae_fast.tmp" / "half").mkdir(parents=True)
    atomic.sweep(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "file",
        ".draft.tmp",
        ".vae_fast.tmp",
        ".x.0123.vae_fast.tmp",
    }


def test_a_new_directory_is_complete_or_absent(tmp_path: Path) -> None:
    with atomic.new_directory(tmp_path / "new") as temporary:
        (temporary / "file").write_bytes(b"content")
        atomic.sweep(tmp_path)  # as another command would
        assert [entry.name for entry in tmp_path.iterdir()] == [temporary.name]
    assert (tmp_path / "new" / "file").read_bytes() == b"content"
    with pytest.raises(ZeroDivisionError), atomic.new_directory(tmp_path / "other") as temporary:
        (temporary / "file").write_bytes(bytes(1 // 0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_an_error_names_a_directory_that_stands_where_a_file_belongs(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match=r"file'$"):
        atomic.replace(tmp_path / "file", b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
