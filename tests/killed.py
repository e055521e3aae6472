"""A training run that sends itself a real signal at a chosen moment: killed.py MOMENT COUNT SIGNAL RUN FLAGS...

Moments: "step", before the launch that contains the step after COUNT; "twice", the same with a second signal once the
first has been received; "best", when the checkpoint of step COUNT is saved but `best` does not link to it yet;
"evaluate", before the evaluation of the epoch whose last step is COUNT; "save", the COUNT-th time that a save after
the first one reaches os.fsync.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from vae_fast import train
from vae_fast.artifacts import checkpoint
from vae_fast.training import engine, validation

moment, count, number, run = sys.argv[1], int(sys.argv[2]), getattr(signal, sys.argv[3]), sys.argv[4]
reached: list[int] = []


def strike(owner: Any, name: str, now: Callable[..., bool]) -> None:
    """Signal this process before each call of owner.name with arguments for which `now` holds."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if now(*args):
            os.kill(os.getpid(), number)
            if moment == "twice":
                while signal.getsignal(number) is not signal.default_int_handler:
                    time.sleep(0.001)  # two signals at once may arrive as one
                os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


def count_up(*args: Any) -> bool:
    if os.path.exists(f"{run}/checkpoints/latest"):
        reached.append(1)
    return len(reached) == count


def note_step(self: engine.Engine) -> bool:
    reached.append(self.step_number)
    return False


signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
if moment in ("step", "twice"):
    strike(engine.Engine, "advance", lambda self, steps, *args: self.step_number <= count < self.step_number + steps)
elif moment == "best":
    strike(checkpoint, "point", lambda link, target: link.name == "best" and target.name == f"step-{count:08d}")
elif moment == "evaluate":
    strike(engine.Engine, "finish_epoch", note_step)
    strike(validation.Validation, "__call__", lambda self: reached[-1] == count)
else:
    strike(os, "fsync", count_up)
sys.exit(train.main(sys.argv[5:]))
