"""One writer at a time, however that writer ends."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

import vae_fast as vf
from tests.train_cases import command
from vae_fast.artifacts.claims import LOCK, Claim
from vae_fast.errors import RunError

CLAIMING = """
import os, sys, time
from pathlib import Path
from vae_fast.artifacts.claims import Claim
claim = Claim(Path(sys.argv[1]))
"""
WAITING = "print(flush=True); time.sleep(60)"


@contextmanager
def process(code: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Yield a process that has claimed a directory and runs `code`, once it has printed a line."""
    line = [sys.executable, "-c", CLAIMING + code, *arguments]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield running
        running.kill()


def test_a_claim_is_exclusive_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    claim = Claim(path)
    with pytest.raises(RunError, match=f"run is in use by process {os.getpid()} on .* since 20.* UTC$"):
        Claim(path)
    with pytest.raises(FileExistsError):
        Claim(path, fresh=True)
    claim.release()
    assert list(tmp_path.iterdir()) == []
    path.mkdir(parents=True)
    (path / "file").touch()
    Claim(path).release()
    assert [entry.name for entry in path.iterdir()] == ["file"]


def test_only_one_of_many_processes_claims_each_fresh_directory(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from vae_fast.artifacts.claims import Claim
print(flush=True)
input()
for i in range(100):
    try:
        claim = Claim(Path({str(tmp_path)!r}) / "runs" / str(i), fresh=True)
        (claim.directory / sys.argv[1]).touch()
    except FileExistsError:
        pass
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    running = [subprocess.Popen([sys.executable, "-c", code, str(n)], **pipes) for n in range(4)]
    for one in running:
        one.stdout.readline()  # all have started
    for one in running:
        one.stdin.write(b"\n")
        one.stdin.flush()
    for one in running:
        one.communicate()
    assert [one.returncode for one in running] == [0] * 4
    owners = [[p.name for p in (tmp_path / "runs" / str(i)).iterdir() if p.name != LOCK] for i in range(100)]
    assert all(len(names) == 1 for names in owners)


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    with process(WAITING, str(tmp_path / "run")) as holder:
        with pytest.raises(RunError, match=f"in use by process {holder.pid} "):
            Claim(tmp_path / "run")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        Claim(tmp_path / "run").release()


def test_a_child_that_outlives_its_parent_holds_nothing(tmp_path: Path) -> None:
    # The child reports once it has started.
    code = f"if os.fork():\n    time.sleep(60)\nPath(sys.argv[2]).write_text(str(os.getpid()))\n{WAITING}"
    with process(code, str(tmp_path / "run"), str(tmp_path / "child")) as holder:
        with pytest.raises(RunError, match="in use"):
            Claim(tmp_path / "run")
        holder.kill()
        holder.wait()
        Claim(tmp_path / "run").release()
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


@pytest.mark.parametrize(("owner", "call"), [(fcntl, "flock"), (os, "fstat"), (os, "ftruncate"), (os, "pwrite")])
def test_a_claim_that_fails_names_its_file_and_leaves_no_lock_of_its_own(
    owner: ModuleType, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(owner, call, fail)
        with pytest.raises(OSError, match=f"Input/output error: '{tmp_path}/run/.lock'"):
            Claim(tmp_path / "run")
    assert (tmp_path / "run" / LOCK).exists() == (call in ("flock", "fstat"))  # it might belong to another process
    Claim(tmp_path / "run").release()


def test_releasing_a_claim_raises_no_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make close fail, as on a disk that the kernel has made read-only."""
    claim, real = Claim(tmp_path / "run"), os.close

    def close(descriptor: int) -> None:
        real(descriptor)
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "close", close)
    claim.release()
    monkeypatch.undo()
    Claim(tmp_path / "run").release()


def test_without_locks_a_run_warns_and_continues(
    small: Callable[..., vf.Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    run = vf.fit(small(epochs=1))
    assert f"warning: {run.directory} is on a file system without locks" in capsys.readouterr().out


def test_a_second_run_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    flags = ["--data", "digits", "--hidden", "8", "--epochs", "100000", "--batch-size", "1000", "--keep", "1"]
    first = subprocess.Popen([sys.executable, "-m", "vae_fast.train", *flags, "--out", out], stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "run" / "checkpoints" / "best").exists():
            assert first.poll() is None
            time.sleep(0.01)
        for way in ([*flags, "--out"], ["--resume"]):
            second = command("-m", "vae_fast.train", *way, out)
            assert (second.returncode, second.stdout) == (1, "")
            assert second.stderr.startswith(f"error: {out} is in use by process {first.pid} on ")
        for reader in ("evaluate", "report"):  # while checkpoints come and go every few milliseconds
            done = command("-m", f"vae_fast.{reader}", out)
            assert (done.returncode, done.stderr) == (0, "")
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
