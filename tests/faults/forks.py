"""A process that has imported every command and forks a child for each request: python -m tests.faults.forks

PyTorch takes seconds to import, and a campaign runs thousands of commands. From its arguments on, a child does what a
process started for the command would do. A line of JSON requests a command; the answers are a line with its process id
and, once it has ended, one with its exit code. commands.py is the other side.
"""

import gc
import io
import json
import mmap
import os
import resource
import struct
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.faults import library
from vae_fast.__main__ import COMMANDS
from vae_fast.artifacts.directory import RunDirectory
from vae_fast.cli.flags import parse
from vae_fast.reporting import pictures
from vae_fast.runtime.printer import Printer
from vae_fast.training.trainer import Trainer

PAGE = 4096
CURVE = io.BytesIO()  # a loss curve, drawn once
PHASES = ("start-up", "epoch", "evaluation", "save", "pictures")
MOST_ENTRIES = 1000
ENTRY = struct.Struct("<qq")  # a phase, and when it was entered, in nanoseconds


def main() -> None:
    asked, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    commands = {name: import_module(f"vae_fast.{name}").main for name in COMMANDS}
    import_module("torch.fx.experimental.symbolic_shapes")  # the first gradient would import it
    pictures.save_loss_curve([{"epoch": 1, "train_loss": 1.0}], "", CURVE)
    parse(["--data", "digits"])
    Printer()
    gc.freeze()  # or a collection would copy all of it in every child
    print("ready", file=answers, flush=True)
    for line in asked:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.close(asked.fileno())
            os.close(answers.fileno())
            _run(commands[request.pop("command")], **request)
        print(json.dumps({"pid": child}), file=answers, flush=True)
        asked.readline()  # the client has opened the child by its number, which is not reused before the wait
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), file=answers, flush=True)


def _run(
    command: Callable[[list[str]], int], arguments: list[str], out: str, notes: str, before: dict[str, Any]
) -> None:
    """Run one command in the child, and write the counted calls to a file."""
    for descriptor in (1, 2):
        os.dup2(os.open(f"{out}.{descriptor}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), descriptor)
    try:
        for name, given in before.items():
            PREPARATIONS[name](*given)
        code = command(arguments)
        sys.stdout.flush()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    if "fail" in before:
        counts = {"calls": library.counted(), "failed": library.failed()}
        library.arm("", "changes", 0, "EIO", False)
        Path(notes).write_text(json.dumps(counts))
    os._exit(code)


def announce(file: str) -> None:
    """Record the phases of the run in shared memory, so that it can be killed in one of them."""
    shared = mmap.mmap(os.open(file, os.O_RDWR), 8 + MOST_ENTRIES * ENTRY.size)
    entered = 0

    def enter(phase: str) -> None:
        nonlocal entered
        ENTRY.pack_into(shared, 8 + entered * ENTRY.size, PHASES.index(phase), time.monotonic_ns())
        entered += 1
        shared[:8] = entered.to_bytes(8, "little")  # last, so that a reader finds the entry complete

    enter("start-up")
    methods = {"_train_epoch": "epoch", "_evaluate": "evaluation", "_close_epoch": "save"}
    for method, phase in methods.items():
        _before(Trainer, method, lambda _, phase=phase: enter(phase))
    _before(pictures, "save_all", lambda _: enter("pictures"))


def fill(folder: str, pages: int) -> None:
    """Fill the file system of a folder except for `pages` pages."""
    free = os.statvfs(folder)
    with open(os.path.join(folder, "filler"), "wb", buffering=0) as filler:
        for _ in range(free.f_bavail * free.f_frsize // PAGE - pages):
            filler.write(bytes(PAGE))


def fill_behind_the_probe(folder: str, pages: int) -> None:
    """Fill the file system as soon as a run has checked how much room there is."""
    _after(RunDirectory, "require_space", lambda _: fill(folder, pages))


def sketch() -> None:
    """Reuse the loss curve drawn before: drawing takes half the time of a small run, and writes nothing."""
    pictures.save_loss_curve = lambda metrics, pixels, path: path.write(CURVE.getvalue())


def limit(size: int) -> None:
    """Keep every file from growing beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


PREPARATIONS: dict[str, Callable[..., None]] = {
    "fail": library.arm,
    "announce": announce,
    "fill": fill,
    "fill_behind_the_probe": fill_behind_the_probe,
    "sketch": sketch,
    "limit": limit,
}


def _before(owner: Any, name: str, act: Callable[[object], None]) -> None:
    real = getattr(owner, name)

    def wrapped(self: object, *args: Any, **kwargs: Any) -> Any:
        act(self)
        return real(self, *args, **kwargs)

    setattr(owner, name, wrapped)


def _after(owner: type, name: str, act: Callable[[object], None]) -> None:
    real = getattr(owner, name)

    def wrapped(self: object, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        act(self)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    main()
