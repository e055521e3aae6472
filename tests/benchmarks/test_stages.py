"""Stages: one that fails or hangs is recorded, its children are gone, and the next one runs."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_run import stages
from benchmarks.gpu_run.stages import CUT_SHORT, FAILED, IMPOSSIBLE, NOT_BEGUN, PASSED, Outcome, Stage, together

# Starts a child that sleeps, prints its id, and waits for it; asked to stop, prints a line or, if deaf, carries on.
PARENT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
print(child.pid, flush=True)
if sys.argv[1] == "gone":
    sys.exit(0)
try:
    child.wait()
except KeyboardInterrupt:
    print("what there is")
"""
Runner = Callable[..., list[Outcome]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Return a runner of stages in a process that ignores SIGINT, like one that a shell runs in the background."""
    monkeypatch.setattr(stages, "GRACE", 0.3)
    heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def runner(*all_of_them: Stage, seconds: float = 60) -> list[Outcome]:
        return together(all_of_them, time.monotonic() + seconds, tmp_path, tmp_path, os.environ)

    yield runner
    signal.signal(signal.SIGINT, heeded)


def python(name: str, code: str, *arguments: str, most: float = 20, **settings: Any) -> Stage:
    return Stage(name=name, command=[sys.executable, "-c", code, *arguments], most=most, **settings)


def is_alive(process: int) -> bool:
    """Return whether a process is alive; one that has ended and was not waited for is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
@pytest.mark.parametrize(("kind", "status"), [("polite", CUT_SHORT), ("deaf", CUT_SHORT), ("gone", PASSED)])
def test_a_stage_that_hangs_is_ended_with_its_children(
    kind: str, status: str, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "polite":  # it waits a quarter of a second for its child, and the machine may be busy
        monkeypatch.setattr(stages, "GRACE", 20.0)
    hanging = python("hanging", PARENT, kind, most=1, least=0, output="said")
    hung, after = [*run(hanging), *run(python("after", "print('here')"))]
    assert (hung.status, after.status) == (status, PASSED)
    assert hung.seconds < 15
    child, *said = (tmp_path / "said").read_text().splitlines()
    assert said == (["what there is"] if kind == "polite" else [])
    ended = time.monotonic() + 5
    while is_alive(int(child)) and time.monotonic() < ended:
        time.sleep(0.01)
    assert not is_alive(int(child))


def test_each_stage_gets_the_status_of_its_end(run: Runner, tmp_path: Path) -> None:
    outcomes = run(
        python("good", "import sys; print('out'); print('err', file=sys.stderr)", output="good.txt"),
        python("bad", "import sys; sys.exit(3)"),
        python("refused", "import sys; sys.exit('Device not supported')", impossible=["not supported"]),
        Stage(name="absent", command=["no-such-program"], most=20),
        python("late", "", least=100),
    )
    assert [o.status for o in outcomes] == [PASSED, FAILED, IMPOSSIBLE, FAILED, NOT_BEGUN]
    assert [o.is_wrong for o in outcomes] == [False, True, False, True, True]
    assert (tmp_path / "good.txt").read_text() == "out\n"
    assert (tmp_path / "good.log").read_text().splitlines()[1:] == ["err"]  # below the command
    assert "no-such-program" in (tmp_path / "absent.log").read_text()


@pytest.mark.parametrize("status", [CUT_SHORT, NOT_BEGUN])
def test_an_optional_stage_may_run_out_of_time(status: str) -> None:
    assert Outcome("a", status, 1, "").is_wrong
    assert not Outcome("a", status, 1, "", needed=False).is_wrong


def test_stages_run_together(run: Runner) -> None:
    """Run two stages, each of which waits for the other's file."""
    code = """
import sys, time, pathlib
mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
while not other.exists():
    time.sleep(0.01)
"""
    both = python("a", code, "a", "b"), python("b", code, "b", "a")
    assert [o.status for o in run(*both)] == [PASSED, PASSED]
