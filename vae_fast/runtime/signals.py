"""Handling of SIGINT and SIGTERM: during a command's imports, and collected so that a run can save between steps."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended the work. remedy: how to continue from what is saved; None if nothing is."""

    def __init__(self, number: int, remedy: str | None) -> None:
        super().__init__(f"{signal.Signals(number).name}: {f'saved; {remedy}' if remedy else 'nothing is saved'}")
        self.number = number


USUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Terminated(KeyboardInterrupt):
    """The exception that SIGTERM raises in a command, as SIGINT raises KeyboardInterrupt."""


def terminate(number: int, frame: object) -> None:
    """Handle SIGTERM by raising `Terminated`."""
    raise Terminated


def end_quietly_before(what: str) -> None:
    """Make SIGINT and SIGTERM, if they have their usual handlers, end the process with one line until `begun`.

    An exception during imports would end in a traceback from them, or in C++ code that terminates the process.

    what: the work that has not begun yet, for the message.
    """
    _quiet.what = what
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers
    for number, usual in USUAL.items():
        if signal.getsignal(number) == usual:
            signal.signal(number, _quiet.end)


def begun() -> None:
    """Make the signals that `end_quietly_before` handles raise exceptions from now on."""
    _replace(_quiet.end, {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate})


def done() -> None:
    """Restore the handlers that `end_quietly_before` and `begun` replaced."""
    _replace(_quiet.end, USUAL)
    _replace(terminate, USUAL)


def _replace(handler: Callable[..., object], others: Mapping[signal.Signals, Any]) -> None:
    for number, other in others.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, other)


def at_quiet_end(function: Callable[[], object]) -> None:
    """Register the function to call before a signal ends the process quietly, in place of an earlier one."""
    _quiet.clean_up = function


class _Quiet:
    """The handler that ends the process with one line, and the state that it needs."""

    def __init__(self) -> None:
        self.what = ""
        self.clean_up: Callable[[], object] = lambda: None

    def end(self, number: int, frame: object) -> None:
        self.clean_up()
        if os.environ.get("RANK", "0") == "0":  # only the first process of a run prints
            os.write(2, f"{signal.Signals(number).name}: stopped before {self.what}\n".encode())
        os._exit(128 + number)


_quiet = _Quiet()


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Yield a list that collects SIGINT or SIGTERM instead of ending the process; a second signal acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: object) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()
