"""How a command ends: with one line for what its user can mend, and an exit code.

0 done; 1 this machine, file or run; 2 the settings; 130 and 143 after SIGINT and SIGTERM. Of the processes of a run the
first speaks for all.
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
    """Of a call of `command`, after the line that says what went wrong.

    quiet_before: until the command calls `begun`, a signal says only that it came before this.
    """
    if quiet_before is None:
        begun()
    else:
        end_quietly_before(quiet_before)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what the terminal's encoding has not
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
    except BrokenPipeError:  # who reads has enough, as `head` has
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
    """Let what is still to be flushed go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(line: str, code: int, known_to_all: bool = False) -> int:
    if not known_to_all or is_printing():
        print(line, file=sys.stderr)
    return code
