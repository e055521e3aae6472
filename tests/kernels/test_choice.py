"""Tests of the choice of the implementation, including for absent devices, with tensors that have no data."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import vae_fast as vf
from vae_fast.kernels import dispatch, nll, registration, sample_posterior

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_a_compiled_step_on_a_gpu_uses_triton_without_a_graph_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "HAS_C_COMPILER", True)
    called: set[str] = set()

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        targets = (node.target for node in graph.graph.nodes)
        called.update(target.name() for target in targets if isinstance(target, torch._ops.OpOverload))
        return graph.forward

    def step(logits: Tensor, target: Tensor, stats: Tensor) -> Tensor:
        mu, logvar = stats.chunk(2, dim=1)
        z, kl = sample_posterior(stats, 3, 4)
        loss = vf.elbo_loss(logits, target, mu, logvar).loss + nll(logits, target).sum() + kl.sum()
        return loss + z.sum() + vf.reparameterize(mu, logvar, 3, 4).sum()

    with FakeTensorMode(allow_non_fake_inputs=True):
        logits, stats = (torch.empty(4, n, dtype=torch.bfloat16, device="cuda") for n in (6, 8))
        target = torch.empty(4, 6, dtype=torch.uint8, device="cuda")
        loss = torch.compile(step, fullgraph=True, backend=backend)(logits, target, stats)
    assert loss.device.type == "cuda"
    assert called == {f"vae_fast::{name}" for name in ("reparameterize", "sample_posterior", "elbo", "nll")}


def test_auto_chooses_triton_on_a_gpu_where_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "HAS_TRITON", True)
    monkeypatch.setattr(dispatch, "HAS_C_COMPILER", True)
    with FakeTensorMode():
        mu = torch.empty(2, 3, device="cuda")
        taken = {dtype: dispatch.chosen("reparameterize", "auto", mu, mu.to(dtype)) for dtype in DTYPES}
        assert taken == {dtype: "reference" if dtype == torch.float64 else "triton" for dtype in DTYPES}
        refused = "impl='triton' of nll is not available: "
        with pytest.raises(RuntimeError, match=f"{refused}it does not take target in torch.float64"):
            nll(mu, mu.double(), impl="triton")
        monkeypatch.setattr(dispatch, "HAS_C_COMPILER", False)
        with pytest.raises(RuntimeError, match=f"{refused}Triton needs a C compiler"):
            nll(mu, mu, impl="triton")
        assert dispatch.chosen("reparameterize", "auto", mu, mu) == "reference"


def test_without_the_library_a_compiled_step_uses_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "HAS_LIBRARY", False)

    def loss(stats: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        z, kl = sample_posterior(stats, 3, 4)
        return (nll(logits * z.sum(1, keepdim=True), target) + kl).mean()

    stats, logits, target = torch.randn(4, 6), torch.randn(4, 5), torch.rand(4, 5)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(stats, logits, target), loss(stats, logits, target))
