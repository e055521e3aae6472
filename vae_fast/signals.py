"""SIGINT and SIGTERM, collected so that a run can save its state at a step boundary before it leaves."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended the work. remedy: how to go on with what is saved; None if nothing is."""

    def __init__(self, number: int, remedy: str | None) -> None:
        super().__init__(f"{signal.Signals(number).name}: {f'saved; {remedy}' if remedy else 'nothing is saved'}")
        self.number = number


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
