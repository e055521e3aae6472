"""The plan of how a run executes on this machine: chosen once, printed with its reasons, and kept for a resume."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from vae_fast.config import Config
from vae_fast.config_rules import OBJECTIVES
from vae_fast.errors import ConfigError, RunError
from vae_fast.kernels import bf16_loops, dispatch, extension, mlp_refuses, set_flush_denormal
from vae_fast.runtime.environment import require_compiler

UNITS = {"amx": "AMX", "avx512_bf16": "AVX512-BF16"}
NO_UNITS = f"neither {' nor '.join(UNITS.values())} can be used here, without which bf16 is slower than fp32"
SAME_SUMS = ("avx512_bf16", "portable")
"""loops that give identical bits"""
BF16_SPEED = {"amx": 8.0, "avx512_bf16": 1.6}
"""the speed of a step's matrix products relative to float32; AMX's is an estimate"""
FLOPS_PER_BYTE = 10
"""the number of float32 operations of matrix products that take as long as one byte of Adam's memory traffic

Together with 1.6 it puts AVX512-BF16's threshold where it is on an AMD Zen 5 (`benchmarks.by_precision`): at 16 to 20
images."""

TORCH_COMPILE, AHEAD = "torch.compile", "ahead of time"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """Where and how the steps run. Every field is a decision, not a wish: `auto` is replaced by what it chose."""

    device: str
    precision: str
    """the precision of the autocast region: fp32, bf16 or fp16; parameters and the loss are always fp32"""
    step: str
    """how a step is computed: autograd, or fused (the MLP's forward, backward and Adam in one C++ operator on a CPU)"""
    optimizer: str
    """what computes Adam: fused (within the step), triton or cpp (our operators), or torch (PyTorch's fused kernel)"""
    compile: str
    """off, torch.compile, or ahead of time (the fused step, which CMake compiled)"""
    cuda_graphs: bool
    steps_per_graph: int
    """0 without CUDA graphs, and until the measured time of a step has decided the number"""
    feed: str
    """where the training images are: device, host (copied ahead of the step) or stream (read from their file)"""
    flush_denormals: bool
    """whether the CPU treats numbers below 1.2e-38 as zero"""
    bf16_loop: str = ""
    """the loop for the matrix products of a fused bf16 step, one of `bf16_loops`; empty for any other step"""

    @property
    def is_torch_compiled(self) -> bool:
        return self.compile == TORCH_COMPILE

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def recorded(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(config: Config, processes: int = 1) -> tuple[Plan, dict[str, str]]:
    """Return the plan for `config` on this machine, which `processes` share, and the reason for each of its fields.

    Raises ConfigError for a device that no machine has, RunError for an explicit wish that this machine cannot fulfil.
    """
    device, why_device = choose_device(config.device)
    step, why_step = _step(config, device, processes)
    precision, why_precision = _precision(config, device, step, processes)
    compiled, why_compiled = _compile(config.compile, step)
    if compiled == TORCH_COMPILE:
        require_compiler(device)
    graphs, why_graphs = _cuda_graphs(config.cuda_graphs, device)
    if config.flush_denormals and (device.type != "cpu" or not _flush_denormals(_are_denormals_flushed())):
        raise RunError(f"--flush-denormals: cannot be had on {device}")
    feed = "device" if config.feed == "auto" else config.feed  # until the size of the images is known
    optimizer, why_optimizer = _optimizer(step, device)
    loop, why_loop = _bf16_loop(step, precision)
    plan = Plan(str(device), precision, step, optimizer, compiled, graphs, 0, feed, config.flush_denormals, loop)
    return plan, {
        "device": why_device,
        "precision": why_precision,
        "step": why_step,
        "optimizer": why_optimizer,
        "compile": why_compiled,
        "cuda_graphs": why_graphs,
        "steps_per_graph": "by the time a step takes, once it is recorded" if graphs else "no CUDA graphs",
        "feed": "until the images are known" if config.feed == "auto" else f"--feed {config.feed}",
        "flush_denormals": "--flush-denormals" if config.flush_denormals else "no --flush-denormals",
        "bf16_loop": why_loop,
    }


def recorded_plan(table: dict[str, Any], config: Config, processes: int = 1) -> Plan:
    """Return the plan that a run began with, from its config.toml; raise RunError if it cannot continue here."""
    if isinstance(table.get("compile"), bool):  # from a version without steps compiled ahead of time
        table = table | {"compile": TORCH_COMPILE if table["compile"] else "off"}
    try:
        plan = Plan(**table)
    except TypeError:
        plan = None
    if (
        plan is None
        or plan.precision not in DTYPES
        or plan.step not in ("autograd", "fused")
        or plan.compile not in ("off", TORCH_COMPILE, AHEAD)
    ):
        raise RunError(f"config.toml: [plan] is not one of this version's, got {table}")
    choose_device(plan.device)
    if plan.is_torch_compiled:
        require_compiler(plan.torch_device)
    if plan.step == "fused":
        hindrance = _no_fused_step(config, plan.torch_device, processes)
        if hindrance is not None:
            raise RunError(f"config.toml: the run began with the fused step, which cannot be had: {hindrance}")
    loop = _loop_for_resume(plan.bf16_loop) if plan.bf16_loop else ""
    return replace(plan, optimizer=_optimizer(plan.step, plan.torch_device)[0], bf16_loop=loop)


def require_loop(plan: Plan) -> None:
    """Raise RunError if this machine, one of several that share a run, lacks the bf16 loop of the first one's plan."""
    if plan.bf16_loop and plan.bf16_loop not in _loops():
        raise RunError(f"the plan's bf16 loop {plan.bf16_loop} cannot be had on every machine of the run")


def auto_precision(device: torch.device) -> tuple[str, str]:
    """Return the precision of `--amp` for the autograd step, and why: bf16 if native, else fp16 on a GPU, else fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "native on this GPU") if native else ("fp16", "this GPU has no native bf16")
    for name, supported in _cpu_bf16_units().items():
        if supported:
            return "bf16", f"this CPU has {name}"
    return "fp32", f"AMP is off: {NO_UNITS}"


@contextmanager
def process_settings(plan: Plan, config: Config) -> Iterator[None]:
    """Apply a run's process-wide settings, and restore them: GPU, threads, deterministic algorithms, denormals."""
    # What torch.compile makes for a CPU of indexing, as embeddings do it, adds up in an order that varies, unless it is
    # told not to.
    may_index = config.network != "mlp" or config.conditional or config.objective not in OBJECTIVES
    varies = plan.is_torch_compiled and plan.torch_device.type == "cpu" and may_index
    flushed, threads = _are_denormals_flushed(), torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if plan.flush_denormals:
        _flush_denormals(True)
    try:
        with (
            torch.cuda.device(plan.torch_device) if plan.torch_device.type == "cuda" else nullcontext(),
            _deterministic() if config.deterministic or varies else nullcontext(),
        ):
            yield
    finally:
        if plan.flush_denormals:
            _flush_denormals(flushed)
        if config.threads is not None:
            torch.set_num_threads(threads)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Use PyTorch's deterministic algorithms, without filling new memory: nothing is read before it is written.

    Entered only on request: changing this setting imports Inductor, which takes a tenth of a second.
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


def choose_device(wish: str) -> tuple[torch.device, str]:
    """Return the device that `--device` means here, and why; raise ConfigError or RunError if it is unavailable."""
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


def _precision(config: Config, device: torch.device, step: str, processes: int) -> tuple[str, str]:
    if config.amp_dtype != "auto":
        slow = ", slow on a CPU" if (config.amp_dtype, device.type) == ("fp16", "cpu") else ""
        return config.amp_dtype, f"--amp-dtype {config.amp_dtype}{slow}"
    if not config.amp:
        return "fp32", "no --amp"
    return _fused_precision(config.batch_size // processes) if step == "fused" else auto_precision(device)


def _fused_precision(batch: int) -> tuple[str, str]:
    """Return bf16 if it makes a fused step of `batch` images per process faster, else fp32, and why.

    It is faster if the matrix products save more than Adam's copies cost. Both are proportional to the number of
    parameters, which cancels: for each parameter a step does 6 B operations and moves 24 bytes, reading and writing
    the weight and its moments; in bf16 it moves 4 more, for two copies.
    """
    loop = _loops()[0]
    if loop not in BF16_SPEED:
        return "fp32", f"AMP is off: {NO_UNITS}"
    if 6 * batch / FLOPS_PER_BYTE * (1 - 1 / BF16_SPEED[loop]) > 4:
        return "bf16", f"this CPU has {UNITS[loop]}"
    return "fp32", f"AMP is off: for {batch} images bf16 products save less than Adam's copies of the weights cost"


def _compile(wish: bool, step: str) -> tuple[str, str]:
    if step == "fused":
        return (AHEAD, "the step is one C++ operator") if wish else ("off", "no --compile, though the step is C++")
    if not wish:
        return "off", "no --compile"
    return TORCH_COMPILE, "--compile"


def _loops() -> list[str]:
    """Return the available loops for bfloat16 matrix products, fastest first."""
    return bf16_loops() if extension.load() else []


def _bf16_loop(step: str, precision: str) -> tuple[str, str]:
    if (step, precision) != ("fused", "bf16"):
        return "", "not a fused bf16 step"
    loop = _loops()[0]
    return loop, f"this CPU has {UNITS[loop]}" if loop in UNITS else f"slow: {NO_UNITS}"


def _loop_for_resume(before: str) -> str:
    """Return the fastest loop of this CPU that gives the same bits; if it has none, the fastest of all."""
    same = SAME_SUMS if before in SAME_SUMS else (before,)
    return next((loop for loop in _loops() if loop in same), _loops()[0])


def _flush_denormals(on: bool) -> bool:
    """Set whether all threads that compute on the CPU treat denormals as zero; return whether that is possible."""
    return set_flush_denormal(on) if extension.load() else torch.set_flush_denormal(on)


def _are_denormals_flushed() -> bool:
    """Return whether this thread treats denormals as zero."""
    return not (torch.tensor(1e-39) * 0.5).is_nonzero()


def _step(config: Config, device: torch.device, processes: int) -> tuple[str, str]:
    if config.step == "autograd":
        return "autograd", "--step autograd"
    hindrance = _no_fused_step(config, device, processes)
    if config.step == "fused":
        if hindrance is not None:
            raise RunError(f"--step fused: cannot be had, {hindrance}")
        return "fused", "--step fused"
    if device.type == "cuda" and (lack := dispatch.missing("triton")) is not None:
        return "autograd", f"of PyTorch's operators, which is slow: {lack}"
    if hindrance is None and torch.ops.vae_fast.instruction_set() == "portable":
        hindrance = "without AVX2 PyTorch's products are faster"
    return ("fused", "the fastest on a CPU") if hindrance is None else ("autograd", hindrance)


def _no_fused_step(config: Config, device: torch.device, processes: int) -> str | None:
    """Return why the step cannot be one operator, or None if it can."""
    if device.type != "cpu":
        return "the fused step is for CPUs"
    if config.amp_dtype == "fp16":
        return "the fused step is float32 or bfloat16; fp16 on a CPU is autograd's"
    if config.network != "mlp":
        return f"the fused step is the MLP's, the network is {config.network}"
    if config.conditional:
        return "the fused step has no labels"
    if config.objective not in OBJECTIVES:
        return f"the fused step has no objectives of your own, such as {config.objective}"
    if config.prior != "normal":
        return f"the fused step has a normal prior, the prior is {config.prior}"
    if processes > 1 and config.free_bits > 0:
        return "free bits are a function of the batch that all processes share"
    return mlp_refuses((), config.activation)


def _optimizer(step: str, device: torch.device) -> tuple[str, str]:
    if step == "fused":
        return "fused", "part of the step"
    if device.type == "cpu" and extension.load():
        return "cpp", "norm, clipping and update in two passes"
    if device.type == "cpu":
        return "torch", extension.status()
    hindrance = dispatch.missing("triton")
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
    supported = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    return dict(zip(UNITS.values(), supported, strict=True))
