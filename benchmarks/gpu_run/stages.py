"""Commands that run within a time budget: one that fails or hangs is recorded, and the next one runs.

Each has its own log and process group. At the end of its time it is asked to stop as by Ctrl-C, so that it can write
what it has; some seconds later the whole group is killed. This module needs only the standard library.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRACE = 10.0  # seconds between asking and killing
POLL = 0.05
PASSED, FAILED, CUT_SHORT, NOT_BEGUN, IMPOSSIBLE = "passed", "failed", "out of time", "no time left", "not possible"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command, and how long it may take.

    Args:
        most: the seconds that it gets; least: with fewer than these left it is not started.
        needed: whether the run is incomplete if there was not enough time for it.
        impossible: texts that appear in the log if the command failed because this machine does not let it run.
        output: the file for its stdout, if that does not go to the log.
    """

    name: str
    command: Sequence[str]
    most: float
    least: float = 5.0
    needed: bool = True
    impossible: Sequence[str] = ()
    output: str = ""

    @property
    def log(self) -> str:
        return f"{self.name}.log"


@dataclass(frozen=True)
class Outcome:
    """How a stage ended, after how many seconds, and the file that holds what it printed."""

    name: str
    status: str
    seconds: float
    log: str
    needed: bool = True

    @property
    def is_wrong(self) -> bool:
        return self.status == FAILED or (self.needed and self.status in (CUT_SHORT, NOT_BEGUN))


@dataclass
class _Running:
    stage: Stage
    process: "subprocess.Popen[bytes]"
    began: float
    end: float
    asked: bool = False

    def is_over(self) -> bool:
        """Return whether it has ended; once its time is up, ask it to end, and later kill it."""
        now = time.monotonic()
        if self.process.poll() is None:
            if now > self.end + GRACE:
                self.kill()
                self.process.wait()
            elif now > self.end and not self.asked:
                self.asked = True
                self.process.send_signal(signal.SIGINT)
        return self.process.returncode is not None

    def kill(self) -> None:
        """Kill it and everything that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def together(
    stages: Iterable[Stage], deadline: float, folder: Path, cwd: Path, env: Mapping[str, str]
) -> list[Outcome]:
    """Run stages at the same time, with logs in `folder`; all end within GRACE after `deadline` (time.monotonic's)."""
    outcomes: dict[str, Outcome] = {}
    with _killed_at_the_end() as running:
        for stage in stages:
            now = time.monotonic()
            allowed = min(stage.most, deadline - now)
            if allowed < stage.least:
                outcomes[stage.name] = Outcome(stage.name, NOT_BEGUN, 0.0, "", stage.needed)
                continue
            outcomes[stage.name] = Outcome(stage.name, FAILED, 0.0, stage.log, stage.needed)  # keeps the order
            process = _started(stage, folder, cwd, env)
            if process is not None:
                running.append(_Running(stage, process, now, now + allowed))
        while running:
            for one in [one for one in running if one.is_over()]:
                one.kill()  # whatever it left behind
                running.remove(one)
                outcomes[one.stage.name] = _outcome(one, folder / one.stage.log)
            time.sleep(POLL)
    return list(outcomes.values())


@contextmanager
def _killed_at_the_end() -> Iterator[list[_Running]]:
    running: list[_Running] = []
    try:
        yield running
    finally:
        for one in running:
            one.kill()


def _started(stage: Stage, folder: Path, cwd: Path, env: Mapping[str, str]) -> "subprocess.Popen[bytes] | None":
    """Start a stage; return None, with a line in the log, if its program does not exist."""
    with (folder / stage.log).open("wb") as log, (folder / (stage.output or stage.log)).open("ab") as output:
        log.write(f"$ {shlex.join(stage.command)}\n".encode())
        log.flush()
        settings: dict[str, Any] = {"cwd": cwd, "env": dict(env), "start_new_session": True}
        settings["preexec_fn"] = _heed_interrupts
        try:
            return subprocess.Popen(stage.command, stdin=subprocess.DEVNULL, stdout=output, stderr=log, **settings)
        except OSError as error:
            log.write(f"{error}\n".encode())
            return None


def _heed_interrupts() -> None:
    """Handle SIGINT again: what a shell runs in the background ignores it, and its children would, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _outcome(one: _Running, log: Path) -> Outcome:
    stage, took = one.stage, time.monotonic() - one.began
    if one.asked:
        status = CUT_SHORT
    elif one.process.returncode == 0:
        status = PASSED
    else:
        printed = log.read_text(encoding="utf-8", errors="replace")
        status = IMPOSSIBLE if any(text in printed for text in stage.impossible) else FAILED
    return Outcome(stage.name, status, took, stage.log, stage.needed)
