"""z = mu + exp(logvar / 2) eps: `vae_fast.reparameterize`, and the usual code with torch.randn_like."""

from typing import Any

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from benchmarks.contenders.network import Z
from benchmarks.harness.metadata import Case
from benchmarks.harness.operator_runs import DIRECTIONS, LABELS, Operator, Tensors, Way, measure
from benchmarks.harness.rounds import Pace
from benchmarks.harness.suites import Suite
from vae_fast.runtime.compile import compiled
from vae_fast.runtime.plan import DTYPES

EPS = {"fp32": 2.0**-23, "bf16": 2.0**-7, "fp16": 2.0**-10}


def eager(mu: Tensor, logvar: Tensor) -> Tensors:
    return (mu + torch.exp(0.5 * logvar) * torch.randn_like(mu),)


def reparameterize(case: Case) -> Operator:
    dtype, device = DTYPES[case.precision], case.device
    seed, step = (torch.tensor(n, device=device) for n in (0, 1))

    def inputs() -> Tensors:
        return [torch.randn(case.batch, Z, dtype=dtype, device=device).requires_grad_() for _ in range(2)]

    def check(inputs: Tensors, results: Tensors, gradients: Tensors, found: Tensors) -> None:
        (mu, logvar), (z,), (grad_z,) = inputs, results, gradients
        noise = (z - mu) / torch.exp(0.5 * logvar)
        five = 5 / noise.numel() ** 0.5  # standard errors of the mean; the variance's are sqrt(2) times larger
        assert abs(noise.mean()) < five
        assert abs(noise.var() - 1) < five * 2**0.5 + 4 * EPS[case.precision]
        assert torch.equal(found[0], grad_z)
        rounding = 4 * EPS[case.precision] * grad_z.abs() * (z.abs() + mu.abs())
        assert ((found[1] - 0.5 * grad_z * (z - mu)).abs() <= rounding).all()

    ways: dict[str, Way] = {
        "eager": eager,
        "compile": compiled(eager),
        "fused": lambda mu, logvar: (vf.reparameterize(mu, logvar, seed, step),),
    }
    element = case.batch * Z * dtype.itemsize
    return Operator("reparameterize", inputs, ways, check, [case.batch, Z], (3 * element, 4 * element))


@pytest.mark.suite(Suite("reparameterize", LABELS, seconds=1, compiling=5))
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_reparameterize(name: str, direction: str, case: Case, pace: Pace, benchmark: Any) -> None:
    measure(benchmark, reparameterize(case), name, direction, case, pace)
