"""How a run executes on this machine: decided once, printed with the reason for every part, kept for a resume."""

import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from vae_fast.config import Config
from vae_fast.errors import ConfigError, RunError
from vae_fast.kernels import library, products

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """Where and how the steps run. Every field is a fact, not a wish: what `auto` chose is spelled out."""

    device: str
    precision: str
    """fp32, bf16 or fp16 of the autocast region; parameters and the loss are fp32 always"""
    compile: bool
    cuda_graphs: bool
    steps_per_graph: int
    """0 without CUDA graphs, and until the time a step takes has shown how many are worth it"""

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def recorded(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(config: Config) -> tuple[Plan, dict[str, str]]:
    """The plan for `config` on this machine, and for each of its fields the reason.

    Raises ConfigError for a device that no machine has, RunError for an explicit wish that this machine cannot serve.
    """
    device, why_device = _device(config.device)
    precision, why_precision = _precision(config, device)
    if config.compile:
        require_compiler(device)
    graphs, why_graphs = _cuda_graphs(config.cuda_graphs, device)
    plan = Plan(str(device), precision, config.compile, graphs, steps_per_graph=0)
    return plan, {
        "device": why_device,
        "precision": why_precision,
        "compile": "--compile" if config.compile else "no --compile",
        "cuda_graphs": why_graphs,
        "steps_per_graph": "by the time a step takes, once it is recorded" if graphs else "no CUDA graphs",
    }


def recorded_plan(table: dict[str, Any]) -> Plan:
    """The plan a run began with, from its config.toml; this machine must be able to carry it on."""
    try:
        plan = Plan(**table)
        DTYPES[plan.precision]
    except (TypeError, KeyError):
        raise RunError(f"config.toml: [plan] is not one of this version's, got {table}") from None
    _device(plan.device)
    if plan.compile:
        require_compiler(plan.torch_device)
    return plan


def auto_precision(device: torch.device) -> tuple[str, str]:
    """What `--amp` means on a device, and why: bf16 where the units are native, else fp16 on a GPU, else fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "native on this GPU") if native else ("fp16", "this GPU has no native bf16")
    for name, supported in _cpu_bf16_units().items():
        if supported:
            return "bf16", f"this CPU has {name}"
    return "fp32", "AMP is off: this CPU has neither AVX512-BF16 nor AMX, without which bf16 is slower than fp32"


def require_compiler(device: torch.device) -> None:
    """torch.compile builds its CPU kernels as C++ that includes Python.h."""
    if device.type != "cpu":
        return
    if cpp_compiler() is None:
        raise RunError(
            f"--compile: on a CPU it needs a C++ compiler; {_compiler_name()} was not found (CXX names another)"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise RunError(f"--compile: on a CPU it needs Python's headers (python3-dev); {header} is not there")


def require_memory(images: int, config: Config, pixels: int, device: torch.device) -> None:
    """RunError if the network with its optimizer, one batch and the images cannot fit on the device.

    `images` is the size in bytes of those on the host; training on a CPU takes them where they are.
    """
    widths = (pixels, *config.hidden, config.latent)
    parameters = 2 * sum(n * m for n, m in pairwise(widths))
    activations = 4 * config.batch_size * sum(widths)  # values, gradients, encoder and decoder
    resident = 0 if device.type == "cpu" else images
    needed = resident + 4 * (4 * parameters + activations)  # fp32: weights, gradients, two moments
    free = _free_memory(device)
    if needed > free:
        raise RunError(
            f"memory: {device} has {free / 2**30:.1f} GiB free, the run needs about {needed / 2**30:.1f} GiB; "
            f"take fewer images, a smaller --hidden or a smaller --batch-size"
        )


def cpp_compiler() -> str | None:
    """The path of the C++ compiler that torch.compile would use, None without it."""
    return shutil.which(_compiler_name())


def _compiler_name() -> str:
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What a run's numbers depend on besides its settings: versions, device, processes and threads."""
    from vae_fast import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "vae_fast": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "operators": "C++" if library.load() else "PyTorch",
        "products": "oneDNN" if products.USE_ONEDNN else "torch",
    }


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _device(wish: str) -> tuple[torch.device, str]:
    if wish == "auto":
        present = torch.cuda.is_available()
        return (
            (torch.device("cuda", 0), "a CUDA device is present")
            if present
            else (torch.device("cpu"), "no CUDA device")
        )
    try:
        device = torch.device(wish)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {wish!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise RunError(
                f"device: {wish} is not there; this machine has {count or 'no'} CUDA devices that torch sees"
            )
        device = torch.device("cuda", device.index or 0)
    return device, f"--device {wish}"


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _precision(config: Config, device: torch.device) -> tuple[str, str]:
    if config.amp_dtype != "auto":
        return config.amp_dtype, f"--amp-dtype {config.amp_dtype}"
    return auto_precision(device) if config.amp else ("fp32", "no --amp")


def _cuda_graphs(wish: str, device: torch.device) -> tuple[bool, str]:
    if wish == "off":
        return False, "--cuda-graphs off"
    if device.type != "cuda":
        if wish == "on":
            raise RunError("--cuda-graphs on: cannot be had, no CUDA device")
        return False, "no CUDA device"
    return True, "--cuda-graphs on" if wish == "on" else "a step is many short kernels"


def _cpu_bf16_units() -> dict[str, bool]:
    return {"AMX": torch.cpu._is_amx_tile_supported(), "AVX512-BF16": torch.cpu._is_avx512_bf16_supported()}
