"""Tests of the C++ operators against the reference in float64: values, gradients, extremes, threads, torch.compile."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vae_fast as vf
from tests.kernels.operator_cases import (
    DTYPES,
    EPS,
    LAYOUTS,
    SEED,
    SHAPES,
    STEP,
    check_elbo,
    check_extreme_scales,
    check_extremes,
    check_extremes_apart,
    check_nll,
    check_reparameterize,
    check_sample_posterior,
    encoded,
    images,
    posterior,
    scales,
    within,
)
from vae_fast.kernels import extension, nll, philox, random_bits, reference, sample_posterior

pytestmark = [
    pytest.mark.skipif(not extension.load(), reason=extension.status()),
    pytest.mark.usefixtures("poisoned"),
]


loops = pytest.mark.loops  # tests that depend on the instruction set


INSTRUCTION_SETS = {"avx2": "AVX2", "default": "portable"}


@pytest.mark.parametrize("capability", INSTRUCTION_SETS)
def test_the_loops_pass_for_every_instruction_set(capability: str) -> None:
    """Run the tests for lower instruction sets, forced by PyTorch's setting, in other processes."""
    if platform.machine() != "x86_64":
        pytest.skip("one instruction set on this machine")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    asked = "import vae_fast.kernels, torch; print(torch.ops.vae_fast.instruction_set())"
    files = [f"tests/kernels/test_{name}.py" for name in ("cpp", "adam", "mlp", "bf16_loops")]
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "loops", *files]
    if torch.ops.vae_fast.instruction_set() == INSTRUCTION_SETS[capability]:
        pytest.skip("the machine's own")
    name, outcome = (
        subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)
        for arguments in (["-c", asked], tests)
    )
    assert name.stdout.strip() == INSTRUCTION_SETS[capability]
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-1000:]


@loops
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), SHAPES)
def test_reparameterize_matches_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype) -> None:
    check_reparameterize("cpp", *posterior(b, z, layout, dtype))


@loops
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), [*SHAPES, (5, 1, 300), (3, 1, 0)])
def test_sample_posterior_matches_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype) -> None:
    check_sample_posterior("cpp", encoded(b, z, layout, dtype), row_offset=d)


@loops
@pytest.mark.parametrize("likelihood", reference.LIKELIHOODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), SHAPES)
def test_elbo_matches_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype, likelihood: str) -> None:
    for target, log_scale in product((torch.uint8, dtype), scales(likelihood, d)):
        pixels = images(b, d, layout, target, dtype)
        check_elbo("cpp", *pixels, *posterior(b, z, layout, dtype), likelihood, log_scale)
        check_nll("cpp", *pixels, likelihood, None if log_scale is None else log_scale.bfloat16())


@loops
@given(
    b=st.integers(0, 9),
    d=st.integers(0, 70),
    z=st.integers(0, 40),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    likelihood=st.sampled_from(list(reference.LIKELIHOODS)),
    row_offset=st.integers(0, 2**33),
)
def test_results_match_for_any_shape(
    b: int, d: int, z: int, layout: str, dtype: torch.dtype, likelihood: str, row_offset: int
) -> None:
    check_reparameterize("cpp", *posterior(b, z, layout), row_offset)
    check_sample_posterior("cpp", encoded(b, z, layout), row_offset)
    for log_scale in scales(likelihood, d):
        check_elbo("cpp", *images(b, d, layout, dtype), *posterior(b, z, layout), likelihood, log_scale)
        check_nll("cpp", *images(b, d, layout, dtype), likelihood, log_scale)


def test_dtypes_may_differ() -> None:
    (mu, _), (_, logvar) = posterior(5, 6, "halves", torch.bfloat16), posterior(5, 6, "halves")
    check_reparameterize("cpp", mu, logvar)
    check_elbo("cpp", *images(5, 9, "halves", torch.float16, torch.bfloat16), mu, logvar)


@loops
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_narrow_floats_are_converted_as_by_pytorch(dtype: torch.dtype) -> None:
    """Convert every narrow value to float32, and back from it, from its neighbours, from ties and from random bits."""
    nll_backward = torch.ops.vae_fast.nll_backward
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(-1, 1)
    count = len(every)
    by_logit, _ = nll_backward(torch.ones(count), torch.zeros(count, 1), every, None, "bernoulli")  # 1/2 - x
    assert torch.equal(by_logit.nan_to_num(7), (0.5 - every.float()).nan_to_num(7))

    wide = every.float().flatten()
    some = torch.randint(-(2**31), 2**31, (200_000,), generator=torch.Generator().manual_seed(0))
    sources = [wide, wide.nextafter(torch.tensor(1e38)), (wide[:-1] + wide[1:]) / 2, some.int().view(torch.float32)]
    values = torch.cat([s[s.abs() < 1e38] for s in sources] + [torch.tensor([torch.inf, -torch.inf, torch.nan])])
    count = len(values)
    logits = torch.zeros(count, 1, dtype=dtype)
    by_logit, _ = nll_backward(2 * values, logits, torch.zeros(count, 1), None, "bernoulli")  # the values themselves
    exact = values.to(dtype)
    same = by_logit.flatten().view(torch.int16) == exact.view(torch.int16)
    assert (same | (by_logit.flatten().isnan() & exact.isnan())).all()


def test_leading_dimensions_are_rows_and_images_may_have_any_shape() -> None:
    mu, logvar = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 7, 5).mT
    check_reparameterize("cpp", mu, logvar)
    logits = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    target = torch.randint(0, 256, (2, 60), dtype=torch.uint8)
    check_elbo("cpp", logits, target, *posterior(2, 3, "halves"))
    grad = torch.autograd.grad(vf.elbo_loss(logits.requires_grad_(), target, mu[0, 0, :2], mu[0, 1, :2]).loss, logits)
    assert grad[0].shape == logits.shape


@loops
def test_the_noise_is_within_its_bound_of_the_specification() -> None:
    """Check two million normals; about a hundred exceed 4, and the angles cover a turn closely."""
    zero = torch.zeros(8192, 256)
    eps = vf.reparameterize(zero, zero, 1, 2, impl="cpp").double()
    exact = philox.normals(random_bits(8192, 256, 1, 2))
    assert ((eps - exact).abs() <= 1e-6 * exact.abs().clamp(min=1)).all()
    assert exact.abs().max() > 4.5


@loops
def test_exp_is_accurate_over_its_whole_range() -> None:
    """Check e^x within ulps through kl, (e^logvar - 1 - logvar) / 2 at mu = 0, and its gradient, (e^logvar - 1) / 2."""
    logvar = torch.linspace(-110, 88.7, 200_001).view(-1, 1).requires_grad_()
    kl = vf.elbo_loss(torch.zeros(len(logvar), 1), torch.zeros(len(logvar), 1), torch.zeros_like(logvar), logvar).kl
    (grad,) = torch.autograd.grad(kl.sum(), logvar)
    exact = (logvar.detach().double().exp() - 1) / 2
    within(grad, exact, 3, exact.abs() + 0.5)
    tiny = torch.linspace(-208, -150, 1001).view(-1, 1)  # e^(logvar / 2) down to the smallest denormals
    noise = vf.reparameterize(torch.zeros_like(tiny), tiny, 1, 2, impl="cpp").double()
    exact = vf.reparameterize(torch.zeros_like(tiny).double(), tiny.double(), 1, 2)
    torch.testing.assert_close(noise, exact, rtol=8 * EPS, atol=2.0**-146)


@loops
@pytest.mark.parametrize("likelihood", reference.LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("repeat", [1, 40])  # scalar code and vectors
def test_extreme_values_match_the_reference(repeat: int, dtype: torch.dtype, likelihood: str) -> None:
    check_extremes("cpp", dtype, repeat, likelihood, scales(likelihood, 1)[0])
    check_extremes_apart("cpp", dtype, repeat, likelihood, scales(likelihood, 1)[0])


@loops
@pytest.mark.parametrize("likelihood", reference.SCALED)
def test_extreme_scales_match_the_reference(likelihood: str) -> None:
    check_extreme_scales("cpp", likelihood)


def test_a_nan_target_gives_nan() -> None:
    x = torch.full((1, 30), 0.5)
    x[0, 17] = torch.nan
    logits = torch.zeros(1, 30, requires_grad=True)
    nll = vf.elbo_loss(logits, x, torch.zeros(1, 2), torch.zeros(1, 2), impl="cpp").nll
    (grad,) = torch.autograd.grad(nll.sum(), logits)
    assert nll.isnan().all()
    assert torch.equal(grad.isnan(), x.isnan())


@loops
@given(b=st.integers(0, 40), z=st.integers(1, 30), split=st.integers(0, 40))
def test_a_split_batch_matches_the_whole_bit_for_bit(b: int, z: int, split: int) -> None:
    stats, (logits, target) = encoded(b, z, "halves"), images(b, 37, "contiguous", torch.uint8)
    mu, logvar = stats.chunk(2, dim=1)
    parts = [slice(0, min(split, b)), slice(min(split, b), b)]
    whole, elbo = (
        sample_posterior(stats, SEED, STEP, impl="cpp"),
        vf.elbo_loss(logits, target, mu, logvar, impl="cpp"),
    )
    samples = [sample_posterior(stats[p], SEED, STEP, row_offset=p.start, impl="cpp") for p in parts]
    assert torch.equal(whole.z, torch.cat([sample.z for sample in samples]))
    assert torch.equal(whole.kl, torch.cat([sample.kl for sample in samples]))
    assert torch.equal(whole.z, vf.reparameterize(mu, logvar, SEED, STEP, impl="cpp"))
    elbos = [vf.elbo_loss(logits[p], target[p], mu[p], logvar[p], impl="cpp") for p in parts]
    assert torch.equal(elbo.nll, torch.cat([e.nll for e in elbos]))
    assert torch.equal(elbo.kl, torch.cat([e.kl for e in elbos]))
    assert torch.equal(elbo.nll, nll(logits, target, impl="cpp"))
    assert torch.equal(elbo.kl, whole.kl)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("b", "d", "z"), [(333, 785, 301), (5, 50_001, 20_003)])
def test_threads_do_not_change_a_bit(b: int, d: int, z: int) -> None:
    stats, (logits, target) = encoded(b, z, "halves"), images(b, d, "contiguous", torch.uint8)
    log_scale = torch.linspace(-2, -1, d)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        leaves = [t.detach().clone().requires_grad_() for t in (logits, stats, log_scale)]
        sample = sample_posterior(leaves[1], SEED, STEP, impl="cpp")
        mu, logvar = leaves[1].chunk(2, dim=1)
        elbo = vf.elbo_loss(leaves[0], target, mu, logvar, likelihood="gaussian", log_scale=leaves[2], impl="cpp")
        grads = torch.autograd.grad(elbo.loss + sample.z.square().sum() + sample.kl.sum(), leaves)
        results.append((*sample, *elbo[1:], *grads))
    for other in results[1:]:
        for one, another in zip(results[0], other, strict=True):
            assert torch.equal(one, another)


M = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": M.double()}, "it does not take mu in torch.float64"),
        ({"mu": M.to("meta"), "logvar": M.to("meta")}, "it runs on a CPU, and mu is on meta"),
        ({"target": M.double()}, "it does not take target in torch.float64"),
    ],
)
def test_an_explicit_choice_works_or_raises(change: dict[str, Any], message: str) -> None:
    arguments = {"logits": M, "target": M, "mu": M, "logvar": M, **change}
    if {"mu", "logvar"} & change.keys():
        device = arguments["mu"].device
        counters = {name: torch.zeros((), dtype=torch.int64, device=device) for name in ("seed", "step")}
        with pytest.raises(RuntimeError, match=f"impl='cpp' of reparameterize is not available: {message}"):
            vf.reparameterize(arguments["mu"], arguments["logvar"], **counters, impl="cpp")
    if all(value.device.type == "cpu" for value in arguments.values() if isinstance(value, Tensor)):
        with pytest.raises(RuntimeError, match=f"impl='cpp' of elbo_loss is not available: {message}"):
            vf.elbo_loss(**arguments, impl="cpp")
        vf.elbo_loss(**arguments)  # auto goes to the reference


@pytest.mark.parametrize("change", [{"mu": M.double()}, {"target": M.double()}])
def test_auto_uses_the_reference_for_other_dtypes(change: dict[str, Any]) -> None:
    arguments = {"logits": M, "target": M, "mu": M, "logvar": M, **change}
    auto, exact = (vf.elbo_loss(**arguments, impl=impl) for impl in ("auto", "reference"))
    assert torch.equal(auto.loss, exact.loss)
    assert auto.loss.dtype == exact.loss.dtype
