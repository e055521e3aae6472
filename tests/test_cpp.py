"""The C++ operators against the reference in float64: values, gradients, extremes, threads, and torch.compile."""

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
from vae_fast.kernels import library, philox, random_bits, reference
from vae_fast.testing import (
    EPS,
    LAYOUTS,
    SEED,
    SHAPES,
    STEP,
    check_elbo,
    check_extremes,
    check_reparameterize,
    images,
    posterior,
    within,
)

pytestmark = pytest.mark.skipif(not library.load(), reason=library.status())


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
loops = pytest.mark.loops  # what depends on the instruction set


def scales(likelihood: str, d: int) -> list[Tensor | None]:
    if likelihood not in reference.SCALED:
        return [None]
    each = 0.3 * torch.randn(d, generator=torch.Generator().manual_seed(d)) - 1
    return [torch.tensor(-1.0), each, each.bfloat16()]


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_every_instruction_set(capability: str) -> None:
    """The machine's own runs in this process, lower ones, as PyTorch's setting forces them, in others."""
    if platform.machine() != "x86_64":
        pytest.skip("one instruction set on this machine")
    root = Path(__file__).parents[1]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    asked = "import vae_fast.kernels, torch; print(torch.ops.vae_fast.instruction_set())"
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "loops", "tests/test_cpp.py", "tests/test_adam.py"]
    name, outcome = (
        subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)
        for arguments in (["-c", asked], tests)
    )
    assert name.stdout.strip() == {"avx2": "AVX2", "default": "portable"}[capability]
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-1000:]


@loops
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), SHAPES)
def test_reparameterize_is_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype) -> None:
    check_reparameterize("cpp", *posterior(b, z, layout, dtype))


@loops
@pytest.mark.parametrize("likelihood", reference.LIKELIHOODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), SHAPES)
def test_elbo_is_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype, likelihood: str) -> None:
    for target, log_scale in product((torch.uint8, dtype), scales(likelihood, d)):
        check_elbo("cpp", *images(b, d, layout, target, dtype), *posterior(b, z, layout, dtype), likelihood, log_scale)


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
def test_any_shape(b: int, d: int, z: int, layout: str, dtype: torch.dtype, likelihood: str, row_offset: int) -> None:
    check_reparameterize("cpp", *posterior(b, z, layout), row_offset)
    for log_scale in scales(likelihood, d):
        check_elbo("cpp", *images(b, d, layout, dtype), *posterior(b, z, layout), likelihood, log_scale)


def test_dtypes_may_differ() -> None:
    (mu, _), (_, logvar) = posterior(5, 6, "halves", torch.bfloat16), posterior(5, 6, "halves")
    check_reparameterize("cpp", mu, logvar)
    check_elbo("cpp", *images(5, 9, "halves", torch.float16, torch.bfloat16), mu, logvar)


@loops
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_narrow_floats_are_converted_as_by_pytorch(dtype: torch.dtype) -> None:
    """Every narrow value to float32, and back from it, from its neighbours, from ties, and from any bits."""
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
    """On two million normals, of which some hundred lie beyond 4 and the angles cover a turn closely."""
    zero = torch.zeros(8192, 256)
    eps = vf.reparameterize(zero, zero, 1, 2, impl="cpp").double()
    exact = philox.normals(random_bits(8192, 256, 1, 2))
    assert ((eps - exact).abs() <= 1e-6 * exact.abs().clamp(min=1)).all()
    assert exact.abs().max() > 4.5


@loops
def test_exp_over_its_whole_range() -> None:
    """kl is (e^logvar - 1 - logvar) / 2 at mu = 0, and its gradient (e^logvar - 1) / 2: they show e^x within ulps."""
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
def test_extreme_values_come_out_as_in_the_reference(repeat: int, dtype: torch.dtype, likelihood: str) -> None:
    check_extremes("cpp", dtype, repeat, likelihood, scales(likelihood, 1)[0])


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
def test_a_split_batch_is_the_whole_bit_for_bit(b: int, z: int, split: int) -> None:
    mu, logvar = posterior(b, z, "halves")
    logits, target = images(b, 37, "contiguous", torch.uint8)
    parts = [slice(0, min(split, b)), slice(min(split, b), b)]
    z_parts = [
        vf.reparameterize(mu[part], logvar[part], SEED, STEP, row_offset=part.start, impl="cpp") for part in parts
    ]
    assert torch.equal(vf.reparameterize(mu, logvar, SEED, STEP, impl="cpp"), torch.cat(z_parts))
    whole = vf.elbo_loss(logits, target, mu, logvar, impl="cpp")
    elbo_parts = [vf.elbo_loss(logits[p], target[p], mu[p], logvar[p], impl="cpp") for p in parts]
    assert torch.equal(whole.nll, torch.cat([e.nll for e in elbo_parts]))
    assert torch.equal(whole.kl, torch.cat([e.kl for e in elbo_parts]))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("b", "d", "z"), [(333, 785, 301), (5, 50_001, 20_003)])
def test_threads_do_not_change_a_bit(b: int, d: int, z: int) -> None:
    mu, logvar = posterior(b, z, "halves")
    logits, target = images(b, d, "contiguous", torch.uint8)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        leaves = [t.detach().clone().requires_grad_() for t in (logits, mu, logvar)]
        sample = vf.reparameterize(leaves[1], leaves[2], SEED, STEP, impl="cpp")
        elbo = vf.elbo_loss(leaves[0], target, *leaves[1:], impl="cpp")
        grads = torch.autograd.grad(elbo.loss + sample.square().sum(), leaves)
        results.append((sample, *elbo[1:], *grads))
    for other in results[1:]:
        for one, another in zip(results[0], other, strict=True):
            assert torch.equal(one, another)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_are_proper_operators(layout: str) -> None:
    ops = torch.ops.vae_fast
    mu_data, logvar_data = posterior(6, 5, layout)
    logits, target = images(6, 11, layout, torch.uint8)
    mu, logvar, logits = (t.detach().requires_grad_() for t in (mu_data, logvar_data, logits))
    torch.library.opcheck(ops.reparameterize, (mu, logvar, SEED, STEP, 4, 16))
    torch.library.opcheck(ops.reparameterize_backward, (mu_data, logvar_data, SEED, STEP, 4, 16))
    gradients = torch.ones(6), torch.ones(()).expand(6)
    for likelihood, scale in (("bernoulli", None), ("gaussian", torch.zeros(())), ("gaussian", torch.zeros(11))):
        inputs = (logits, target, mu, logvar, None if scale is None else scale.requires_grad_(), likelihood)
        torch.library.opcheck(ops.elbo, inputs)
        plain = [t.detach() if isinstance(t, Tensor) else t for t in inputs]
        torch.library.opcheck(ops.elbo_backward, (*gradients, *plain))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_forward_and_backward_have_no_graph_break(backend: str, dynamic: bool) -> None:
    def step(stats: Tensor, logits: Tensor, target: Tensor, seed: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = stats.chunk(2, dim=-1)
        z = vf.reparameterize(mu, logvar, seed, step, impl="cpp")
        return z, vf.elbo_loss(logits + z.sum(1, keepdim=True), target, mu, logvar, impl="cpp").loss

    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=dynamic)
    for b in (6, 9):
        results = []
        for function in (step, compiled):
            generator = torch.Generator().manual_seed(b)
            stats = torch.randn(b, 8, generator=generator).requires_grad_()
            logits, target = images(b, 11, "contiguous", torch.uint8)
            logits.requires_grad_()
            z, loss = function(stats, logits, target, SEED, STEP)
            results.append((z, loss, *torch.autograd.grad(loss, (stats, logits))))
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(eager, traced)


def test_a_term_that_is_not_used_gives_no_gradient() -> None:
    """As in the reference, where an unused kl leaves mu alone; zero times an overflowing e^logvar would be NaN."""
    logits, target = images(2, 5, "contiguous", torch.uint8)
    leaves = [t.requires_grad_() for t in (logits, torch.zeros(2, 3), torch.full((2, 3), 100.0))]
    elbo = vf.elbo_loss(leaves[0], target, *leaves[1:], impl="cpp")
    grads = torch.autograd.grad(elbo.nll.sum(), leaves, allow_unused=True, retain_graph=True)
    assert grads[1:] == (None, None)
    assert grads[0] is not None
    grads = torch.autograd.grad(elbo.kl.sum(), leaves, allow_unused=True)
    assert grads[0] is None


def test_second_derivatives_raise() -> None:
    mu, logvar = (t.requires_grad_() for t in posterior(2, 3, "contiguous"))
    for value in (
        vf.reparameterize(mu, logvar, 0, 0, impl="cpp").square().sum(),
        vf.elbo_loss(mu, torch.zeros(2, 3), mu, logvar, impl="cpp").loss,
    ):
        (grad,) = torch.autograd.grad(value, logvar, create_graph=True)
        with pytest.raises(RuntimeError, match=r"derivative for vae_fast::.*_backward is not implemented"):
            grad.sum().backward()


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
def test_auto_leaves_the_rest_to_the_reference(change: dict[str, Any]) -> None:
    arguments = {"logits": M, "target": M, "mu": M, "logvar": M, **change}
    auto, exact = (vf.elbo_loss(**arguments, impl=impl) for impl in ("auto", "reference"))
    assert torch.equal(auto.loss, exact.loss)
    assert auto.loss.dtype == exact.loss.dtype


@pytest.mark.parametrize(
    ("operator", "change", "error", "message"),
    [
        ("reparameterize", {0: M.double()}, TypeError, "mu: expected float32, float16 or bfloat16, got Double"),
        ("reparameterize", {1: M[:2]}, ValueError, r"mu and logvar: expected the same shape \[..., Z\]"),
        ("reparameterize", {2: torch.tensor(1.0)}, ValueError, "seed: expected a 0-d int64 tensor, got Float"),
        ("reparameterize", {5: 2**32}, ValueError, "stream: expected a value in"),
        ("reparameterize_backward", {0: M[:2]}, ValueError, r"grad_z and logvar: expected the same shape"),
        ("elbo", {0: M.double()}, TypeError, "logits: expected float32, float16 or bfloat16, got Double"),
        ("elbo", {1: M.int()}, TypeError, "target: expected float32, float16 or bfloat16, got Int"),
        ("elbo", {4: M[0]}, ValueError, "log_scale: expected none with likelihood 'bernoulli'"),
        ("elbo", {5: "gaussian"}, ValueError, "log_scale: expected a tensor with likelihood 'gaussian'"),
        ("elbo", {4: M[:, 0], 5: "gaussian"}, ValueError, r"log_scale: expected \[\] or \[4\], got \[3\]"),
        ("elbo", {5: "poisson"}, ValueError, "likelihood: got the unknown 'poisson'"),
        ("elbo", {1: M[:, :2]}, ValueError, "target: expected as many rows and values as the logits'"),
        ("elbo", {2: M[:2]}, ValueError, r"mu and logvar: expected \[3, Z\] each"),
        ("elbo_backward", {1: torch.ones(2)}, ValueError, r"grad_kl: expected \[3\], got \[2\]"),
    ],
)
def test_operators_refuse(operator: str, change: dict[int, Any], error: type[Exception], message: str) -> None:
    arguments: list[Any] = [M, M, SEED, STEP, 0, 0] if "reparameterize" in operator else [M, M, M, M, None, "bernoulli"]
    if operator == "elbo_backward":
        arguments = [torch.ones(3), torch.ones(3), *arguments]
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(error, match=message):
        getattr(torch.ops.vae_fast, operator)(*arguments)
