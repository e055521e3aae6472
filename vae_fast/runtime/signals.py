"""SIGINT and SIGTERM: collected so that a run can save its state at a step boundary; amid the imports of a command."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended the work. remedy: how to go on with what is saved; None if nothing is."""

    def __init__(self, number: int, remedy: str | None) -> None:
        super().__init__(f"{signal.Signals(number).name}: {f'saved; {remedy}' if remedy else 'nothing is saved'}")
        self.number = number


USUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Terminated(KeyboardInterrupt):
    """SIGTERM, where a command takes it as it takes SIGINT: as an exception."""


def terminate(number: int, frame: object) -> None:
    """Handle SIGTERM."""
    raise Terminated


def end_quietly_before(what: str) -> None:
    """Let SIGINT and SIGTERM end the process with one line, where they would do what they usually do, until `begun`.

    For an exception amid imports would end in their traceback, or in C++ code that terminates. what: has not begun yet.
    """
    _quiet.what = what
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers
    for number, usual in USUAL.items():
        if signal.getsignal(number) == usual:
            signal.signal(number, _quiet.end)


def begun() -> None:
    """Have the signals that `end_quietly_before` took raise exceptions from now on."""
    _replace(_quiet.end, {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate})


def done() -> None:
    """Give back what `end_quietly_before` and `begun` took."""
    _replace(_quiet.end, USUAL)
    _replace(terminate, USUAL)


def _replace(handler: Callable[..., object], others: Mapping[signal.Signals, Any]) -> None:
    for number, other in others.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, other)


def at_quiet_end(function: Callable[[], object]) -> None:
    """Call `function` before a signal ends the process quietly: the last one that was named here."""
    _quiet.clean_up = function


class _Quiet:
    """How a signal ends the process."""

    def __init__(self) -> None:
        self.what = ""
        self.clean_up: Callable[[], object] = lambda: None

    def end(self, number: int, frame: object) -> None:
        self.clean_up()
        if os.environ.get("RANK", "0") == "0":  # the first of the processes of a run speaks for all
            os.write(2, f"{signal.Signals(number).name}: stopped before {self.what}\n".encode())
        os._exit(128 + number)


_quiet = _Quiet()


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one takes its usual course."""
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
