"""Tests of the whole step in C++ against autograd in float64, and against its own gradients followed by `adam_`."""

import gc
from collections.abc import Iterator
from math import inf, nan

import pytest
import torch

from tests.kernels.mlp_cases import BF16, EPS, LR, PRODUCTS, SEED, STEP, Case, Run, same
from vae_fast.data.transforms import bernoulli_sample
from vae_fast.kernels import adam_, extension, fused_mlp
from vae_fast.kernels.reference import SKIPPED, TERM_NAMES

pytestmark = pytest.mark.skipif(not extension.load(), reason=extension.status())
loops = pytest.mark.loops  # tests that depend on the instruction set
products = pytest.mark.parametrize("products", PRODUCTS)


@loops
@pytest.mark.parametrize("batch", [1, 3, 17, 48, 128, 130, 300])  # 48: whole panels; 300: an uneven group at the end
@pytest.mark.parametrize("hidden", [(), (50,), (33, 20)])
def test_gradients_match_the_textbook(batch: int, hidden: tuple[int, ...]) -> None:
    Case(batch, hidden=hidden).check()


@loops
@pytest.mark.parametrize("activation", fused_mlp.FUSED_ACTIVATIONS)
def test_gradients_match_for_every_activation(activation: str) -> None:
    case = Case(40, hidden=(33, 20), activation=activation)
    for p in case.parameters:
        p.mul_(3)  # so that some activations saturate
    case.check()


@loops
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_gradients_match_for_a_network_of_mnists_size(dtype: torch.dtype) -> None:
    Case(130, 784, (400,), 20, dtype=dtype).check(row_offset=2**33, stream=16)


@pytest.mark.parametrize("free_bits", [0.01, 0.03, 10.0])  # all, some and none of 7 dimensions exceed it
@pytest.mark.parametrize("batch", [1, 70])
def test_gradients_match_with_free_bits_and_beta(free_bits: float, batch: int) -> None:
    case = Case(batch, free_bits=free_bits)
    case.check()
    case.beta.zero_()
    case.check()


LIKELIHOODS = [
    ("continuous_bernoulli", None), ("gaussian", "learned"), ("gaussian", "per-value"), ("gaussian", 0.2),
    ("discretized_logistic", "learned"), ("discretized_logistic", "per-channel"), ("discretized_logistic", 0.05),
]  # fmt: skip


@loops
@pytest.mark.parametrize(("likelihood", "scale"), LIKELIHOODS)
@pytest.mark.parametrize("batch", [3, 130])
def test_gradients_match_for_every_likelihood(likelihood: str, scale: float | str | None, batch: int) -> None:
    case = Case(batch, 3 * 37, likelihood=likelihood, scale=scale, channels=3)
    for p in case.parameters[8:]:  # logs of different scales, one of them below what counts
        p.copy_(torch.linspace(-7 if len(p) > 1 else -1, 0, len(p)))
    case.check()


@pytest.mark.parametrize(("likelihood", "scale"), LIKELIHOODS)
def test_gradients_match_for_every_likelihood_in_bf16(likelihood: str, scale: float | str | None) -> None:
    Case(130, 3 * 37, products="portable", likelihood=likelihood, scale=scale, channels=3).check_bf16()


def test_logits_of_any_size_have_the_reference_loss_and_gradient() -> None:
    """Check far from 0, near it and at the series' end, where the loop computes the constant's log in another way."""
    case = Case(16, 16, hidden=(), latent=1, likelihood="continuous_bernoulli")
    for p in case.parameters:
        p.zero_()
    case.parameters[-1].copy_(
        torch.tensor([-60, -9, -2, -0.51, -0.49, -1e-3, 0, 1e-6, 0.3, 0.49, 0.51, 1, 3, 20, 60, 88])
    )
    case.check()


def test_python_and_cpp_use_the_same_names_for_a_steps_terms() -> None:
    assert tuple(torch.ops.vae_fast.step_terms()) == TERM_NAMES


def test_without_rows_the_images_are_the_batch() -> None:
    case = Case(20, pixels=1, hidden=(1,), latent=1)
    assert case.rows is not None
    chosen = case.gradients()
    case.images, case.rows = case.batch().contiguous(), None
    assert same(chosen, case.gradients())


@loops
@products
@pytest.mark.parametrize("batch", [3, 130])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"max_norm": 0.1}, {"max_norm": 1e6}])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_step_equals_its_gradients_followed_by_adam(
    batch: int, settings: dict[str, float], products: str, likelihood: str
) -> None:
    """Check this bit for bit: Adam within the product is the same code, on gradients that are the same sums."""
    case = Case(batch, products=products, likelihood=likelihood)
    ours = case.state()
    theirs = ours.copy()
    for _ in range(3):
        case.step(ours, **settings)
        terms = case.terms.clone()
        case.parameters = theirs.parameters
        adam_(*theirs, case.gradients(), lr=float(torch.tensor(LR)), **settings)
        assert same(ours.tensors(), theirs.tensors())
        assert torch.equal(terms, case.terms)
    assert ours.count == 6


@pytest.mark.parametrize(("scale", "taken"), [(1e15, True), (1e25, False), (3e38, False)])
@pytest.mark.parametrize("products", [fused_mlp.FLOAT32, "portable"])
def test_gradients_that_may_overflow_wait_for_the_exact_norm(scale: float, taken: bool, products: str) -> None:
    """Use a finite loss: the decoder's hidden layer is 0, and its gradient is as large as the weights after it."""
    case = Case(2, activation="tanh", products=products)
    decoder = case.parameters[4:]
    for p in decoder:
        p.zero_()
    decoder[2].fill_(scale)
    case.images.zero_()
    state = case.state()
    before = state.copy()
    norm = adam_(*before, case.gradients(), lr=float(torch.tensor(LR)))
    case.step(state)
    assert bool(norm.isfinite()) == taken
    assert case.terms[SKIPPED] == (not taken)
    assert same(state.tensors(), before.tensors())
    assert state.count == 3 + taken


@pytest.mark.parametrize("max_norm", [inf, 1.0])
@pytest.mark.parametrize("cause", ["pixel", "loss", "logvar", "beta"])
@pytest.mark.parametrize("products", [fused_mlp.FLOAT32, "portable"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_a_loss_that_is_not_finite_changes_nothing(cause: str, max_norm: float, products: str, likelihood: str) -> None:
    case = Case(20, dtype=torch.float32, products=products, likelihood=likelihood)
    assert case.rows is not None
    if cause == "pixel":
        case.images[case.rows[-1], -1] = nan
    elif cause == "loss":  # its gradients are finite: sigmoid(3e38) - x
        case.parameters[7].fill_(3e38)
    elif cause == "logvar":
        case.parameters[3][-1] = 200.0
    else:
        case.beta.fill_(inf)
    state = case.state()
    before = [t.clone() for t in state.tensors()]
    case.step(state, max_norm=max_norm)
    assert same(state.tensors(), before)
    assert case.terms.tolist() == [0, 0, 0, 0, 1]
    assert all(g.isnan().all() for g in case.gradients())
    assert case.terms.tolist() == [0, 0, 0, 0, 1]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@products
@pytest.mark.parametrize("free_bits", [0.0, 0.02])
@pytest.mark.parametrize("batch", [3, 40, 130, 300])
@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same_result(batch: int, free_bits: float, products: str) -> None:
    """Check the ways to divide the work: the batch, the features if there are few images, or both."""
    results = []
    for n in (1, 2, 3, 5):
        torch.set_num_threads(n)
        kind = ("gaussian", "per-value") if batch == 130 else ("bernoulli", None)
        case = Case(batch, 93, (120, 60), free_bits=free_bits, products=products, likelihood=kind[0], scale=kind[1])
        state = case.state()
        case.step(state)
        results.append([*state.tensors(), case.terms.float()])
    assert all(same(results[0], result) for result in results[1:])


@pytest.mark.parametrize(("products", "bound"), [(fused_mlp.FLOAT32, 32 * EPS), ("portable", BF16)])
def test_gradients_of_processes_that_share_a_batch_add_up(products: str, bound: float) -> None:
    """Check up to the order of sums, and in bfloat16 up to the rounding of a part's gradient."""
    case = Case(50, products=products)
    whole, rows = case.gradients(), case.rows
    assert rows is not None
    case.rows = rows[:20]
    sums = case.gradients(weight=0.4)
    case.rows = rows[20:].contiguous()
    for total, first, second in zip(whole, sums, case.gradients(weight=0.6, row_offset=20), strict=True):
        size = float(total.abs().max())
        torch.testing.assert_close(first + second, total, rtol=0, atol=bound * size)


@pytest.mark.parametrize("products", [fused_mlp.FLOAT32, "portable"])
@pytest.mark.parametrize("binarize", [False, True])
def test_many_steps_in_one_call_equal_many_calls(products: str, binarize: bool) -> None:
    case = Case(20, products=products)
    one, many, lying = (Run(case, 5) for _ in range(3))
    many.advance(case.images, many.order, 5, binarize=binarize)
    lying.advance(case.images[lying.order].flatten(0, 1), None, 5, binarize=binarize)
    for _ in range(5):
        one.advance(case.images, one.order, 1, binarize=binarize)
    assert one.record.step == 40
    assert same(one.tensors(), many.tensors())
    assert same(one.tensors(), lying.tensors())
    one.advance(case.images, one.order, 2, binarize=binarize)  # the next epoch's
    many.advance(case.images, many.order, 2, binarize=binarize)
    assert same(one.tensors(), many.tensors())


@loops
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("pixels", [1, 93, 784])
def test_binarized_pixels_match_the_bernoulli_sample(dtype: torch.dtype, pixels: int) -> None:
    case = Case(37, pixels, dtype=dtype)
    ours = case.gradients(binarize=True, row_offset=2**33 + 5)
    case.images, case.rows = bernoulli_sample(case.batch(), SEED, STEP, 2**33 + 5), None
    assert same(ours, case.gradients(row_offset=2**33 + 5))


def test_steps_allocate_nothing() -> None:
    run = Run(Case(40), 3)
    run.advance(run.case.images, run.order, 3)
    gc.collect()
    with torch.profiler.profile(profile_memory=True) as profile:
        run.advance(run.case.images, run.order, 3)
    names = [event.name for event in profile.events()]
    assert names.count("vae_fast::mlp_steps_") == 1
    assert all(event.cpu_memory_usage == 0 for event in profile.events())
