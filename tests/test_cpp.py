"""The C++ operators against the reference in float64: values, gradients, extremes, threads, and torch.compile."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vae_fast as vf
from vae_fast.kernels import library, philox, random_bits
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), SHAPES)
def test_reparameterize_is_the_reference(b: int, d: int, z: int, layout: str) -> None:
    check_reparameterize("cpp", *posterior(b, z, layout))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), SHAPES)
def test_elbo_is_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype) -> None:
    check_elbo("cpp", *images(b, d, layout, dtype), *posterior(b, z, layout))


@given(
    b=st.integers(0, 9),
    d=st.integers(0, 70),
    z=st.integers(0, 40),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    row_offset=st.integers(0, 2**33),
)
def test_any_shape(b: int, d: int, z: int, layout: str, dtype: torch.dtype, row_offset: int) -> None:
    check_reparameterize("cpp", *posterior(b, z, layout), row_offset)
    check_elbo("cpp", *images(b, d, layout, dtype), *posterior(b, z, layout))


def test_leading_dimensions_are_rows_and_images_may_have_any_shape() -> None:
    mu, logvar = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 7, 5).mT
    check_reparameterize("cpp", mu, logvar)
    logits = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    target = torch.randint(0, 256, (2, 60), dtype=torch.uint8)
    check_elbo("cpp", logits, target, *posterior(2, 3, "halves"))
    grad = torch.autograd.grad(vf.elbo_loss(logits.requires_grad_(), target, mu[0, 0, :2], mu[0, 1, :2]).loss, logits)
    assert grad[0].shape == logits.shape


def test_the_noise_is_within_its_bound_of_the_specification() -> None:
    """On two million normals, of which some hundred lie beyond 4 and the angles cover a turn closely."""
    zero = torch.zeros(8192, 256)
    eps = vf.reparameterize(zero, zero, 1, 2, impl="cpp").double()
    exact = philox.normals(random_bits(8192, 256, 1, 2))
    assert ((eps - exact).abs() <= 1e-6 * exact.abs().clamp(min=1)).all()
    assert exact.abs().max() > 4.5


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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("repeat", [1, 40])  # scalar code and vectors
def test_extreme_values_come_out_as_in_the_reference(repeat: int, dtype: torch.dtype) -> None:
    check_extremes("cpp", dtype, repeat)


def test_a_nan_target_gives_nan() -> None:
    x = torch.full((1, 30), 0.5)
    x[0, 17] = torch.nan
    logits = torch.zeros(1, 30, requires_grad=True)
    nll = vf.elbo_loss(logits, x, torch.zeros(1, 2), torch.zeros(1, 2), impl="cpp").nll
    (grad,) = torch.autograd.grad(nll.sum(), logits)
    assert nll.isnan().all()
    assert torch.equal(grad.isnan(), x.isnan())


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
    torch.library.opcheck(ops.elbo, (logits, target, mu, logvar, None, "bernoulli"))
    gradients = torch.ones(6), torch.ones(()).expand(6)
    backward = (*gradients, logits.detach(), target, mu_data, logvar_data, None, "bernoulli")
    torch.library.opcheck(ops.elbo_backward, backward)


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
        ({"logvar": M.half()}, "it does not take logvar in torch.float16"),
        ({"mu": M.to("meta"), "logvar": M.to("meta")}, "it runs on a CPU, and mu is on meta"),
        ({"target": M.bfloat16()}, "it does not take target in torch.bfloat16"),
        ({"likelihood": "continuous_bernoulli"}, "it has likelihood='bernoulli' only, got 'continuous_bernoulli'"),
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


@pytest.mark.parametrize("change", [{"mu": M.double()}, {"target": M.double()}, {"likelihood": "continuous_bernoulli"}])
def test_auto_leaves_the_rest_to_the_reference(change: dict[str, Any]) -> None:
    arguments = {"logits": M, "target": M, "mu": M, "logvar": M, **change}
    auto, exact = (vf.elbo_loss(**arguments, impl=impl) for impl in ("auto", "reference"))
    assert torch.equal(auto.loss, exact.loss)
    assert auto.loss.dtype == exact.loss.dtype


@pytest.mark.parametrize(
    ("operator", "change", "error", "message"),
    [
        ("reparameterize", {0: M.double()}, TypeError, "mu: expected float32, got Double"),
        ("reparameterize", {1: M[:2]}, ValueError, r"mu and logvar: expected the same shape \[..., Z\]"),
        ("reparameterize", {2: torch.tensor(1.0)}, ValueError, "seed: expected a 0-d int64 tensor, got Float"),
        ("reparameterize", {5: 2**32}, ValueError, "stream: expected a value in"),
        ("reparameterize_backward", {0: M[:2]}, ValueError, r"grad_z and logvar: expected the same shape"),
        ("elbo", {0: M.half()}, TypeError, "logits: expected float32, got Half"),
        ("elbo", {1: M.int()}, TypeError, "target: expected uint8 or float32, got Int"),
        ("elbo", {1: M[:, :2]}, ValueError, "target: expected as many rows and values as the logits'"),
        ("elbo", {2: M[:2]}, ValueError, r"mu and logvar: expected \[3, Z\] each"),
        ("elbo_backward", {1: torch.ones(2)}, ValueError, r"grad_nll and grad_kl: expected \[3\] each"),
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
