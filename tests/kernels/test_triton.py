"""Tests of the Triton kernels without a GPU: interpreted in a separate process, and compiled for absent GPUs."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.kernels.finish_step_cases import Case
from tests.kernels.operator_cases import SEED, STEP, images, posterior

NUMPY = tuple(map(int, np.__version__.split(".")[:2]))
HAS_TRITON = importlib.util.find_spec("triton") is not None
TRITON = tuple(map(int, version("triton").split(".")[:2])) if HAS_TRITON else (0, 0)
pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")


@pytest.mark.skipif(TRITON < (3, 7) and NUMPY >= (2, 4), reason="the interpreter of Triton 3.6 fails with NumPy 2.4")
def test_the_interpreted_kernels_pass(pytestconfig: pytest.Config) -> None:
    """Run them in another process: kernels become interpreted when they are defined, which would affect other tests."""
    suite = Path(__file__).with_name("interpreted.py")
    alone = not hasattr(pytestconfig, "workerinput")  # it is single-threaded, and takes minutes
    two = ["-n", "2", "--dist", "worksteal"] if alone and importlib.util.find_spec("xdist") else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *two, "-m", pytestconfig.option.markexpr, str(suite)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]


TARGETS = ["sm_75", "sm_80", "sm_90", "sm_100", "gfx942"]
COMPILED = {("fp32", "sm_75"), ("bf16", "sm_90"), ("bf16", "gfx942")}
MOST_REGISTERS = 96  # per thread: five blocks of 128 threads on an SM with 65,536 registers
MOST_REGISTERS_OF_BOTH = 160  # three blocks


@pytest.mark.parametrize(
    ("dtype", "target"),
    [  # one without bfloat16 units, one with wgmma, and one of AMD's; the sweep has all
        pytest.param(*case, marks=[] if case in COMPILED else [pytest.mark.sweep])
        for case in product(("fp32", "bf16", "fp16"), TARGETS)
    ],
)
def test_compiled_kernels_use_few_registers_and_wide_accesses(dtype: str, target: str) -> None:
    """Check every kernel and variant for no spills, no local memory, few registers, and wide accesses."""
    from benchmarks.kernel_resources import resources, variants

    for variant in variants([dtype]):
        r = resources(variant.name, target)
        if (TRITON, target, variant.name) != ((3, 6), "sm_90", "elbo_bwd, discretized_logistic, fp32"):  # two words
            assert (r.spills, r.local) == (0, 0), variant.name
        both = re.match("nll_with_gradient, (continuous|discretized)", variant.name)  # value and derivatives at once
        assert r.registers <= (MOST_REGISTERS_OF_BOTH if both else MOST_REGISTERS), variant.name
        if variant.name == "random_bits":
            assert r.store == 16
            continue
        # CDNA's compiler loads 8 bytes of 4 half-precision values if a thread has no more contiguous ones
        half_on_cdna = target == "gfx942" and "fp32" not in variant.name
        widest = 8 if half_on_cdna else 16
        assert r.load >= widest, variant.name
        # elbo_fwd stores two floats per row, finish_step_sum three sums
        sums = next(
            (width for kernel, width in {"elbo_fwd": 4, "finish_step_sum": 8}.items() if kernel in variant.name), 0
        )
        assert r.store >= (sums or widest), variant.name


def test_a_white_pixel_is_exactly_1() -> None:
    """Check that -1/255 is not a factor: then 1 - k / 255 would be fused, and not be 0 for k = 255."""
    import triton

    from benchmarks.kernel_resources import TARGETS, variants

    for variant in variants(["fp32"]):
        if "bernoulli" in variant.name:
            ptx = triton.compile(variant.source(), target=TARGETS["sm_90"], options={"num_warps": 4}).asm["ptx"]
            assert "0f3B808081" in ptx  # 1/255
            assert "0fBB808081" not in ptx, variant.name


def test_the_recorded_table_has_every_variant() -> None:
    """Check the names only; the figures may differ between versions of Triton."""
    from benchmarks.kernel_resources import TABLE, variants

    table = TABLE.read_text(encoding="utf-8")
    assert all(f"| {variant.name} |" in table for variant in variants())


class NoDevice:
    """A stand-in for a driver, so that Triton's launcher gets as far as compiling the kernel."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the kernels that launches compile; nothing is launched."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    names: list[str] = []
    run = JITFunction.run

    def only_compile(self: JITFunction, *args: Any, **kwargs: Any) -> None:
        run(self, *args, **{**kwargs, "warmup": True})
        names.append(self.__name__)

    monkeypatch.setattr(JITFunction, "run", only_compile)
    monkeypatch.setattr(driver, "_active", NoDevice())
    return names


@pytest.mark.parametrize(
    ("b", "d", "z", "dtype", "layout"),
    [
        (128, 784, 20, torch.bfloat16, "halves"),
        (128, 784, 20, torch.float32, "contiguous"),
        (1, 1, 1, torch.float32, "contiguous"),
        (41, 401, 3, torch.float16, "strided"),
    ],
)
def test_launches_compile_their_kernels(
    compiled: list[str], b: int, d: int, z: int, dtype: torch.dtype, layout: str
) -> None:
    """Compile through Triton's specialisation of the arguments, which the interpreter does not do."""
    from vae_fast.kernels.triton.elbo import elbo_bwd_triton, elbo_fwd_triton
    from vae_fast.kernels.triton.finish_step import finish_step_triton
    from vae_fast.kernels.triton.nll_with_gradient import nll_with_gradient_triton
    from vae_fast.kernels.triton.philox import random_bits_triton
    from vae_fast.kernels.triton.reparameterize import reparameterize_bwd_triton, reparameterize_fwd_triton

    noise = (SEED, STEP, 2**33, 2**32 - 1)
    mu, logvar = posterior(b, z, layout, dtype)
    random_bits_triton(SEED, STEP, b, d, *noise[2:])
    for with_kl in (False, True):
        reparameterize_fwd_triton(mu, logvar, *noise, with_kl)
    out = torch.empty(b, 2 * z, dtype=dtype)
    for grad_z, grad_kl in ((mu, None), (mu, torch.ones(b)), (None, torch.ones(()).expand(b))):
        reparameterize_bwd_triton(grad_z, grad_kl, mu, logvar, *noise, (out[:, :z], out[:, z:]))
    logits, target = images(b, d, layout, torch.uint8, dtype)
    gradients = torch.ones(b), torch.ones(()).expand(b)
    for likelihood, log_scale in (("bernoulli", None), ("gaussian", torch.zeros(())), ("gaussian", torch.zeros(d))):
        elbo_fwd_triton(logits, target, mu, logvar, log_scale, likelihood)
        elbo_bwd_triton(*gradients, logits, target, mu, logvar, log_scale, likelihood)
        elbo_fwd_triton(logits, target, None, None, log_scale, likelihood)
        elbo_bwd_triton(gradients[0], None, logits, target, None, None, log_scale, likelihood)
        nll_with_gradient_triton(logits, target, torch.ones(()), log_scale, likelihood)
    case = Case({"dtype": dtype, "weight_decay": 0.1, "max_norm": 1.0, "penalty": b == 1}, "cpu", [(d, z), (b,)])
    finish_step_triton(*case.arguments(0))
    assert len(compiled) == 24
