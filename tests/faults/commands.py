"""Commands run quickly as separate processes: forked by forks.py, killed on request, with a record of their end."""

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.faults.forks import ENTRY, MOST_ENTRIES, PHASES

ROOT = Path(__file__).parents[2]


class Done(NamedTuple):
    """The end of a command. notes: what the preloaded library counted, if it was armed."""

    code: int
    out: str
    err: str
    notes: dict[str, Any]


class Commands:
    """A process that forks one command at a time; as a context manager, it ends the process at the end.

    folder: where the output of commands goes. library: a library to preload.
    """

    def __init__(self, folder: Path, library: Path | None = None) -> None:
        self._folder, self._count = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
        }  # several run in parallel; the bits do not depend on it
        if library is not None:
            environment["LD_PRELOAD"] = str(library)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forks"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        self._answer("ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, command: str, *arguments: str | Path, **before: Any) -> Done:
        """Run a command to its end. before: names from `forks.PREPARATIONS`, with their arguments."""
        return self.start(command, *arguments, **before).wait()

    def start(self, command: str, *arguments: str | Path, **before: Any) -> "Running":
        assert self._process.stdin is not None
        self._count += 1
        files = {"out": str(self._folder / "out"), "notes": str(self._folder / f"notes-{self._count}")}
        request = {"command": command, "arguments": [str(a) for a in arguments], "before": before, **files}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        running = Running(self, int(json.loads(self._answer())["pid"]), files)
        print("held", file=self._process.stdin, flush=True)
        return running

    def _answer(self, expected: str | None = None) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line or expected not in (None, line):
            raise RuntimeError(f"{' '.join(map(str, self._process.args))}: no answer but {line!r}")
        return line


class Running:
    """A command that has been started."""

    def __init__(self, commands: Commands, pid: int, files: dict[str, str]) -> None:
        self._commands, self._files = commands, files
        self._descriptor = os.pidfd_open(pid)  # refers to this process even if its number is reused

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def has_ended(self) -> bool:
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def wait(self) -> Done:
        code = int(json.loads(self._commands._answer())["code"])
        os.close(self._descriptor)
        out, err = (Path(f"{self._files['out']}.{n}").read_text(encoding="utf-8", errors="replace") for n in (1, 2))
        notes = Path(self._files["notes"])
        counts = json.loads(notes.read_text()) if notes.exists() else {}
        notes.unlink(missing_ok=True)
        return Done(code, out, err, counts)


class Timeline:
    """The progress of a run: the phases that it has entered, and when, in seconds; readable while it runs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_bytes(bytes(8 + MOST_ENTRIES * ENTRY.size))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), 0)

    def entries(self) -> list[tuple[str, float]]:
        count = int.from_bytes(self._shared[:8], "little")
        found = (ENTRY.unpack_from(self._shared, 8 + i * ENTRY.size) for i in range(count))
        return [(PHASES[phase], nanoseconds / 1e9) for phase, nanoseconds in found]

    def wait_for(self, phase: str, times: int, running: "Running") -> bool:
        """Wait until the run has entered a phase `times` times; return False if it ends before that."""
        while [name for name, _ in self.entries()].count(phase) < times:
            if running.has_ended():
                return False
            time.sleep(0.0002)
        return True
