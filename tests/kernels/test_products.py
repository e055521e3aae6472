"""Tests that matrix products have the same result with either library."""

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from vae_fast.kernels import extension, linear, matmul
from vae_fast.runtime.environment import environment

needs_onednn = pytest.mark.skipif(
    not (extension.load() and torch.backends.mkldnn.is_available()), reason=f"oneDNN or {extension.status()}"
)


def tensors(b: int, n: int, m: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [t.requires_grad_() for t in (torch.randn(b, n), torch.randn(m, n), torch.randn(m))]


@needs_onednn
@pytest.mark.parametrize(
    ("b", "n", "m"), [(1, 1, 1), (1, 3, 2), (3, 5, 7), (128, 784, 400), (128, 20, 400), (41, 401, 33)]
)
def test_onednn_and_torch_agree_in_value_and_gradients(monkeypatch: pytest.MonkeyPatch, b: int, n: int, m: int) -> None:
    gradient = torch.randn(b, m)
    results = []
    for use in (True, False):
        monkeypatch.setattr(matmul, "USE_ONEDNN", use)
        inputs = tensors(b, n, m)
        y = linear(*inputs)
        results.append((y, *torch.autograd.grad(y, inputs, gradient)))
    for ours, theirs, terms in zip(*results, (n, m, b, b), strict=True):
        # each library sums `terms` or fewer products of normals in its own order
        torch.testing.assert_close(ours, theirs, rtol=0, atol=4 * torch.finfo(torch.float32).eps * terms)


@needs_onednn
def test_products_that_onednn_does_not_support_go_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "USE_ONEDNN", True)
    x, w, b = (t.detach() for t in tensors(3, 4, 5))
    for arguments in (
        (x[:0], w, b),
        (x[:, :0], w[:, :0], b),
        (x.double(), w.double(), b.double()),
        (x.expand(2, 3, 4), w, b),
    ):
        assert torch.equal(linear(*arguments), torch.nn.functional.linear(*arguments))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, w, b).dtype == torch.bfloat16


@needs_onednn
def test_linear_compiles_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "USE_ONEDNN", True)
    inputs = tensors(6, 4, 5)
    compiled = torch.compile(linear, fullgraph=True)
    for ours, theirs in zip(
        torch.autograd.grad(compiled(*inputs).sum(), inputs),
        torch.autograd.grad(linear(*inputs).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@needs_onednn
def test_second_derivatives_match_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "USE_ONEDNN", True)
    x, w, b = tensors(3, 4, 5)
    seconds = []
    for function in (linear, torch.nn.functional.linear):
        (first,) = torch.autograd.grad(function(x, w, b).square().sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(first.sum(), w)[0])
    torch.testing.assert_close(*seconds)


@needs_onednn
@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (5, 2), (8, 12), (41, 33), (784, 128)])
def test_a_column_major_matrix_gives_the_same_product(rows: int, columns: int) -> None:
    by_columns, b = torch.randn(columns, rows + 3)[:, :rows].t(), torch.randn(6, columns)
    product = torch.ops.vae_fast.product
    assert torch.equal(product(by_columns, b, None), product(by_columns.contiguous(), b, None))


@needs_onednn
@pytest.mark.parametrize("first", [True, False])
def test_values_may_overlap_or_repeat(first: bool) -> None:
    for odd in (torch.randn(30).unfold(0, 4, 2), torch.randn(4).expand(6, 4), torch.randn(6, 1).expand(6, 4)):
        other = torch.randn(5, 4)
        a, b = (odd, other) if first else (other, odd)
        torch.testing.assert_close(torch.ops.vae_fast.product(a, b, None), a @ b.t())


@needs_onednn
def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"product: a and b: expected \[B, N\] and \[M, N\], got \[2, 3\] and \[2, 4\]"
    ):
        torch.ops.vae_fast.product(torch.zeros(2, 3), torch.zeros(2, 4), None)


@needs_onednn
def test_product_is_a_proper_operator() -> None:
    x, w, b = tensors(3, 4, 5)
    for bias in (b, None):
        torch.library.opcheck(torch.ops.vae_fast.product, (x, w, bias))


def test_the_choice_is_recorded() -> None:
    assert environment(torch.device("cpu"))["products"] == ("oneDNN" if matmul.USE_ONEDNN else "torch")
    assert matmul.WHY
    assert isinstance(vf.VAE().encoder.stats, torch.nn.Linear)
