"""Print what a bug report needs: versions, devices, what is built, and why each fast path is on or off."""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.run_arguments import Parser
from vae_fast.config import Config
from vae_fast.errors import RunError
from vae_fast.kernels import dispatch, extension, matmul
from vae_fast.runtime.environment import cpu_name, require_compiler
from vae_fast.runtime.plan import make_plan

PACKAGES = ("vae_fast", "torch", "triton", "numpy", "safetensors", "tyro")
NOT_INSTALLED = "not installed"
CPU_FEATURES = {"avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m vae_fast.env", description=__doc__)
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(_: argparse.Namespace) -> None:
    sections = {
        "Versions": versions(),
        "Devices": devices(),
        "Fast paths": fast_paths(),
        "Operators": operators(),
    }
    for title, facts in sections.items():
        print(title)
        for name, fact in facts.items():
            print(f"  {name:<15} {fact}")


def versions() -> dict[str, str]:
    return {
        **{name: _package_version(name) for name in PACKAGES},
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        "C++ compilers": ", ".join(_compilers()) or "none found",
    }


def devices() -> dict[str, str]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    features = ", ".join(_cpu_features()) or "not known"
    cpu = {
        "CPU": cpu_name(),
        "CPU cores": f"{os.cpu_count()}, of which {usable} usable; torch computes on {torch.get_num_threads()} threads",
        "CPU features": f"{features}; torch uses {torch.backends.cpu.get_cpu_capability()}",
    }
    gpus = {f"GPU {index}": _gpu(index) for index in range(torch.cuda.device_count())}
    return cpu | (gpus or {"GPU": "none that torch can use"})


def fast_paths() -> dict[str, str]:
    """Return what a run with --amp and otherwise default settings gets, and why, for batches of the usual size."""
    config = Config(amp=True)
    plan, reasons = make_plan(config)
    plain, why_plain = make_plan(Config())
    name, _, outcome = extension.status().partition(": ")
    return {
        name: outcome,
        "matrix products": f"{'oneDNN' if matmul.USE_ONEDNN else 'torch'}: {matmul.WHY}",
        "torch.compile": _compile(plan.torch_device),
        "Triton": _triton(plan.torch_device),
        "AMP": f"{plan.precision} at batch {config.batch_size}: {reasons['precision']}",
        "step": f"{plain.step}: {why_plain['step']}",
        "CUDA graphs": f"{'on' if plan.cuda_graphs else 'off'}: {reasons['cuda_graphs']}",
    }


def operators() -> dict[str, str]:
    """Return which implementation of the fused operators each device uses, and why."""
    kinds = {"CPU": "cpu", **{f"GPU {index}": f"cuda:{index}" for index in range(torch.cuda.device_count())}}
    return {name: dispatch.preferred(torch.device(device)) for name, device in kinds.items()}


def _compile(device: torch.device) -> str:
    try:
        require_compiler(device)
    except RunError as error:
        return f"off: {error}"
    return f"available, with {'--compile' if device.type == 'cuda' else '--step autograd --compile'}"


def _triton(device: torch.device) -> str:
    if device.type != "cuda":
        return "off: no CUDA device"
    if _package_version("triton") == NOT_INSTALLED:
        return "off: not installed"
    return "on, for the fused operators and for what torch.compile generates"


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return NOT_INSTALLED


def _compilers() -> list[str]:
    found = {shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++")}
    return [_first_line([path, "--version"]) for path in sorted(filter(None, found))]


def _first_line(command: list[str]) -> str:
    output = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    return output.partition("\n")[0]


def _cpu_features() -> list[str]:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    flags = re.search(r"^(?:flags|Features)\s*:(.*)", cpuinfo, re.MULTILINE)
    return sorted(CPU_FEATURES.intersection(flags[1].split())) if flags else []


def _gpu(index: int) -> str:
    gpu = torch.cuda.get_device_properties(index)
    capability = f"compute capability {gpu.major}.{gpu.minor}"
    return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {capability}, {_driver()}, CUDA {torch.version.cuda}"


def _driver() -> str:
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        found = None
    return f"driver {found[0]}" if found else "driver not known"


if __name__ == "__main__":
    sys.exit(main())
