"""The capabilities of the machine, and everything besides the settings that a run's numbers depend on."""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch

from vae_fast._version import __version__
from vae_fast.errors import RunError
from vae_fast.kernels import dispatch, extension, matmul


def environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Return what a run's numbers depend on besides its settings: versions, device, processes and threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "vae_fast": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "operators": "C++" if extension.load() else "PyTorch",
        "products": "oneDNN" if matmul.USE_ONEDNN else "torch",
    }


def busy(device: torch.device, chooses_threads: bool = False) -> str | None:
    """Return a warning if a CPU already has more work than cores, else None.

    chooses_threads: whether the run may choose fewer threads itself (see `runtime.threads`).
    """
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    if device.type != "cpu" or load <= cores or torch.get_num_threads() == 1:
        return None
    advice = (
        "this one takes fewer threads by itself while that is faster"
        if chooses_threads
        else "with --threads 1 each of several runs is faster"
    )
    return f"the machine is busy: a load of {load:.1f} on {cores} cores before this run; {advice}"


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the differences between two results of `environment`, considering only the keys of the first."""
    return [f"{key} was {value}, is {now.get(key)}" for key, value in before.items() if now.get(key) != value]


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def require_compiler(device: torch.device) -> None:
    """Raise RunError if this machine lacks what torch.compile needs to build kernels.

    It builds CPU kernels as C++ that includes Python.h, and the launchers of GPU kernels as C.
    """
    if device.type != "cpu":
        hindrance = dispatch.missing("triton")
        if hindrance is not None:
            raise RunError(f"--compile: on a GPU it needs Triton: {hindrance}")
        return
    if cpp_compiler() is None:
        raise RunError(
            f"--compile: on a CPU it needs a C++ compiler; {_compiler_name()} was not found (CXX names another)"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise RunError(f"--compile: on a CPU it needs Python's headers (python3-dev); {header} is not there")


def cpp_compiler() -> str | None:
    """Return the path of the C++ compiler that torch.compile would use, or None if there is none."""
    return shutil.which(_compiler_name())


def _compiler_name() -> str:
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
