"""The public operators: shapes, dtypes, gradients, what they refuse, and that all implementations agree."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vae_fast as vf
from vae_fast.kernels import library, philox, random_bits

LIKELIHOODS = ["bernoulli", "continuous_bernoulli", "gaussian", "discretized_logistic"]
needs_library = pytest.mark.skipif(not library.load(), reason=library.status())


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
    """Through Inductor to C++, where an overflow of signed integers would be undefined."""
    compiled = torch.compile(lambda *a: random_bits(33, 6, *a, impl="reference"), fullgraph=True)
    arguments = (torch.tensor(seed), torch.tensor(step))
    assert torch.equal(compiled(*arguments), philox.random_bits(33, 6, *arguments))


def test_reparameterize_is_the_formula_with_the_specified_noise() -> None:
    mu, logvar = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    z = vf.reparameterize(mu, logvar, 11, 2, row_offset=4, stream=16)
    eps = philox.normals(random_bits(6, 8, 11, 2, row_offset=4, stream=16))[:, :5].view(2, 3, 5)
    torch.testing.assert_close(z, mu + (logvar / 2).exp() * eps.float())


@given(b=st.integers(0, 8), split=st.integers(0, 8), seed=st.integers(0, 2**63 - 1), step=st.integers(0, 2**62))
def test_a_split_batch_is_reparameterized_as_the_whole(b: int, split: int, seed: int, step: int) -> None:
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
def test_dtypes_of_results_and_gradients(dtype: torch.dtype) -> None:
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
def test_gradients_in_float64(likelihood: str, output: str) -> None:
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


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("beta", [0.5, torch.tensor(0.5), torch.tensor([0.0, 1.0, 2.0])])
def test_the_loss_is_the_reduced_sum_of_its_terms(reduction: str, beta: float | Tensor) -> None:
    loss, nll, kl = vf.elbo_loss(**batch(), beta=beta, reduction=reduction)
    each = nll + beta * kl
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(vf.kl_per_dimension(*(batch()[k] for k in ("mu", "logvar"))).sum(1), kl)


def test_importance_weights_from_nll_and_sampled_densities_average_to_the_likelihood() -> None:
    """log w = -nll + log p(z) - log q(z|x) on a model whose p(x) is known: x ~ N(z, 1), z ~ N(0, 1)."""
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


def test_an_empty_batch() -> None:
    empty = batch(b=0)
    scaled = vf.elbo_loss(**empty, likelihood="gaussian", log_scale=torch.zeros(5), reduction="none")
    assert scaled.nll.shape == (0,)
    assert vf.elbo_loss(**empty, reduction="none").loss.shape == (0,)
    assert vf.elbo_loss(**empty, reduction="sum").loss == 0
    assert vf.elbo_loss(**empty).loss.isnan()
    assert vf.reparameterize(empty["mu"], empty["logvar"], 0, 0).shape == (0, 4)


def test_target_and_beta_get_no_gradient() -> None:
    inputs = batch()
    inputs["target"] = (inputs["target"] / 255).requires_grad_()
    beta = torch.ones((), requires_grad=True)
    loss = vf.elbo_loss(**{k: v.requires_grad_() for k, v in inputs.items()}, beta=beta).loss
    assert torch.autograd.grad(loss, [inputs["target"], beta], allow_unused=True) == (None, None)


M = torch.zeros(3, 4)
REFUSED = [
    ({"logits": [1.0]}, TypeError, "logits: expected a tensor, got list"),
    ({"logits": torch.zeros(3, 5, dtype=torch.int32)}, TypeError, "logits: expected a floating dtype, got torch.int32"),
    ({"logits": torch.zeros(3)}, ValueError, r"logits: expected \[B, ...\], got \[3\]"),
    ({"target": torch.zeros(3, 5, dtype=torch.bool)}, TypeError, "target: expected uint8 or a floating dtype"),
    ({"target": torch.zeros(3, 6)}, ValueError, r"target: expected the logits' shape \[3, 5\] .* got \[3, 6\]"),
    ({"target": torch.zeros(5, 3)}, ValueError, r"target: .* got \[5, 3\]"),
    ({"mu": torch.zeros(2, 4)}, ValueError, r"mu and logvar: expected \[3, Z\] each, got \[2, 4\] and \[3, 4\]"),
    ({"logvar": torch.zeros(3, 5)}, ValueError, r"mu and logvar: .* got \[3, 4\] and \[3, 5\]"),
    ({"mu": torch.zeros(3, 4, device="meta")}, ValueError, "mu: expected a tensor on cpu, got one on meta"),
    ({"beta": None}, TypeError, "beta: expected a float or a tensor, got NoneType"),
    ({"beta": torch.zeros(2)}, ValueError, r"beta: expected a float or a tensor of shape \[\] or \[B\], got \[2\]"),
    ({"likelihood": "poisson"}, ValueError, "likelihood: expected one of 'bernoulli', .* got 'poisson'"),
    ({"reduction": "max"}, ValueError, "reduction: expected one of 'mean', 'sum', 'none', got 'max'"),
    ({"log_scale": 0.0}, ValueError, "log_scale: expected None with likelihood='bernoulli', got 0.0"),
    ({"likelihood": "gaussian"}, ValueError, "log_scale: expected a float or tensor with likelihood='gaussian'"),
    ({"likelihood": "gaussian", "log_scale": torch.zeros(4)}, ValueError, r"log_scale: expected shape \[\] or \[5\]"),
    ({"impl": "cuda"}, ValueError, "impl: expected one of 'auto', 'triton', 'cpp', 'reference', got 'cuda'"),
    ({"impl": "triton"}, RuntimeError, "impl='triton' of elbo_loss is not available: (it runs on a GPU|Triton is not)"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_elbo_loss_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vf.elbo_loss(**{**batch(), **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mu": torch.zeros(3, 5)}, ValueError, r"mu and logvar: expected the same shape \[..., Z\], got \[3, 5\]"),
        ({"mu": M.int()}, TypeError, "mu: expected a floating dtype"),
        ({"seed": -1}, ValueError, "seed: expected 0 <= seed < 2\\^63, got -1"),
        ({"seed": 2**63}, ValueError, "seed: expected"),
        ({"step": 1.0}, TypeError, "step: expected an int or a 0-d int64 tensor, got float"),
        ({"step": torch.zeros(1, dtype=torch.int64)}, ValueError, r"step: expected a 0-d int64 tensor, got .* \[1\]"),
        ({"seed": torch.zeros((), dtype=torch.int32)}, ValueError, "seed: expected a 0-d int64 tensor"),
        ({"stream": 2**32}, ValueError, r"stream: expected an int in \[0, 2\^32\), got 4294967296"),
        ({"row_offset": 1.5}, TypeError, "row_offset: expected an int, got float"),
        ({"row_offset": -1}, ValueError, r"row_offset: expected an int in \[0, 2\^63\), got -1"),
        (
            {"impl": "triton"},
            RuntimeError,
            "impl='triton' of reparameterize is not available: (it runs on a GPU|Triton is not)",
        ),
    ],
)
def test_reparameterize_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vf.reparameterize(**{"mu": M, "logvar": M, "seed": 0, "step": 0, **change})


def test_a_compiled_vae_step_has_no_graph_break_and_draws_the_same_noise() -> None:
    inputs = batch()

    def step(mu: Tensor, logvar: Tensor, seed: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        z = vf.reparameterize(mu, logvar, seed, step)
        return z, vf.elbo_loss(inputs["logits"], inputs["target"], mu, logvar).loss

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    arguments = (inputs["mu"], inputs["logvar"], torch.tensor(9), torch.tensor(1))
    for eager, traced in zip(step(*arguments), compiled(*arguments), strict=True):
        torch.testing.assert_close(eager, traced)
