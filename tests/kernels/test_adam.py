"""Tests of Adam in C++ and in PyTorch against the textbook in float64, and of the optimizer around it."""

from math import inf

import pytest
import torch
from torch import Tensor, nn

from vae_fast.kernels import adam, adam_, extension
from vae_fast.training.optim import Adam

EPS = torch.finfo(torch.float32).eps
SHAPES = [(3, 5), (), (0, 4), (7,), (131, 129)]  # the last spans three chunks
NAMES = ["0.weight", "0.bias", "1.weight", "1.bias"]
IMPLEMENTATIONS = [
    pytest.param("cpp", marks=pytest.mark.skipif(not extension.load(), reason=extension.status())),
    "torch",
]


@pytest.fixture(params=IMPLEMENTATIONS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(adam, "HAS_LIBRARY", False)
    return str(request.param)


def tensors(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def textbook(
    state: list[list[Tensor]], t: int, gradients: list[Tensor], lr: float, weight_decay: float, max_norm: float
) -> Tensor:
    """Take a step of algorithm 1 of Kingma and Ba with decoupled decay, in place on float64; return the norm."""
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for p, m, v, gradient in zip(*state, gradients, strict=True):
        g = gradient * min(1.0, max_norm / float(norm))
        p.mul_(1 - lr * weight_decay)
        m.mul_(0.9).add_(0.1 * g)
        v.mul_(0.999).add_(0.001 * g * g)
        p.sub_(lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8))
    return norm


@pytest.mark.loops
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_norm", [inf, 1.0, 1e6])
@pytest.mark.usefixtures("impl")
def test_adam_matches_the_textbook(weight_decay: float, max_norm: float) -> None:
    state = [tensors(0), [torch.zeros(s) for s in SHAPES], [torch.zeros(s) for s in SHAPES]]
    exact = [[t.double() for t in group] for group in state]
    count = torch.zeros(())
    for step in range(1, 6):
        gradients, lr = tensors(step), 1e-2 / step
        exact_norm = textbook(exact, step, [g.double() for g in gradients], lr, weight_decay, max_norm)
        norm = adam_(*state, count, gradients, lr=lr, weight_decay=weight_decay, max_norm=max_norm)
        assert norm.dtype == torch.float32
        assert norm.item() == pytest.approx(exact_norm.item(), rel=8 * EPS)
    assert count == 5
    # Five steps of a few roundings each: of the parameter, and of updates that sum up to at most 3 lr. Clipping adds
    # 1e-6 to the norm that it divides by, which cancels in Adam's quotient except for the effect of epsilon.
    for ours, theirs, size in zip(state, exact, (0.05, 1.0, 1.0), strict=True):
        for t, e in zip(ours, theirs, strict=True):
            torch.testing.assert_close(t.double(), e, rtol=16 * EPS, atol=16 * EPS * size)


@pytest.mark.parametrize("value", [inf, -inf, float("nan"), 1e20])  # the last squared is too large for float32
@pytest.mark.parametrize("max_norm", [inf, 1.0])
@pytest.mark.usefixtures("impl")
def test_gradients_that_are_not_finite_change_nothing(value: float, max_norm: float) -> None:
    state = [tensors(0), tensors(1), [t.square() for t in tensors(2)]]
    before = [t.clone() for group in state for t in group]
    count, gradients = torch.tensor(3.0), tensors(3)
    gradients[-1][130, 128] = value
    norm = adam_(*state, count, gradients, lr=1e-2, max_norm=max_norm)
    assert not norm.isfinite()
    assert count == 3
    assert all(torch.equal(b, t) for b, t in zip(before, (t for group in state for t in group), strict=True))


@pytest.mark.parametrize("value", [inf, float("nan"), 1.0])
@pytest.mark.usefixtures("impl")
def test_a_loss_that_is_not_finite_changes_nothing(value: float) -> None:
    parameter, mean, square, count = torch.ones(4, 3), torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(())
    loss = torch.tensor(value, dtype=torch.float64)
    norm = adam_([parameter], [mean], [square], count, [torch.ones(4, 3)], lr=0.1, loss=loss)
    assert norm.isfinite()
    assert (count == 1) == (not (parameter == 1).all()) == (not (mean == 0).all()) == (value == 1.0)


@pytest.mark.usefixtures("impl")
def test_a_gradient_may_have_any_strides_and_a_stale_graph_is_detected() -> None:
    gradient = torch.randn(4, 3)
    results = []
    for g in (gradient, gradient.t().contiguous().t()):
        parameter, mean, square = torch.ones(4, 3), torch.zeros(4, 3), torch.zeros(4, 3)
        adam_([parameter], [mean], [square], torch.zeros(()), [g.clone(memory_format=torch.preserve_format)], lr=0.1)
        results.append(parameter)
    assert torch.equal(*results)

    weight = torch.ones(4, 3, requires_grad=True)
    loss = weight.square().sum()
    adam_([weight], [mean], [square], torch.zeros(()), [gradient], lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.skipif(not extension.load(), reason=extension.status())
def test_cpp_gives_the_same_result_for_any_number_of_threads() -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            state = [tensors(0), tensors(1), [t.square() for t in tensors(2)]]
            norm = adam_(*state, torch.zeros(()), tensors(3), lr=1e-2, max_norm=1.0)
            results.append([norm, *(t for group in state for t in group)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": []}, "expected as many means, squares and gradients as parameters"),
        ({"squares": [torch.zeros(3)]}, r"squares: expected contiguous \[4, 3\], got \[3\]"),
        ({"parameters": [torch.zeros(3, 4).t()]}, "parameters: expected contiguous"),
        ({"gradients": [torch.zeros(4, 3).double()]}, "gradients: expected float32"),
    ],
)
@pytest.mark.usefixtures("impl")
def test_arguments_that_do_not_fit_are_refused(change: dict[str, list[Tensor]], message: str) -> None:
    arguments = {name: [torch.zeros(4, 3)] for name in ("parameters", "means", "squares", "gradients")} | change
    with pytest.raises((TypeError, ValueError), match=message):
        adam_(count=torch.zeros(()), lr=0.1, **arguments)


@pytest.mark.skipif(not extension.load(), reason=extension.status())
def test_adam_is_a_proper_operator() -> None:
    state = [[torch.rand(4, 3), torch.rand(5)] for _ in range(4)]
    arguments = (*state[:3], torch.zeros(()), state[3], torch.tensor(0.1), 0.9, 0.999, 1e-8, 0.0, inf, None)
    torch.library.opcheck(torch.ops.vae_fast.adam_, arguments)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))


@pytest.mark.parametrize("flat", [False, True])
def test_the_state_is_loaded_by_name(flat: bool) -> None:
    one, two = (Adam(network().named_parameters(), flat=flat) for _ in range(2))
    for number, tensor in enumerate(one.tensors().values()):
        tensor.fill_(number + 1)
    two.load_tensors(one.tensors())
    assert list(two.tensors()) == ["step", *(f"{n}.{k}" for k in ("exp_avg", "exp_avg_sq") for n in NAMES)]
    assert [t.mean().item() for t in two.tensors().values()] == list(range(1, 10))


def test_flat_weights_keep_their_values_and_update_their_copies() -> None:
    model, twin = network(), network().to(torch.bfloat16)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = Adam(model.named_parameters(), copies=list(twin.parameters()), flat=True)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    optimizer.copy_weights()
    assert (twin[0].weight == 3).all()
    assert optimizer.state.parameters.data is not None
    assert optimizer.state.parameters.data.sum() == sum(p.sum() for p in model.parameters())


@pytest.mark.parametrize("flat", [False, True])
def test_a_stale_graph_of_the_model_is_detected(flat: bool) -> None:
    model = network()
    optimizer = Adam(model.named_parameters(), flat=flat)
    loss = model[1].weight.square().sum()
    torch.autograd.graph.increment_version(optimizer.state.parameters.views)  # as finish_step_ and adam_ do
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_state_of_another_network_is_refused() -> None:
    optimizer = Adam(network().named_parameters())
    with pytest.raises(KeyError):
        optimizer.load_tensors({"step": torch.zeros(())})
