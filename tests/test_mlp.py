"""The whole step in C++ against autograd in float64; the step against its own gradients and `adam_`."""

import gc
from collections.abc import Iterator
from math import inf, nan
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import vae_fast as vf
from vae_fast.kernels import adam_, library, mlp
from vae_fast.objective import objective

pytestmark = pytest.mark.skipif(not library.load(), reason=library.status())
loops = pytest.mark.loops  # what depends on the instruction set

EPS = torch.finfo(torch.float32).eps
SEED, STEP = torch.tensor(2**40 + 7), torch.tensor(11)


class State(NamedTuple):
    parameters: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    count: Tensor

    def tensors(self) -> list[Tensor]:
        return [*self.parameters, *self.means, *self.squares, self.count]


class Case:
    """A network, images, and a workspace full of NaN."""

    def __init__(
        self,
        batch: int,
        pixels: int = 93,
        hidden: tuple[int, ...] = (50,),
        latent: int = 7,
        activation: str = "relu",
        dtype: torch.dtype = torch.uint8,
        free_bits: float = 0.0,
    ) -> None:
        torch.manual_seed(batch + pixels)
        self.model = vf.VAE((pixels,), hidden, latent, activation)
        self.parameters = [p.detach() for p in self.model.parameters()]
        images = torch.randint(0, 256, (batch + 5, pixels), dtype=torch.uint8)
        self.images = images if dtype == torch.uint8 else images / 255
        self.rows: Tensor | None = torch.randperm(batch + 5)[:batch]
        self.beta = torch.tensor(0.7)
        self.terms = torch.full((5,), nan, dtype=torch.float64)
        self.workspace = mlp.mlp_workspace(self.parameters, batch, free_bits).fill_(nan)
        self.settings: dict[str, Any] = {"activation": activation, "free_bits": free_bits}

    def batch(self) -> Tensor:
        return self.images if self.rows is None else self.images[self.rows]

    def gradients(self, **settings: Any) -> list[Tensor]:
        gradients = [torch.full_like(p, nan) for p in self.parameters]
        common = {"workspace": self.workspace, "terms": self.terms, **self.settings, **settings}
        mlp.mlp_gradients(self.parameters, gradients, self.images, self.rows, SEED, STEP, self.beta, **common)
        return gradients

    def state(self) -> State:
        """Parameters that may be changed, and moments of some steps."""
        moments = ([torch.rand_like(p) / 100 for p in self.parameters] for _ in range(2))
        return State([p.clone() for p in self.parameters], *moments, torch.tensor(3.0))

    def step(self, state: State, **settings: Any) -> None:
        common = {"workspace": self.workspace, "terms": self.terms, **self.settings, **settings}
        mlp.mlp_step_(*state, self.images, self.rows, SEED, STEP, torch.tensor(1e-2), self.beta, **common)

    def check(self, row_offset: int = 0, stream: int = 0) -> None:
        """Gradients and terms against the textbook.

        Of 784 like terms the roundings add up to some sqrt(784) / 2 = 14 eps of the largest, and a gradient has several
        such sums behind it.
        """
        gradients = self.gradients(row_offset=row_offset, stream=stream)
        exact = vf.VAE(self.model.input_shape, self.model.hidden, self.model.latent, self.model.activation).double()
        exact.load_state_dict(self.model.state_dict())
        x = self.batch().double() / (255 if self.images.dtype == torch.uint8 else 1)
        noise = {"row_offset": row_offset, "stream": stream}
        free_bits = self.settings["free_bits"]
        loss, nll, kl = objective(exact, x, SEED, STEP, beta=self.beta.double(), free_bits=free_bits, **noise)
        loss.backward()
        for gradient, parameter in zip(gradients, exact.parameters(), strict=True):
            assert parameter.grad is not None
            size = float(parameter.grad.abs().max())
            torch.testing.assert_close(gradient.double(), parameter.grad, rtol=0, atol=32 * EPS * size)
        sums = torch.stack((loss * len(x), nll.sum(), kl.sum(), torch.tensor(float(len(x))), torch.tensor(0.0)))
        # of every kl_bj terms of about 1 cancel
        cancelled = 4 * EPS * kl.numel() * self.model.latent
        torch.testing.assert_close(self.terms, sums.detach(), rtol=16 * EPS, atol=cancelled)


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(ours, theirs, strict=True))


@loops
@pytest.mark.parametrize("batch", [1, 3, 17, 48, 128, 130, 300])  # 48 and 300 end whole panels and uneven groups
@pytest.mark.parametrize("hidden", [(), (50,), (33, 20)])
def test_gradients_are_the_textbooks(batch: int, hidden: tuple[int, ...]) -> None:
    Case(batch, hidden=hidden).check()


@loops
@pytest.mark.parametrize("activation", mlp.ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    case = Case(40, hidden=(33, 20), activation=activation)
    for p in case.parameters:
        p.mul_(3)  # so that activations saturate here and there
    case.check()


@loops
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_whole_of_mnists_network(dtype: torch.dtype) -> None:
    Case(130, 784, (400,), 20, dtype=dtype).check(row_offset=2**33, stream=16)


@pytest.mark.parametrize("free_bits", [0.01, 0.03, 10.0])  # of 7 dimensions all, some and none are above
@pytest.mark.parametrize("batch", [1, 70])
def test_free_bits_and_beta(free_bits: float, batch: int) -> None:
    case = Case(batch, free_bits=free_bits)
    case.check()
    case.beta.zero_()
    case.check()


def test_without_rows_the_images_are_the_batch() -> None:
    case = Case(20, pixels=1, hidden=(1,), latent=1)
    assert case.rows is not None
    chosen = case.gradients()
    case.images, case.rows = case.batch().contiguous(), None
    assert same(chosen, case.gradients())


@loops
@pytest.mark.parametrize("batch", [3, 130])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"max_norm": 0.1}, {"max_norm": 1e6}])
def test_a_step_is_its_gradients_and_adam(batch: int, settings: dict[str, float]) -> None:
    """To the bit: Adam in the midst of the product is the same code, on gradients that are the same sums."""
    case = Case(batch)
    ours, theirs = case.state(), case.state()
    theirs = State(*([t.clone() for t in group] for group in ours[:3]), ours.count.clone())
    for _ in range(3):
        case.step(ours, **settings)
        terms = case.terms.clone()
        case.parameters = theirs.parameters
        adam_(*theirs, case.gradients(), lr=float(torch.tensor(1e-2)), **settings)
        assert same(ours.tensors(), theirs.tensors())
        assert torch.equal(terms, case.terms)
    assert ours.count == 6


@pytest.mark.parametrize(("scale", "taken"), [(1e15, True), (1e25, False), (3e38, False)])
def test_gradients_that_may_overflow_take_the_exact_way(scale: float, taken: bool) -> None:
    """A finite loss: the decoder's hidden layer is 0, its gradient as large as the weights after it."""
    case = Case(2, activation="tanh")
    decoder = case.parameters[4:]
    for p in decoder:
        p.zero_()
    decoder[2].fill_(scale)
    case.images.zero_()
    state, before = case.state(), case.state()
    before = State(*([t.clone() for t in group] for group in state[:3]), state.count.clone())
    norm = adam_(*before, case.gradients(), lr=float(torch.tensor(1e-2)))
    case.step(state)
    assert bool(norm.isfinite()) == taken
    assert case.terms[4] == (not taken)
    assert same(state.tensors(), before.tensors())
    assert state.count == 3 + taken


@pytest.mark.parametrize("max_norm", [inf, 1.0])
@pytest.mark.parametrize("cause", ["pixel", "loss", "logvar", "beta"])
def test_a_loss_that_is_not_finite_changes_nothing(cause: str, max_norm: float) -> None:
    case = Case(20, dtype=torch.float32)
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


@pytest.mark.parametrize("free_bits", [0.0, 0.02])
@pytest.mark.parametrize("batch", [3, 40, 130])
@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same(batch: int, free_bits: float) -> None:
    """They divide the batch, or at few images the features, or both."""
    results = []
    for n in (1, 2, 3, 5):
        torch.set_num_threads(n)
        case = Case(batch, hidden=(120, 60), free_bits=free_bits)
        state = case.state()
        case.step(state)
        results.append([*state.tensors(), case.terms.float()])
    assert all(same(results[0], result) for result in results[1:])


def test_processes_that_share_a_batch_add_up() -> None:
    case = Case(50)
    whole, rows = case.gradients(), case.rows
    assert rows is not None
    case.rows = rows[:20]
    sums = case.gradients(weight=0.4)
    case.rows = rows[20:].contiguous()
    for total, first, second in zip(whole, sums, case.gradients(weight=0.6, row_offset=20), strict=True):
        size = float(total.abs().max())
        torch.testing.assert_close(first + second, total, rtol=0, atol=32 * EPS * size)


def test_steps_allocate_nothing() -> None:
    case = Case(40)
    state = case.state()
    lr, settings = torch.tensor(1e-2), {"workspace": case.workspace, "terms": case.terms, **case.settings}
    case.step(state)
    gc.collect()
    with torch.profiler.profile(profile_memory=True) as profile:
        for _ in range(3):
            mlp.mlp_step_(*state, case.images, case.rows, SEED, STEP, lr, case.beta, **settings)
    names = [event.name for event in profile.events()]
    assert names.count("vae_fast::mlp_step_") == 3
    assert all(event.cpu_memory_usage == 0 for event in profile.events())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"parameters": []}, ValueError, "expected weight and bias of as many layers"),
        ({"parameters": [torch.zeros(4, 9)] * 8}, ValueError, r"parameters: expected \[N, 9\] and \[N\] as layer 0"),
        ({"images": torch.zeros(9, 92)}, ValueError, r"images: expected contiguous \[N, 93\], got \[9, 92\]"),
        ({"images": torch.zeros(9, 93).double()}, TypeError, "images: expected uint8 or float32, got Double"),
        ({"rows": torch.tensor([3, 9])}, IndexError, r"rows: expected values in \[0, 9\), got 9"),
        ({"rows": torch.tensor([3, -1])}, IndexError, "got -1"),
        ({"rows": torch.zeros(0).long()}, ValueError, "at least one image"),
        ({"rows": torch.zeros(2)}, TypeError, "rows: expected int64"),
        ({"seed": torch.tensor(0.0)}, ValueError, "seed: expected a 0-d int64 tensor"),
        ({"beta": torch.zeros(1)}, ValueError, "beta: expected a 0-d tensor"),
        ({"activation": "sine"}, ValueError, "activation: got the unknown 'sine'"),
        ({"stream": -1}, ValueError, "stream: expected a value in"),
        ({"terms": torch.zeros(5)}, TypeError, "terms: expected float64"),
        ({"workspace": torch.zeros(9)}, ValueError, "workspace: expected contiguous"),
        ({"gradients": [torch.zeros(3)]}, ValueError, "gradients: expected 8 tensors, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    case = Case(4)
    arguments = {
        "parameters": case.parameters,
        "gradients": [torch.zeros_like(p) for p in case.parameters],
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
        mlp.mlp_gradients(**{**arguments, **change})


def test_what_a_step_refuses_beside() -> None:
    case, state = Case(4), Case(4).state()
    for change, message in (
        ({"means": state.means[:3]}, "means: expected 8 tensors, got 3"),
        ({"squares": [t.clone().unsqueeze(0) for t in state.squares]}, "squares: expected contiguous"),
        ({"count": torch.zeros(1)}, "count: expected a 0-d tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            case.step(state._replace(**change))
    weight = state.parameters[0].requires_grad_()
    loss = weight.square().sum()
    case.step(state)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_network_that_does_not_suit_is_told_why() -> None:
    parameters = Case(1).parameters
    assert mlp.mlp_refuses(parameters, "relu") is None
    assert mlp.mlp_refuses(parameters, "sine") == f"the activation 'sine' is none of {', '.join(mlp.ACTIVATIONS)}"
    assert mlp.mlp_refuses(parameters, "relu", "gaussian") == "the likelihood 'gaussian' is not 'bernoulli'"
    assert "float64" in str(mlp.mlp_refuses([p.double() for p in parameters], "relu"))


def test_fake_tensors_pass() -> None:
    case = Case(4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        case.gradients()
        case.step(case.state())


def test_flushing_denormals_reaches_every_thread() -> None:
    tiny = torch.full((2**20,), 1e-40)
    try:
        for on, left in ((True, 0), (False, len(tiny))):
            assert mlp.set_flush_denormal(on)
            assert (tiny * 1.0).view(torch.int32).count_nonzero() == left
    finally:
        mlp.set_flush_denormal(False)
