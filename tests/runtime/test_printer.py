"""What a run prints: a bar on a terminal, plain lines elsewhere."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from vae_fast.runtime import printer
from vae_fast.runtime.printer import Printer


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Printer().bar("epoch 1", 40) as advance:
        advance(20, 105.3)
    assert capsys.readouterr().out == ""


def test_without_a_terminal_progress_with_a_unit_is_printed_in_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printer, "LINE_EVERY", 0.0)
    with Printer(stderr=True).bar("-log p(x)", 4000, 1000, "images") as advance:
        time.sleep(0.01)
        advance(1500, 105.3)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"-log p\(x\)  105\.30  1,500 of 4,000, [0-9,]+ images/s\n", printed.err)


def test_a_terminal_gets_a_bar_that_vanishes() -> None:
    """Print to a real pseudo-terminal."""
    code = (
        "import time; from vae_fast.runtime.printer import Printer; printer = Printer()\n"
        "with printer.bar('epoch 1', 64) as advance:\n"
        "    for step in range(64): time.sleep(0.01); advance(step, 105.25)\n"
        "printer.line('done')"
    )
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    written = b""
    while process.poll() is None or not written.endswith(b"done\r\n"):
        try:
            written += os.read(master, 4096)
        except OSError:  # the other side is closed
            break
    os.close(master)
    assert process.wait() == 0
    assert b"epoch 1" in written
    assert b"/64" in written
    assert written.endswith(b"done\r\n")
