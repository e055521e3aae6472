"""What is chosen on this machine, why, and what is refused."""

import pytest
import torch

import vae_fast as vf
from vae_fast import plan as plans
from vae_fast.errors import ConfigError, RunError
from vae_fast.kernels import choice, library, operators, set_flush_denormal
from vae_fast.plan import (
    auto_precision,
    environment,
    make_plan,
    process_settings,
    recorded_plan,
    require_compiler,
)

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


def test_every_part_has_a_reason_and_reads_back() -> None:
    plan, reasons = make_plan(vf.Config(device="cpu"))
    assert (plan.device, plan.precision, plan.feed) == ("cpu", "fp32", "device")
    assert not plan.compile
    assert not plan.cuda_graphs
    assert reasons.keys() == plan.recorded().keys()
    assert recorded_plan(plan.recorded(), vf.Config(device="cpu")) == plan


@no_gpu
def test_auto_takes_the_cpu_and_says_why() -> None:
    plan, reasons = make_plan(vf.Config())
    assert (plan.device, reasons["device"], reasons["cuda_graphs"]) == ("cpu", "no CUDA device", "no CUDA device")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_named_dtype_implies_amp_and_is_obeyed(dtype: str) -> None:
    assert make_plan(vf.Config(amp_dtype=dtype, device="cpu"))[0].precision == dtype


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_amp_on_a_cpu_is_bf16_only_where_the_units_are_native(
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
def test_an_explicit_wish_that_cannot_be_served_raises(settings: dict[str, str], message: str) -> None:
    with pytest.raises(RunError, match=message):
        make_plan(vf.Config(**settings))


@pytest.mark.parametrize("device", ["tpu", "mps", "cuda:x", ""])
def test_a_device_that_no_machine_has_is_a_mistake_in_the_settings(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device: expected auto, cpu, cuda or cuda:N, got '{device}'"):
        make_plan(vf.Config(device=device))


def test_compile_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(
        RunError, match=r"--compile: on a CPU it needs a C\+\+ compiler; /no/such/compiler was not found"
    ):
        make_plan(vf.Config(compile=True, device="cpu"))


def test_a_gpu_without_a_compiler_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(operators, "HAS_TRITON", True)
    monkeypatch.setattr(choice, "HAS_C_COMPILER", True)
    assert plans._optimizer("autograd", gpu)[0] == "triton"
    require_compiler(gpu)
    monkeypatch.setattr(choice, "HAS_C_COMPILER", False)
    lack = "Triton needs a C compiler, gcc or clang or what CC names, and finds none"
    assert plans._optimizer("autograd", gpu) == ("torch", lack)
    assert plans._step(vf.Config(), gpu, "bf16", 1) == ("autograd", f"of PyTorch's operators, which is slow: {lack}")
    with pytest.raises(RunError, match=f"--compile: on a GPU it needs Triton: {lack}"):
        require_compiler(gpu)


def test_a_plan_of_another_version_is_refused() -> None:
    config = vf.Config(device="cpu")
    plan = make_plan(config)[0].recorded()
    assert recorded_plan(plan, config).recorded() == plan
    for change in ({"speed": "warp"}, {"precision": "fp8"}, {"step": "magic"}):
        with pytest.raises(RunError, match=r"config.toml: \[plan\] is not one of this version's"):
            recorded_plan(plan | change, config)


@pytest.mark.skipif(not library.load(), reason=library.status())
def test_free_bits_that_one_process_began_with_the_fused_step_are_not_for_several() -> None:
    config = vf.Config(device="cpu", free_bits=0.5)
    plan = make_plan(config)[0]
    assert plan.step == "fused"
    assert make_plan(config, processes=2)[0].step == "autograd"
    with pytest.raises(RunError, match="the run began with the fused step, which cannot be had: free bits"):
        recorded_plan(plan.recorded(), config, processes=2)


def test_the_environment_names_what_numbers_depend_on() -> None:
    keys = {"vae_fast", "python", "torch", "device", "cpu_capability", "processes", "threads", "operators", "products"}
    assert environment(CPU).keys() == keys


@pytest.mark.skipif(not library.load(), reason=library.status())
@pytest.mark.parametrize("flushed", [False, True])
def test_denormals_are_flushed_in_every_thread_and_only_while_the_run_lasts(flushed: bool) -> None:
    config = vf.Config(device="cpu", flush_denormals=True)
    tiny = torch.full((1 << 20,), 1e-39)  # enough for all threads
    set_flush_denormal(flushed)
    try:
        plan, reasons = make_plan(config)
        assert reasons["flush_denormals"] == "--flush-denormals"
        assert (tiny * 0.5 == 0).all() == flushed
        with process_settings(plan, deterministic=False):
            assert (tiny * 0.5 == 0).all()
        assert (tiny * 0.5 == 0).all() == flushed
    finally:
        set_flush_denormal(False)


def test_deterministic_algorithms_are_asked_for_and_what_was_set_before_comes_back() -> None:
    plan, _ = make_plan(vf.Config(device="cpu"))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with process_settings(plan, deterministic=True):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
