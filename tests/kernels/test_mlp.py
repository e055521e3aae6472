"""Tests of the whole step in C++ against autograd in float64, and against its own gradients followed by `adam_`."""

import gc
from collections.abc import Iterator
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.mlp_cases import BF16, EPS, LR, PRODUCTS, SEED, STEP, Case, State, same
from vae_fast.data.transforms import bernoulli_sample
from vae_fast.kernels import Record, adam_, extension, fused_mlp
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
def test_a_step_equals_its_gradients_followed_by_adam(batch: int, settings: dict[str, float], products: str) -> None:
    """Check this bit for bit: Adam within the product is the same code, on gradients that are the same sums."""
    case = Case(batch, products=products)
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
def test_a_loss_that_is_not_finite_changes_nothing(cause: str, max_norm: float, products: str) -> None:
    case = Case(20, dtype=torch.float32, products=products)
    assert case.rows is not None
    if cause == "pixel":
        case.images[case.rows[-1], -1] = nan
    elif cause == "loss":  # its gradients are finite: sigmoid(3e38) - x
        case.parameters[-1].fill_(3e38)
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
        case = Case(batch, hidden=(120, 60), free_bits=free_bits, products=products)
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


class Run:
    """A state that several steps change; each step has rates and images, by rows of an order or one after the other."""

    def __init__(self, case: Case, steps: int) -> None:
        self.case = case
        self.state = State([p.clone() for p in case.parameters], *case.zeros(), torch.tensor(3.0))
        generator = torch.Generator().manual_seed(1)
        batch = len(case.images) - 5
        self.order = torch.stack([torch.randperm(len(case.images), generator=generator)[:batch] for _ in range(steps)])
        self.schedule = torch.stack((torch.linspace(1e-2, 1e-3, steps), torch.linspace(0.1, 1.0, steps)), dim=1)
        sums, ring = torch.zeros(5, dtype=torch.float64), torch.zeros(3, 5, dtype=torch.float64)
        self.record = Record(torch.tensor(7 * steps), sums, ring)
        self.copies = case.copies(self.state.parameters)

    def advance(self, images: Tensor, order: Tensor | None, steps: int, **settings: Any) -> None:
        given = self.copies, images, order, self.schedule, SEED, self.record
        common = {"workspace": self.case.workspace, **self.case.settings, **settings}
        fused_mlp.mlp_steps_(*self.state, *given, steps=steps, **common)

    def tensors(self) -> list[Tensor]:
        copies = [] if self.copies is None else [self.copies]
        return [*self.state.tensors(), *copies, *self.record]


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


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"parameters": []}, ValueError, "expected weight and bias of as many layers"),
        ({"parameters": [torch.zeros(4, 9)] * 8}, ValueError, r"parameters: expected \[N, 9\] and \[N\] as layer 0"),
        ({"images": torch.zeros(9, 92)}, ValueError, r"images: expected contiguous \[N, 93\], got \[9, 92\]"),
        ({"images": torch.zeros(9, 93).double()}, TypeError, "images: expected uint8 or float32, got Double"),
        ({"rows": torch.tensor([3, 9])}, IndexError, r"order: expected values in \[0, 9\), got 9"),
        ({"rows": torch.tensor([3, -1])}, IndexError, "got -1"),
        ({"rows": torch.zeros(0).long()}, ValueError, r"order: expected contiguous \[steps, B\], neither of them 0"),
        ({"rows": torch.zeros(2)}, TypeError, "order: expected int64"),
        ({"rows": None, "images": torch.zeros(0, 93)}, ValueError, "at least one image"),
        ({"copies": torch.zeros(9).int()}, ValueError, "copies: expected for products in bfloat16 and for no others"),
        ({"products": "portable"}, ValueError, "copies: expected for products in bfloat16 .* got none for portable"),
        ({"seed": torch.tensor(0.0)}, ValueError, "seed: expected a 0-d int64 tensor"),
        ({"beta": torch.zeros(1)}, ValueError, "beta: expected a 0-d tensor"),
        ({"activation": "sine"}, ValueError, "activation: got the unknown 'sine'"),
        ({"stream": -1}, ValueError, "stream: expected a value in"),
        ({"terms": torch.zeros(5)}, TypeError, "terms: expected float64"),
        ({"workspace": torch.zeros(9)}, ValueError, "workspace: expected contiguous"),
        ({"gradients": [torch.zeros(3)]}, ValueError, "gradients: expected 8 tensors, got 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    case = Case(4)
    arguments = {
        "parameters": case.parameters,
        "gradients": [torch.zeros_like(p) for p in case.parameters],
        "copies": None,
        "images": case.images,
        "rows": case.rows,
        "seed": SEED,
        "step": STEP,
        "beta": case.beta,
        "activation": "relu",
        "workspace": case.workspace,
        "terms": case.terms,
    }
    with pytest.raises(error, match=message):
        fused_mlp.mlp_gradients(**{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": [torch.zeros(3)] * 3}, "means: expected 8 tensors, got 3"),
        ({"squares": [torch.zeros(1, 50, 93)] * 8}, "squares: expected contiguous"),
        ({"count": torch.zeros(1)}, "count: expected a 0-d tensor"),
        ({"copies": torch.zeros(9).int(), "products": "portable"}, r"copies: expected contiguous \[\d+\], got \[9\]"),
        ({"schedule": torch.zeros(3)}, r"schedule: expected contiguous \[steps of an epoch, 2\], got \[3\]"),
        ({"order": torch.zeros(4, 9).long()}, "order: expected as many rows as the schedule's 2, got"),
        ({"order": None}, "images: expected 2 batches of one size, got 9 images"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"record": Record(torch.tensor(-1), *Run(Case(4), 2).record[1:])}, "step: expected a value in"),
        (
            {"record": Record(*Run(Case(4), 2).record[:2], torch.zeros(5).double())},
            "ring: expected contiguous",
        ),
    ],
)
def test_a_step_refuses_arguments_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    run = Run(Case(4), 2)
    before = [t.clone() for t in run.tensors()]
    arguments = {
        **run.state._asdict(),
        "copies": None,
        "images": run.case.images,
        "order": run.order,
        "schedule": run.schedule,
        "seed": SEED,
        "record": run.record,
        "steps": 2,
        "activation": "relu",
        "workspace": run.case.workspace,
    }
    with pytest.raises(ValueError, match=message):
        fused_mlp.mlp_steps_(**{**arguments, **change})
    assert same(run.tensors(), before)


def test_autograd_detects_a_step_if_it_needs_the_old_weights() -> None:
    case, state = Case(4), Case(4).state()
    weight = state.parameters[0].requires_grad_()
    loss = weight.square().sum()
    case.step(state)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_reason_for_refusing_a_network_is_given() -> None:
    parameters = Case(1).parameters
    assert fused_mlp.mlp_refuses(parameters, "relu") is None
    assert (
        fused_mlp.mlp_refuses(parameters, "sine")
        == f"the activation 'sine' is none of {', '.join(fused_mlp.FUSED_ACTIVATIONS)}"
    )
    assert fused_mlp.mlp_refuses(parameters, "relu", "gaussian") == "the likelihood 'gaussian' is not 'bernoulli'"
    assert "float64" in str(fused_mlp.mlp_refuses([p.double() for p in parameters], "relu"))


def test_an_unknown_loop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"products: expected float32 or one of .*portable.*, got 'abacus'"):
        fused_mlp.mlp_workspace(Case(4).parameters, 4, products="abacus")


def test_the_operators_accept_fake_tensors() -> None:
    run = Run(Case(4), 2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        run.case.gradients()
        run.advance(run.case.images, run.order, 2)


def test_flushing_denormals_reaches_every_thread() -> None:
    tiny = torch.full((2**20,), 1e-40)
    try:
        for on, left in ((True, 0), (False, len(tiny))):
            assert fused_mlp.set_flush_denormal(on)
            assert (tiny * 1.0).view(torch.int32).count_nonzero() == left
    finally:
        fused_mlp.set_flush_denormal(False)
