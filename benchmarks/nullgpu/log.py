"""The log of the null GPU: every launch, copy and wait of this process, by kind.

`make nullgpu` builds the null GPU and runs what needs it. In a process on it, `calls` yields the log. It shows which
kernels, products, copies and captures a program makes, not what they compute or how long they take.
"""

import ctypes
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

NODES = {"kernel", "product", "copy", "fill"}  # the kinds that become nodes on a captured stream
WAITS = {"sync", "blocking-copy"}  # the kinds that make the host wait


class Call(NamedTuple):
    """One line of the log, with the fields described in log.h; `what` is the kernel's or function's name, and sizes."""

    captured: bool
    unsafe: bool
    kind: str
    stream: str
    thread: int
    what: str

    @property
    def is_node(self) -> bool:
        return self.captured and self.kind in NODES


@cache
def is_present() -> bool:
    """Return whether this process runs on the null GPU."""
    return torch.cuda.is_available() and torch.cuda.get_device_name().endswith("(null)")


@contextmanager
def calls() -> Iterator[list[Call]]:
    """Yield a list that is filled at the end with the calls made inside."""
    found: list[Call] = []
    library = ctypes.CDLL(None)  # LD_PRELOAD puts it before all others
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        library.nullgpu_log(str(log).encode())
        try:
            yield found
        finally:
            library.nullgpu_log(None)
            found += map(_call, log.read_text(encoding="utf-8").splitlines())


def graphs(found: Sequence[Call]) -> list[list[Call]]:
    """Return the nodes of each captured graph, in order."""
    captured: list[list[Call]] = []
    for call in found:
        if call.kind == "capture":
            captured.append([])
        elif call.is_node:
            captured[-1].append(call)
    return captured


def _call(line: str) -> Call:
    captured, unsafe, kind, stream, thread, what = line.split("\t")
    return Call(captured == "captured", unsafe == "unsafe", kind, stream, int(thread), what)
