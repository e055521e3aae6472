"""Tests of the public operators: shapes, dtypes, gradients, compilation, and agreement of all implementations."""

from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

import vae_fast as vf
from vae_fast.kernels import extension, nll, philox, random_bits, reference, sample_posterior

LIKELIHOODS = list(reference.LIKELIHOODS)
needs_library = pytest.mark.skipif(not extension.load(), reason=extension.status())


def batch(b: int = 3, d: int = 5, z: int = 4, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    target = torch.randint(0, 256, (b, d), generator=generator, dtype=torch.uint8)
    return {"logits": normal(b, d), "target": target, "mu": normal(b, z), "logvar": normal(b, z)}


def log_scale(likelihood: str, d: int = 5, dtype: torch.dtype = torch.float32) -> Tensor | None:
    return None if "bernoulli" in likelihood else torch.linspace(-2, -1, d, dtype=dtype)


@needs_library
@given(
    rows=st.integers(0, 70),
    columns=st.integers(0, 21),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**63 - 1),
    row_offset=st.integers(0, 2**33),
    stream=st.integers(0, 20),
)
def test_cpp_draws_the_bits_of_the_reference(rows: int, columns: int, seed: int, step: int, **where: int) -> None:
    reference, cpp = (random_bits(rows, columns, seed, step, impl=impl, **where) for impl in ("reference", "cpp"))
    assert cpp.dtype == torch.int64
    assert torch.equal(reference, cpp)


@needs_library
def test_random_bits_is_a_proper_operator() -> None:
    seed, step = torch.tensor(3), torch.tensor(4)
    torch.library.opcheck(torch.ops.vae_fast.random_bits, (seed, step, 5, 7, 0, 3))
    compiled = torch.compile(lambda s: random_bits(6, 3, seed, s), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(step), philox.random_bits(6, 3, seed, step))


@pytest.mark.parametrize(("seed", "step"), [(5, 6), (5, 0), (0, 0), (2**40, 3), (2**63 - 1, 2**32 - 1)])
def test_the_reference_compiles_to_the_same_bits(seed: int, step: int) -> None:
    """Compile with Inductor to C++, where an overflow of signed integers would be undefined."""
    compiled = torch.compile(lambda *a: random_bits(33, 6, *a, impl="reference"), fullgraph=True)
    arguments = (torch.tensor(seed), torch.tensor(step))
    assert torch.equal(compiled(*arguments), philox.random_bits(33, 6, *arguments))


def test_reparameterize_is_the_formula_with_the_specified_noise() -> None:
    mu, logvar = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    z = vf.reparameterize(mu, logvar, 11, 2, row_offset=4, stream=16)
    eps = philox.normals(random_bits(6, 8, 11, 2, row_offset=4, stream=16))[:, :5].view(2, 3, 5)
    torch.testing.assert_close(z, mu + (logvar / 2).exp() * eps.float())


@given(b=st.integers(0, 8), split=st.integers(0, 8), seed=st.integers(0, 2**63 - 1), step=st.integers(0, 2**62))
def test_a_split_batch_is_reparameterized_like_the_whole(b: int, split: int, seed: int, step: int) -> None:
    stats = torch.linspace(-1, 1, b * 6).view(b, 6)
    mu, logvar = stats.chunk(2, dim=-1)  # halves of one tensor: strided
    z = vf.reparameterize(mu, logvar, seed, step)
    split = min(split, b)
    parts = [
        vf.reparameterize(mu[part], logvar[part], torch.tensor(seed), torch.tensor(step), row_offset=start)
        for part, start in ((slice(0, split), 0), (slice(split, b), split))
    ]
    assert torch.equal(z, torch.cat(parts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_results_and_gradients_have_the_right_dtypes(dtype: torch.dtype) -> None:
    inputs = batch(dtype=dtype)
    leaves = [inputs[name].requires_grad_() for name in ("logits", "mu", "logvar")]
    assert vf.reparameterize(leaves[1], leaves[2], 0, 0).dtype == dtype
    elbo = vf.elbo_loss(**inputs)
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    assert {t.dtype for t in elbo} == {accumulated}
    assert {g.dtype for g in torch.autograd.grad(elbo.loss, leaves)} == {dtype}
    exact = vf.elbo_loss(**{k: v.double() if v.is_floating_point() else v for k, v in inputs.items()})
    # every term is computed in the accumulation dtype from the same inputs: a few roundings of each of 9 terms
    torch.testing.assert_close(elbo.nll.double(), exact.nll, rtol=20 * torch.finfo(accumulated).eps, atol=0)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("output", ["loss", "nll", "kl"])
def test_gradients_are_correct_in_float64(likelihood: str, output: str) -> None:
    inputs = batch(dtype=torch.float64)
    leaves = [inputs[name].requires_grad_() for name in ("logits", "mu", "logvar")]
    scale = log_scale(likelihood, dtype=torch.float64)
    leaves += [] if scale is None else [scale.requires_grad_()]

    def compute(logits: Tensor, mu: Tensor, logvar: Tensor, *scale: Tensor) -> Tensor:
        kwargs: dict[str, Any] = {"log_scale": scale[0]} if scale else {}
        elbo = vf.elbo_loss(logits, inputs["target"], mu, logvar, beta=0.7, likelihood=likelihood, **kwargs)
        result: Tensor = getattr(elbo, output)
        return result

    assert torch.autograd.gradcheck(compute, leaves)


def test_reparameterize_has_the_gradient_of_its_formula() -> None:
    mu, logvar = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda m, v: vf.reparameterize(m, v, 5, 6), (mu, logvar))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_nll_has_the_gradient_of_its_formula(likelihood: str) -> None:
    inputs = batch(dtype=torch.float64)
    scale = log_scale(likelihood, dtype=torch.float64)
    leaves = [inputs["logits"].requires_grad_(), *([] if scale is None else [scale.requires_grad_()])]

    def compute(logits: Tensor, *scale: Tensor) -> Tensor:
        kwargs: dict[str, Any] = {"log_scale": scale[0]} if scale else {}
        return nll(logits, inputs["target"], likelihood=likelihood, **kwargs)

    assert torch.autograd.gradcheck(compute, leaves)


def test_sample_posterior_has_the_gradient_of_its_formula() -> None:
    stats = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: tuple(sample_posterior(s, 5, 6)), stats)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_the_separate_operators_match_the_combined_ones(impl: str, dtype: torch.dtype) -> None:
    """Check that sample_posterior draws what reparameterize draws, and that its kl and nll are elbo_loss's terms."""
    inputs = batch(dtype=dtype)
    stats = torch.cat((inputs["mu"], inputs["logvar"]), dim=1).requires_grad_()
    logits = inputs["logits"].requires_grad_()
    sample = sample_posterior(stats, 3, 4, row_offset=5, stream=16, impl=impl)
    parts = (*sample, nll(logits, inputs["target"], impl=impl))
    mu, logvar = stats.chunk(2, dim=1)
    elbo = vf.elbo_loss(logits, inputs["target"], mu, logvar, impl=impl)
    whole = (vf.reparameterize(mu, logvar, 3, 4, row_offset=5, stream=16, impl=impl), elbo.kl, elbo.nll)
    grads = [
        torch.autograd.grad([t.double().square().sum() for t in terms], (stats, logits)) for terms in (parts, whole)
    ]
    for part, same in zip((*parts, *grads[0]), (*whole, *grads[1]), strict=True):
        assert part.dtype == same.dtype
        torch.testing.assert_close(part, same)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_value_that_is_not_used_contributes_nothing(impl: str) -> None:
    """Check that no gradient is NaN, which 0 times an overflowing e^logvar would be."""
    stats = torch.tensor([[1.0, 100.0]], requires_grad=True)
    z, kl = sample_posterior(stats, 3, 4, impl=impl)
    assert kl.isinf().all()
    (grad,) = torch.autograd.grad(z.sum(), stats, retain_graph=True)
    assert grad.isfinite().all()
    (grad,) = torch.autograd.grad(kl.sum(), stats)
    assert grad.tolist() == [[1.0, float("inf")]]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2, True, torch.tensor(0.5), torch.tensor([0.0, 1.0, 2.0])])
def test_the_loss_is_the_reduced_sum_of_its_terms(reduction: str, beta: float | Tensor) -> None:
    loss, nll, kl = vf.elbo_loss(**batch(), beta=beta, reduction=reduction)
    each = nll + beta * kl
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(vf.kl_per_dimension(*(batch()[k] for k in ("mu", "logvar"))).sum(1), kl)


def test_importance_weights_from_nll_and_sampled_densities_average_to_the_likelihood() -> None:
    """Average log w = -nll + log p(z) - log q(z|x) on a model with known p(x): x ~ N(z, 1), z ~ N(0, 1)."""
    x, k = torch.tensor(0.8, dtype=torch.float64), 200_000
    mu, logvar = torch.full((k, 1), 0.3, dtype=torch.float64), torch.full((k, 1), -0.2, dtype=torch.float64)
    z = vf.reparameterize(mu, logvar, 3, 0, stream=16)
    scale = torch.zeros((), dtype=torch.float64)
    nll = vf.elbo_loss(z, x.expand(k, 1), mu, logvar, likelihood="gaussian", log_scale=scale).nll
    log_p, log_q = torch.distributions.Normal(0, 1), torch.distributions.Normal(mu, (logvar / 2).exp())
    log_w = -nll + (log_p.log_prob(z) - log_q.log_prob(z)).sum(1)
    weights = log_w.exp()
    exact = torch.distributions.Normal(0, 2**0.5).log_prob(x).exp()
    assert abs(weights.mean() - exact) < 4.5 * weights.std() / k**0.5


@pytest.mark.parametrize(
    ("logits", "target"), [((2, 1, 3, 4), (2, 12)), ((2, 12), (2, 1, 3, 4)), ((2, 3, 4), (2, 3, 4))]
)
def test_either_side_may_be_flat_and_uint8_means_k_over_255(logits: tuple[int, ...], target: tuple[int, ...]) -> None:
    logit, x = torch.randn(logits), torch.randint(0, 256, target, dtype=torch.uint8)
    mu = logvar = torch.zeros(2, 3)
    from_bytes, from_floats = (vf.elbo_loss(logit, t, mu, logvar) for t in (x, x / 255))
    torch.testing.assert_close(from_bytes.nll, from_floats.nll)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logit.flatten(1), x.flatten(1) / 255, reduction="none"
    )
    torch.testing.assert_close(from_bytes.nll, expected.sum(1))


def test_an_empty_batch_works() -> None:
    empty = batch(b=0)
    scaled = vf.elbo_loss(**empty, likelihood="gaussian", log_scale=torch.zeros(5), reduction="none")
    assert scaled.nll.shape == (0,)
    assert vf.elbo_loss(**empty, reduction="none").loss.shape == (0,)
    assert vf.elbo_loss(**empty, reduction="sum").loss == 0
    assert vf.elbo_loss(**empty).loss.isnan()
    assert vf.reparameterize(empty["mu"], empty["logvar"], 0, 0).shape == (0, 4)
    assert [t.shape for t in sample_posterior(torch.zeros(0, 8), 0, 0)] == [(0, 4), (0,)]
    assert [t.shape for t in sample_posterior(torch.zeros(3, 0), 0, 0)] == [(3, 0), (3,)]
    assert nll(empty["logits"], empty["target"]).shape == (0,)


def test_a_compiler_does_not_see_the_value_of_a_counter() -> None:
    """Check that counters are opaque: with constants Inductor would not terminate on the reference's Philox."""
    called: set[str] = set()

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        called.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def draw(mu: Tensor) -> Tensor:
        return vf.reparameterize(mu, mu, 5, 6, impl="reference")

    mu = torch.randn(2, 3)
    assert torch.equal(torch.compile(draw, fullgraph=True, backend=backend)(mu), draw(mu))
    assert "vae_fast.scalar" in called
    torch.library.opcheck(torch.ops.vae_fast.scalar, (5, torch.device("cpu")))


def test_a_scale_that_is_a_float_is_as_exact_as_the_rest() -> None:
    inputs = batch(dtype=torch.float64)
    by_float, by_tensor = (
        vf.elbo_loss(**inputs, likelihood="gaussian", log_scale=scale).nll
        for scale in (-2.1, torch.tensor(-2.1, dtype=torch.float64))
    )
    assert torch.equal(by_float, by_tensor)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_target_that_requires_grad_makes_no_graph(impl: str) -> None:
    mu, x = torch.zeros(2, 3), torch.rand(2, 3, requires_grad=True)
    assert not vf.elbo_loss(mu, x, mu, mu, impl=impl).loss.requires_grad
    assert not nll(mu, x, impl=impl).requires_grad


class Stop(torch.autograd.Function):
    """A function whose backward returns no gradient rather than zeros."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_no_gradient_flows_back_if_none_arrives(impl: str) -> None:
    stats, logits = torch.randn(2, 6, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    mu, logvar = stats.chunk(2, dim=1)
    values = (
        sample_posterior(stats, 0, 0, impl=impl).z,
        sample_posterior(stats, 0, 0, impl=impl).kl,
        vf.elbo_loss(logits, torch.rand(2, 5), mu, logvar, impl=impl).loss,
    )
    for value in values:
        grads = torch.autograd.grad(Stop.apply(value).sum(), (stats, logits), allow_unused=True)
        assert all(g is None or not g.any() for g in grads)


def test_target_and_beta_get_no_gradient() -> None:
    inputs = batch()
    inputs["target"] = (inputs["target"] / 255).requires_grad_()
    beta = torch.ones((), requires_grad=True)
    loss = vf.elbo_loss(**{k: v.requires_grad_() for k, v in inputs.items()}, beta=beta).loss
    assert torch.autograd.grad(loss, [inputs["target"], beta], allow_unused=True) == (None, None)
    value = nll(inputs["logits"], inputs["target"]).sum()
    assert torch.autograd.grad(value, inputs["target"], allow_unused=True) == (None,)


def test_a_compiled_vae_step_has_no_graph_break_and_draws_the_same_noise() -> None:
    inputs = batch()

    def step(mu: Tensor, logvar: Tensor, seed: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        z = vf.reparameterize(mu, logvar, seed, step)
        loss = vf.elbo_loss(inputs["logits"], inputs["target"], mu, logvar).loss
        sample = sample_posterior(torch.cat((mu, logvar), dim=1), seed, step, row_offset=2)
        return z, loss, *sample, nll(inputs["logits"], inputs["target"])

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    arguments = (inputs["mu"], inputs["logvar"], torch.tensor(9), torch.tensor(1))
    for eager, traced in zip(step(*arguments), compiled(*arguments), strict=True):
        torch.testing.assert_close(eager, traced)


def test_betas_that_change_share_their_compilations() -> None:
    """Check the number of compilations: an operator with a constant number would be compiled again for each one."""
    inputs, compilations = batch(), 0

    def compiler(graph: torch.fx.GraphModule, _: list[Any]) -> Any:
        nonlocal compilations
        compilations += 1
        return make_boxed_func(graph.forward)

    def compute(beta: float) -> Tensor:
        return vf.elbo_loss(**inputs, beta=beta).loss

    compiled = torch.compile(compute, fullgraph=True, backend=aot_autograd(fw_compiler=compiler))
    for beta in (0.1, 0.2, 0.3, 1.0, 2.0):
        torch.testing.assert_close(compiled(beta), compute(beta))
    assert compilations == 2  # one for the first number, and one for any number
