"""Tests of the plan: what is chosen on this machine, why, and what is refused."""

import pytest
import torch

import vae_fast as vf
from vae_fast.errors import ConfigError, RunError
from vae_fast.kernels import dispatch, extension, registration, set_flush_denormal
from vae_fast.runtime import plan as plans
from vae_fast.runtime.environment import require_compiler
from vae_fast.runtime.plan import (
    auto_precision,
    make_plan,
    process_settings,
    recorded_plan,
)

CPU = torch.device("cpu")
fused = pytest.mark.skipif(not extension.load(), reason=extension.status())
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


def test_every_part_of_a_plan_has_a_reason_and_can_be_read_back() -> None:
    plan, reasons = make_plan(vf.Config(device="cpu"))
    assert (plan.device, plan.precision, plan.feed) == ("cpu", "fp32", "device")
    assert (plan.compile, plan.is_torch_compiled, plan.bf16_loop) == ("off", False, "")
    assert not plan.cuda_graphs
    assert reasons.keys() == plan.recorded().keys()
    assert recorded_plan(plan.recorded(), vf.Config(device="cpu")) == plan


@no_gpu
def test_auto_chooses_the_cpu_and_says_why() -> None:
    plan, reasons = make_plan(vf.Config())
    assert (plan.device, reasons["device"], reasons["cuda_graphs"]) == ("cpu", "no CUDA device", "no CUDA device")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_named_dtype_implies_amp_and_is_used(dtype: str) -> None:
    assert make_plan(vf.Config(amp_dtype=dtype, device="cpu"))[0].precision == dtype


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_amp_on_a_cpu_is_bf16_only_with_native_units(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    precision, reason = auto_precision(CPU)
    assert precision == expected
    assert ("AMX" in reason) or ("AVX512-BF16" in reason)


@no_gpu
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda"}, "device: cuda is not there; this machine has no CUDA devices"),
        ({"device": "cuda:3"}, "device: cuda:3 is not there"),
        ({"cuda_graphs": "on"}, "--cuda-graphs on: cannot be had, no CUDA device"),
    ],
)
def test_an_explicit_wish_that_cannot_be_fulfilled_raises_an_error(settings: dict[str, str], message: str) -> None:
    with pytest.raises(RunError, match=message):
        make_plan(vf.Config(**settings))


@pytest.mark.parametrize("device", ["tpu", "mps", "cuda:x", ""])
def test_a_device_that_no_machine_has_is_a_mistake_in_the_settings(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device: expected auto, cpu, cuda or cuda:N, got '{device}'"):
        make_plan(vf.Config(device=device))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")


@pytest.mark.usefixtures("no_compiler")
def test_compile_needs_a_compiler() -> None:
    with pytest.raises(
        RunError, match=r"--compile: on a CPU it needs a C\+\+ compiler; /no/such/compiler was not found"
    ):
        make_plan(vf.Config(compile=True, step="autograd", device="cpu"))


def test_the_plan_for_a_gpu_names_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(registration, "HAS_TRITON", True)
    monkeypatch.setattr(dispatch, "HAS_C_COMPILER", True)
    assert plans._optimizer("autograd", gpu)[0] == "triton"
    require_compiler(gpu)
    monkeypatch.setattr(dispatch, "HAS_C_COMPILER", False)
    lack = "Triton needs a C compiler, gcc or clang or what CC names, and finds none"
    assert plans._optimizer("autograd", gpu) == ("torch", lack)
    assert plans._step(vf.Config(), gpu, 1) == ("autograd", f"of PyTorch's operators, which is slow: {lack}")
    with pytest.raises(RunError, match=f"--compile: on a GPU it needs Triton: {lack}"):
        require_compiler(gpu)


def test_a_plan_of_another_version_is_refused() -> None:
    config = vf.Config(device="cpu")
    plan = make_plan(config)[0].recorded()
    assert recorded_plan(plan, config).recorded() == plan
    for change in ({"speed": "warp"}, {"precision": "fp8"}, {"step": "magic"}, {"compile": "by hand"}):
        with pytest.raises(RunError, match=r"config.toml: \[plan\] is not one of this version's"):
            recorded_plan(plan | change, config)


def test_a_plan_of_an_earlier_version_continues_unchanged() -> None:
    """Resume a plan from before steps compiled ahead of time and loops for bfloat16 products existed."""
    config = vf.Config(device="cpu", compile=True, step="autograd")
    plan = make_plan(config)[0]
    earlier = {key: value for key, value in plan.recorded().items() if key != "bf16_loop"} | {"compile": True}
    assert recorded_plan(earlier, vf.Config(device="cpu", compile=True)) == plan  # not the fused step, today's default
    assert recorded_plan(earlier | {"compile": False}, config).compile == "off"


@fused
@pytest.mark.usefixtures("no_compiler")
def test_compile_means_the_step_compiled_ahead_of_time() -> None:
    plan, reasons = make_plan(vf.Config(device="cpu", compile=True))
    assert (plan.step, plan.compile, plan.is_torch_compiled) == ("fused", "ahead of time", False)
    assert reasons["compile"] == "the step is one C++ operator"
    assert make_plan(vf.Config(device="cpu", compile=True, step="fused"))[0] == plan
    assert recorded_plan(plan.recorded(), vf.Config(device="cpu", compile=True)) == plan


@fused
@pytest.mark.parametrize(
    ("loop", "batch", "processes", "precision", "reason"),
    [
        ("amx", 128, 1, "bf16", "this CPU has AMX"),
        ("avx512_bf16", 128, 1, "bf16", "this CPU has AVX512-BF16"),
        ("portable", 4096, 1, "fp32", "AMP is off: neither AMX nor AVX512-BF16 can be used here"),
        (
            "amx",
            4,
            1,
            "fp32",
            "AMP is off: for 4 images bf16 products save less than Adam's copies",
        ),
        ("amx", 8, 1, "bf16", "this CPU has AMX"),
        ("avx512_bf16", 16, 1, "fp32", "AMP is off: for 16 images"),
        ("amx", 8, 2, "fp32", "AMP is off: for 4 images"),
    ],
)
def test_amp_of_a_fused_step_is_bf16_if_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, loop: str, batch: int, processes: int, precision: str, reason: str
) -> None:
    monkeypatch.setattr(plans, "bf16_loops", lambda: [loop, "portable"])
    plan, reasons = make_plan(vf.Config(amp=True, batch_size=batch, device="cpu", step="fused"), processes)
    assert (plan.precision, plan.bf16_loop) == (precision, loop if precision == "bf16" else "")
    assert reasons["precision"].startswith(reason)


@fused
def test_a_resume_takes_a_loop_with_the_same_bits_or_else_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "bf16_loops", lambda: ["portable"])
    config = vf.Config(amp_dtype="bf16", device="cpu", step="fused")
    plan, reasons = make_plan(config)
    assert (plan.bf16_loop, reasons["bf16_loop"][:5]) == ("portable", "slow:")
    for here, before, after in (
        ("amx portable", "portable", "portable"),
        ("avx512_bf16 portable", "portable", "avx512_bf16"),  # the same bits
        ("portable portable_as_amx", "avx512_bf16", "portable"),
        ("amx avx512_bf16 portable", "avx512_bf16", "avx512_bf16"),
        ("avx512_bf16 portable portable_as_amx", "amx", "avx512_bf16"),
    ):
        monkeypatch.setattr(plans, "bf16_loops", here.split)
        assert recorded_plan(plan.recorded() | {"bf16_loop": before}, config).bf16_loop == after


@fused
def test_fp16_on_a_cpu_uses_the_autograd_step() -> None:
    plan, reasons = make_plan(vf.Config(amp_dtype="fp16", device="cpu"))
    assert (plan.step, plan.precision) == ("autograd", "fp16")
    assert reasons["step"] == "the fused step is float32 or bfloat16; fp16 on a CPU is autograd's"
    with pytest.raises(ConfigError, match="step: expected auto or autograd with amp_dtype 'fp16'"):
        vf.Config(amp_dtype="fp16", step="fused", device="cpu")


@fused
def test_several_processes_cannot_resume_a_fused_run_with_free_bits() -> None:
    config = vf.Config(device="cpu", free_bits=0.5)
    plan = make_plan(config)[0]
    assert plan.step == "fused"
    assert make_plan(config, processes=2)[0].step == "autograd"
    with pytest.raises(RunError, match="the run began with the fused step, which cannot be had: free bits"):
        recorded_plan(plan.recorded(), config, processes=2)


@fused
@pytest.mark.parametrize("flushed", [False, True])
def test_denormals_are_flushed_in_every_thread_and_only_during_the_run(flushed: bool) -> None:
    config = vf.Config(device="cpu", flush_denormals=True)
    tiny = torch.full((1 << 20,), 1e-39)  # enough for all threads
    set_flush_denormal(flushed)
    try:
        plan, reasons = make_plan(config)
        assert reasons["flush_denormals"] == "--flush-denormals"
        assert (tiny * 0.5 == 0).all() == flushed
        with process_settings(plan, vf.Config()):
            assert (tiny * 0.5 == 0).all()
        assert (tiny * 0.5 == 0).all() == flushed
    finally:
        set_flush_denormal(False)


def test_deterministic_algorithms_are_set_and_the_earlier_setting_is_restored() -> None:
    plan, _ = make_plan(vf.Config(device="cpu"))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with process_settings(plan, vf.Config(deterministic=True)):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_number_of_threads_is_set_and_restored() -> None:
    plan, _ = make_plan(vf.Config(device="cpu"))
    before = torch.get_num_threads()
    with process_settings(plan, vf.Config(threads=3)):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError, match="threads: expected 1 to 4096, got 0"):
        vf.Config(threads=0)
