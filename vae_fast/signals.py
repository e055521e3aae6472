"""SIGINT and SIGTERM: collected so that a run can save its state at a step boundary; amid the imports of a command."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended the work. remedy: how to go on with what is saved; None if nothing is."""

    def __init__(self, number: int, remedy: str | None) -> None:
        super().__init__(f"{signal.Signals(number).name}: {f'saved; {remedy}' if remedy else 'nothing is saved'}")
        self.number = number


USUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def end_quietly_until_begun() -> None:
    """Let SIGINT and SIGTERM end the process with one line, where they would do what they usually do, until `begun`.

    An exception amid imports would end in their traceback, or in C++ code that terminates.
    """

    def end(number: int, frame: object) -> None:
        os.write(2, f"{signal.Signals(number).name}: stopped before anything began\n".encode())
        os._exit(128 + number)

    for number, usual in USUAL.items():
        if signal.getsignal(number) == usual:
            signal.signal(number, end)
            _ended_quietly.append(number)


def begun() -> None:
    """Give back what `end_quietly_until_begun` took."""
    while _ended_quietly:
        number = _ended_quietly.pop()
        signal.signal(number, USUAL[number])


_ended_quietly: list[signal.Signals] = []


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
