"""A process that has imported every command and forks a child for each that is asked for: python -m tests.faults.forks

PyTorch takes seconds to import, and a campaign runs thousands of commands. A child does what a process does that was
started for it, from the arguments on. A line of JSON asks for one; the answers are a line with its process id and, once
it has ended, one with its exit code. commands.py is the other side.
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
from vae_fast.training.progress import Printer
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
    import_module("torch.fx.experimental.symbolic_shapes")  # which the first gradient imports
    pictures.save_loss_curve([{"epoch": 1, "train_loss": 1.0}], "", CURVE)
    parse(["--data", "digits"])
    Printer()
    gc.freeze()  # a collection would copy all of it in every child
    print("ready", file=answers, flush=True)
    for line in asked:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.close(asked.fileno())
            os.close(answers.fileno())
            _run(commands[request.pop("command")], **request)
        print(json.dumps({"pid": child}), file=answers, flush=True)
        asked.readline()  # who asked has taken hold of the child, whose number nobody else can have before the wait
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), file=answers, flush=True)


def _run(
    command: Callable[[list[str]], int], arguments: list[str], out: str, notes: str, before: dict[str, Any]
) -> None:
    """Be the child: run one command, and leave what is to be said of it in a file."""
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
        said = {"calls": library.counted(), "failed": library.failed()}
        library.arm("", "changes", 0, "EIO", False)
        Path(notes).write_text(json.dumps(said))
    os._exit(code)


def announce(file: str) -> None:
    """Write down in shared memory where the run is, for who wants to kill it there."""
    shared = mmap.mmap(os.open(file, os.O_RDWR), 8 + MOST_ENTRIES * ENTRY.size)
    entered = 0

    def enter(phase: str) -> None:
        nonlocal entered
        ENTRY.pack_into(shared, 8 + entered * ENTRY.size, PHASES.index(phase), time.monotonic_ns())
        entered += 1
        shared[:8] = entered.to_bytes(8, "little")  # last: who reads it finds the entry there

    enter("start-up")
    methods = {"_train_epoch": "epoch", "_evaluate": "evaluation", "_close_epoch": "save"}
    for method, phase in methods.items():
        _before(Trainer, method, lambda _, phase=phase: enter(phase))
    _before(pictures, "save_all", lambda _: enter("pictures"))


def fill(folder: str, pages: int) -> None:
    """Fill the file system around a folder, but for so many pages."""
    free = os.statvfs(folder)
    with open(os.path.join(folder, "filler"), "wb", buffering=0) as filler:
        for _ in range(free.f_bavail * free.f_frsize // PAGE - pages):
            filler.write(bytes(PAGE))


def fill_behind_the_probe(folder: str, pages: int) -> None:
    """Fill it as soon as a run has looked how much room there is."""
    _after(RunDirectory, "require_space", lambda _: fill(folder, pages))


def sketch() -> None:
    """Take the loss curve that has been drawn: drawing one is half of what a small run takes, and writes nothing."""
    pictures.save_loss_curve = lambda metrics, pixels, path: path.write(CURVE.getvalue())


def limit(size: int) -> None:
    """Let no file become larger than so many bytes."""
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
