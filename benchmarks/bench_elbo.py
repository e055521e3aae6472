"""The loss of a batch from logits, images, mu and logvar: `vae_fast.elbo_loss`, and careful PyTorch.

The suite `objective` measures all of a step except its networks, as the engine calls it on the encoder's whole output:
z for the decoder, and the loss of the decoder's logits (`sample_posterior` and `nll`).
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vae_fast as vf
from benchmarks.contenders.network import D, Z
from benchmarks.harness.metadata import Case
from benchmarks.harness.operator_runs import DIRECTIONS, LABELS, Operator, Tensors, Way, measure
from benchmarks.harness.rounds import Pace
from benchmarks.harness.suites import Suite
from vae_fast.kernels import nll, sample_posterior
from vae_fast.runtime.compile import compiled
from vae_fast.runtime.plan import DTYPES

SMALLEST = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-3}  # tolerances of gradients; the loss is always float32


def eager(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensors:
    logits, mu, logvar = logits.float(), mu.float(), logvar.float()
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return ((reconstruction - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x),)


def eager_objective(logits: Tensor, x: Tensor, stats: Tensor) -> Tensors:
    mu, logvar = stats.chunk(2, dim=-1)
    return *eager(logits, x, mu, logvar), mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)


def elbo(case: Case) -> Operator:
    ways = _ways(eager, lambda logits, x, mu, logvar: (vf.elbo_loss(logits, x, mu, logvar).loss,))
    return _operator("elbo", case, [Z, Z], ways)


def objective(case: Case) -> Operator:
    seed, step = (torch.tensor(n, device=case.device) for n in (0, 1))

    def fused(logits: Tensor, x: Tensor, stats: Tensor) -> Tensors:
        z, kl = sample_posterior(stats, seed, step)
        return (nll(logits, x) + kl).mean(), z

    return _operator("objective", case, [2 * Z], _ways(eager_objective, fused))


def _ways(plain: Way, fused: Way) -> dict[str, Way]:
    return {"eager": plain, "compile": compiled(plain), "fused": fused}


def _operator(suite: str, case: Case, widths: list[int], ways: dict[str, Way]) -> Operator:
    """Return an operator on logits, x and the posterior in parts of `widths`; from one part, z is a second result."""
    dtype, device, batch = DTYPES[case.precision], case.device, case.batch

    def inputs() -> Tensors:
        logits, *posterior = (torch.randn(batch, n, dtype=dtype, device=device).requires_grad_() for n in (D, *widths))
        return [logits, torch.rand(batch, D, device=device), *posterior]

    def check(inputs: Tensors, results: Tensors, gradients: Tensors, found: Tensors) -> None:
        leaves = [t.requires_grad_() for t in (inputs[0], *inputs[2:])]
        mu, logvar = torch.cat(leaves[1:], dim=1).chunk(2, dim=1)
        exact = [vf.elbo_loss(leaves[0], inputs[1], mu, logvar, impl="reference").loss]
        torch.testing.assert_close(results[0], exact[0].detach(), rtol=1e-5, atol=0)
        if len(results) == 2:  # z; the way drew its own noise
            exact.append(mu + (results[1] - mu.detach()) / torch.exp(0.5 * logvar.detach()) * torch.exp(0.5 * logvar))
        smallest = SMALLEST[case.precision]
        for one, other in zip(found, torch.autograd.grad(exact, leaves, gradients), strict=True):
            torch.testing.assert_close(one, other, rtol=10 * smallest, atol=smallest * float(other.abs().max()))

    element = dtype.itemsize
    posterior = batch * sum(widths) * element
    z = batch * Z * element if suite == "objective" else 0
    forward = batch * D * (element + 4) + posterior + z  # logits and x
    backward = batch * D * (2 * element + 4) + 2 * posterior + z  # again, and the gradients of logits and posterior
    return Operator(suite, inputs, ways, check, [batch, D], (forward, backward))


@pytest.mark.suite(Suite("elbo", LABELS, seconds=1, compiling=5))
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_elbo(name: str, direction: str, case: Case, pace: Pace, benchmark: Any) -> None:
    measure(benchmark, elbo(case), name, direction, case, pace)


@pytest.mark.suite(Suite("objective", LABELS, seconds=1, compiling=5, what="both"))
@pytest.mark.parametrize("name", LABELS)
def test_objective(name: str, case: Case, pace: Pace, benchmark: Any) -> None:
    measure(benchmark, objective(case), name, "both", case, pace)
