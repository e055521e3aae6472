"""How a command ends: with an exit code, and with one line for an error that its user can fix.

0: done; 1: an error of this machine, file or run; 2: an error in the settings; 130 and 143: after SIGINT and SIGTERM.
The first process of a run reports for all of them.
"""

import io
import os
import signal
import sys
from collections.abc import Callable

import torch

from vae_fast.errors import ConfigError, ContactLost, UserError, first_line
from vae_fast.runtime.distributed import is_printing
from vae_fast.runtime.signals import Interrupted, Terminated, begun, done, end_quietly_before


def exit_code(command: Callable[[], object], quiet_before: str | None = None) -> int:
    """Call `command` and return its exit code, after printing a line that says what went wrong, if anything did.

    quiet_before: until the command calls `begun`, a signal only prints that it arrived before this.
    """
    if quiet_before is None:
        begun()
    else:
        end_quietly_before(quiet_before)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may have characters that its encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command()
        sys.stdout.flush()
    except Interrupted as interruption:
        return _fail(str(interruption), 128 + interruption.number, known_to_all=True)
    except KeyboardInterrupt as interruption:
        number = signal.SIGTERM if isinstance(interruption, Terminated) else signal.SIGINT
        return _fail(f"{number.name}: stopped at once, nothing more is saved", 128 + number, known_to_all=True)
    except ContactLost as error:
        return _fail(f"error: {error}", 1)
    except UserError as error:
        return _fail(f"error: {error}", 2 if isinstance(error, ConfigError) else 1, known_to_all=True)
    except torch.OutOfMemoryError as error:
        return _fail(f"error: out of memory: {first_line(error)}", 1)
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        _write_no_more()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None:
            _write_no_more()
        return _fail(f"error: {error.filename or 'the output'}: {error.strerror or error}", 1)
    finally:
        done()
    return 0


def _write_no_more() -> None:
    """Redirect stdout to the null device, so that whatever is still to be flushed is discarded."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(line: str, code: int, known_to_all: bool = False) -> int:
    if not known_to_all or is_printing():
        print(line, file=sys.stderr)
    return code
