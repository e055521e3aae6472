"""How a run executes on this machine: decided once, printed with the reason for every part, kept for a resume."""

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vae_fast.config import Config
from vae_fast.errors import ConfigError, RunError
from vae_fast.kernels import choice, library, mlp_refuses, products, set_flush_denormal

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """Where and how the steps run. Every field is a fact, not a wish: what `auto` chose is spelled out."""

    device: str
    precision: str
    """fp32, bf16 or fp16 of the autocast region; parameters and the loss are fp32 always"""
    step: str
    """how a step is computed: autograd, or fused: forward, backward and Adam of the MLP as one C++ operator on a CPU"""
    optimizer: str
    """what computes Adam: the fused step itself, triton or cpp (operators of ours) or torch (PyTorch's fused kernel)"""
    compile: bool
    cuda_graphs: bool
    steps_per_graph: int
    """0 without CUDA graphs, and until the time a step takes has shown how many are worth it"""
    feed: str
    """where the training images are: device, host (copied ahead of the step) or stream (read from their file)"""
    flush_denormals: bool
    """whether the CPU takes numbers below 1.2e-38 for zero"""

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def recorded(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(config: Config, processes: int = 1) -> tuple[Plan, dict[str, str]]:
    """The plan for `config` on this machine, shared by `processes`, and for each of its fields the reason.

    Raises ConfigError for a device that no machine has, RunError for an explicit wish that this machine cannot serve.
    """
    device, why_device = choose_device(config.device)
    precision, why_precision = _precision(config, device)
    if config.compile:
        require_compiler(device)
    graphs, why_graphs = _cuda_graphs(config.cuda_graphs, device)
    step, why_step = _step(config, device, precision, processes)
    if config.flush_denormals and (device.type != "cpu" or not _flush_denormals(_are_denormals_flushed())):
        raise RunError(f"--flush-denormals: cannot be had on {device}")
    feed = "device" if config.feed == "auto" else config.feed  # until the size of the images is known
    optimizer, why_optimizer = _optimizer(step, device)
    plan = Plan(str(device), precision, step, optimizer, config.compile, graphs, 0, feed, config.flush_denormals)
    return plan, {
        "device": why_device,
        "precision": why_precision,
        "step": why_step,
        "optimizer": why_optimizer,
        "compile": "--compile" if config.compile else "no --compile",
        "cuda_graphs": why_graphs,
        "steps_per_graph": "by the time a step takes, once it is recorded" if graphs else "no CUDA graphs",
        "feed": "until the images are known" if config.feed == "auto" else f"--feed {config.feed}",
        "flush_denormals": "--flush-denormals" if config.flush_denormals else "no --flush-denormals",
    }


def recorded_plan(table: dict[str, Any], config: Config, processes: int = 1) -> Plan:
    """The plan a run began with, from its config.toml; this machine and these processes must be able to carry it on."""
    try:
        plan = Plan(**table)
        DTYPES[plan.precision]
        {"autograd": False, "fused": True}[plan.step]
    except (TypeError, KeyError):
        raise RunError(f"config.toml: [plan] is not one of this version's, got {table}") from None
    choose_device(plan.device)
    if plan.compile:
        require_compiler(plan.torch_device)
    if plan.step == "fused":
        hindrance = _no_fused_step(config, plan.torch_device, plan.precision, processes)
        if hindrance is not None:
            raise RunError(f"config.toml: the run began with the fused step, which cannot be had: {hindrance}")
    return replace(plan, optimizer=_optimizer(plan.step, plan.torch_device)[0])


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


@contextmanager
def process_settings(plan: Plan, deterministic: bool) -> Iterator[None]:
    """What a run asks of the whole process, and gives back: its GPU, deterministic algorithms, what denormals are."""
    flushed = _are_denormals_flushed()
    if plan.flush_denormals:
        _flush_denormals(True)
    try:
        with (
            torch.cuda.device(plan.torch_device) if plan.torch_device.type == "cuda" else nullcontext(),
            _deterministic() if deterministic else nullcontext(),
        ):
            yield
    finally:
        if plan.flush_denormals:
            _flush_denormals(flushed)


@contextmanager
def _deterministic() -> Iterator[None]:
    """PyTorch's deterministic algorithms, but for its filling of new memory: nothing is read before it was written.

    Only where it is asked for: what changes this setting imports Inductor, which takes a tenth of a second.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module whose attribute is a property
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


def require_compiler(device: torch.device) -> None:
    """torch.compile builds its CPU kernels as C++ that includes Python.h, and launchers for those of a GPU as C."""
    if device.type != "cpu":
        hindrance = choice.missing("triton")
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


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two of `environment`, of what the first has."""
    return [f"{key} was {value}, is {now.get(key)}" for key, value in before.items() if now.get(key) != value]


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def choose_device(wish: str) -> tuple[torch.device, str]:
    """What `--device` means on this machine, and why; ConfigError or RunError where it cannot be had."""
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


def _precision(config: Config, device: torch.device) -> tuple[str, str]:
    if config.amp_dtype != "auto":
        slow = ", slow on a CPU" if (config.amp_dtype, device.type) == ("fp16", "cpu") else ""
        return config.amp_dtype, f"--amp-dtype {config.amp_dtype}{slow}"
    return auto_precision(device) if config.amp else ("fp32", "no --amp")


def _flush_denormals(on: bool) -> bool:
    """Have every thread that computes on the CPU take denormal numbers for zero, or not; whether it can."""
    return set_flush_denormal(on) if library.load() else torch.set_flush_denormal(on)


def _are_denormals_flushed() -> bool:
    """In this thread."""
    return not (torch.tensor(1e-39) * 0.5).is_nonzero()


def _step(config: Config, device: torch.device, precision: str, processes: int) -> tuple[str, str]:
    if config.step == "autograd":
        return "autograd", "--step autograd"
    hindrance = _no_fused_step(config, device, precision, processes)
    if config.step == "fused":
        if hindrance is not None:
            raise RunError(f"--step fused: cannot be had, {hindrance}")
        return "fused", "--step fused"
    if device.type == "cuda" and (lack := choice.missing("triton")) is not None:
        return "autograd", f"of PyTorch's operators, which is slow: {lack}"
    if hindrance is None and torch.ops.vae_fast.instruction_set() == "portable":
        hindrance = "without AVX2 PyTorch's products are faster"
    return ("fused", "the fastest on a CPU") if hindrance is None else ("autograd", hindrance)


def _no_fused_step(config: Config, device: torch.device, precision: str, processes: int) -> str | None:
    """Why the step cannot be one operator, or None."""
    if device.type != "cpu":
        return "the fused step is for CPUs"
    if config.compile:
        return "torch.compile compiles autograd's"
    if precision != "fp32":
        return f"the fused step is float32, not {precision}"
    if processes > 1 and config.free_bits > 0:
        return "free bits are a function of the batch that all processes share"
    return mlp_refuses((), config.activation)


def _optimizer(step: str, device: torch.device) -> tuple[str, str]:
    if step == "fused":
        return "fused", "part of the step"
    if device.type == "cpu" and library.load():
        return "cpp", "norm, clipping and update in two passes"
    if device.type == "cpu":
        return "torch", library.status()
    hindrance = choice.missing("triton")
    return ("triton", "two launches for all parameters") if hindrance is None else ("torch", hindrance)


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
