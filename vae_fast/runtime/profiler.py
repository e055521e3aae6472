"""Profiles of a window of a run's steps: by Nsight through CUDA's profiler API, by torch.profiler, or of memory.

The window is given in steps done so far, as metrics.jsonl counts them: 20:40 begins once 20 are done and ends once 40
are. Several steps in one launch are profiled together: the window grows to whole launches. Profiling changes no result,
only the time: its own time is counted separately (`Profile.seconds`), but steps under a profiler are slower.

Files go to RUN/profile/, each written whole or not at all, and replace those of an earlier profile.
"""

import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from vae_fast.config import Config
from vae_fast.config_rules import profile_window
from vae_fast.errors import RunError
from vae_fast.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from vae_fast.runtime.signals import Interrupted

WARM_UP_LAUNCHES, PROFILED_LAUNCHES = 20, 20  # before and in the window, unless --profile-steps is given
MOST_ALLOCATIONS = 100_000  # the memory profile keeps only the latest ones
TABLE_ROWS = 40


class Recorder(Protocol):
    """One kind of profile."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def files(self) -> dict[str, Callable[[Path], object]]:
        """Return, for the name of each file, the function that writes it."""


class Profile:
    """The profile of one run; with `--profile off`, and in processes other than the first, it does nothing.

    Args:
        config: the settings of the run.
        device: the device of the steps.
        folder: the folder for the files.
        say: prints a line.
        group: the processes of the run.

    Attributes:
        seconds: the time spent so far on starting, stopping and writing.

    Usage: `with profile:` around the run, `begin` before its first step, and `launches` in each epoch. If an error or a
    signal ends the run inside the window, the profile up to that point is still written, and also if the run runs out
    of memory before its first step. Raises RunError for a profile that this machine cannot produce.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        folder: Path,
        say: Callable[[str], None],
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        if config.profile == "nsys" and device.type != "cuda":
            raise RunError(f"--profile nsys: cannot be had on {device.type}, Nsight profiles GPUs; torch profiles both")
        self.seconds = 0.0
        self._kind, self._asked = config.profile, config.profile_steps
        self._device, self._folder, self._say = device, folder, say
        profiles = config.profile != "off" and group.is_rank0 and not config.dry_run
        self._recorder = _recorder(config.profile, device) if profiles else None
        self._first, self._last = (0, 0) if self._asked is None else profile_window(self._asked)
        self._is_open = self._begun = False
        self._opened = self._step = 0
        if isinstance(self._recorder, CudaMemory) and self._first == 0:
            self._open()  # before the model is built, to see which code allocates the memory that the steps only use

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._recorder is None or not self._is_open:
            return
        seen = self._begun and isinstance(error, Exception | Interrupted)
        with suppress(Exception):  # a new error would hide the one that ended the run
            if seen or isinstance(error, torch.OutOfMemoryError):
                self._close()
            else:
                self._recorder.stop()

    def begin(self, step: int, total: int, together: int) -> None:
        """Choose the window and print it.

        Args:
            step: the number of steps done, of `total`.
            together: the number of steps in a launch.

        Raises RunError for steps that the run will never reach.
        """
        if self._recorder is None:
            return
        self._begun, self._opened, self._step = True, step, step
        if self._asked is None:
            left = total - step
            self._first = step + (0 if self._kind == "memory" else min(WARM_UP_LAUNCHES * together, left // 2))
            self._last = self._first + PROFILED_LAUNCHES * together
        elif self._first >= total:
            raise RunError(f"--profile-steps: expected steps before {total}, the run's last, got {self._asked}")
        self._last = min(self._last, total)
        if step >= self._last:
            self._say(f"profile: none, {self._asked or 'all steps'} come before step {step}, where the run continues")
            if self._is_open:
                self._recorder.stop()
            self._recorder, self._is_open = None, False
            return
        whole = f", in launches of up to {together}" if together > 1 else ""
        self._say(f"profile: {self._kind}, steps {self._first} to {self._last}{whole}; their epoch is slower")

    def launches(self, sizes: list[int], step: int) -> Iterable[int]:
        """Return the same launches, of `sizes` steps from `step` on; the profile starts and stops as they pass."""
        return sizes if self._recorder is None else self._watched(sizes, step)

    def _watched(self, sizes: list[int], step: int) -> Iterator[int]:
        for size in sizes:
            if not self._is_open and self._first < step + size and step < self._last:
                self._opened = step
                self._open()
            yield size
            self._step = step = step + size
            if self._is_open and step >= self._last:
                self._close()

    def _open(self) -> None:
        assert self._recorder is not None
        began = time.perf_counter()
        self._wait()
        self._recorder.start()
        self._is_open = True
        self.seconds += time.perf_counter() - began

    def _close(self) -> None:
        assert self._recorder is not None
        began = time.perf_counter()
        self._is_open = False
        self._wait()
        self._recorder.stop()
        written = self._recorder.files()
        for name, write in written.items():
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = self._folder / f".{name}"
            write(temporary)
            temporary.replace(self._folder / name)
        where = f": {', '.join(str(self._folder / name) for name in written)}" if written else ""
        self._say(f"profiled steps {self._opened} to {self._step}{where}")
        self.seconds += time.perf_counter() - began

    def _wait(self) -> None:
        """Wait for the device, so that the window contains the steps that run in it, not those launched in it."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class CudaApi:
    """The start and stop calls by which a program tells Nsight Systems and Nsight Compute what to profile."""

    def start(self) -> None:
        torch.cuda.profiler.start()

    def stop(self) -> None:
        torch.cuda.profiler.stop()

    def files(self) -> dict[str, Callable[[Path], object]]:
        """Return no files: Nsight writes its own."""
        return {}


class TorchProfiler:
    """Operators and kernels by torch.profiler: a trace for chrome://tracing or ui.perfetto.dev, and a table."""

    def __init__(self, device: torch.device, memory: bool = False) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profile = torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=memory)
        unit = "self_cpu" if device.type == "cpu" else "self_device"
        self._order = f"{unit}_memory_usage" if memory else f"{unit}_time_total"

    def start(self) -> None:
        self._profile.start()

    def stop(self) -> None:
        self._profile.stop()

    def files(self) -> dict[str, Callable[[Path], object]]:
        return {"trace.json.gz": lambda path: self._profile.export_chrome_trace(str(path)), "table.txt": self._table}

    def _table(self, path: Path) -> None:
        averages = self._profile.key_averages()
        path.write_text(averages.table(sort_by=self._order, row_limit=TABLE_ROWS, max_name_column_width=60))


class CudaMemory:
    """A record of every GPU allocation and the Python lines that made it, for https://pytorch.org/memory_viz."""

    def start(self) -> None:
        torch.cuda.memory._record_memory_history(stacks="python", max_entries=MOST_ALLOCATIONS)

    def stop(self) -> None:
        self._snapshot: Any = torch.cuda.memory._snapshot()
        torch.cuda.memory._record_memory_history(enabled=None)

    def files(self) -> dict[str, Callable[[Path], object]]:
        return {"memory.pickle": lambda path: path.write_bytes(pickle.dumps(self._snapshot))}


def _recorder(kind: str, device: torch.device) -> Recorder:
    if kind == "nsys":
        return CudaApi()
    if kind == "memory" and device.type == "cuda":
        return CudaMemory()
    return TorchProfiler(device, memory=kind == "memory")
