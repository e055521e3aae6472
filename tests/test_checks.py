"""What the public operators refuse, and how they say it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vae_fast as vf
from vae_fast.kernels import nll, sample_posterior


def batch() -> dict[str, Tensor]:
    target = torch.zeros(3, 5, dtype=torch.uint8)
    return {"logits": torch.zeros(3, 5), "target": target, "mu": torch.zeros(3, 4), "logvar": torch.zeros(3, 4)}


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
    ({"likelihood": "gaussian", "log_scale": "1"}, TypeError, "log_scale: expected a float or a tensor, got str"),
    ({"beta": torch.tensor(1j)}, TypeError, "beta: expected a float or a real tensor, got torch.complex64"),
    ({"impl": "cuda"}, ValueError, "impl: expected one of 'auto', 'triton', 'cpp', 'reference', got 'cuda'"),
    ({"impl": "triton"}, RuntimeError, "impl='triton' of elbo_loss is not available: (it runs on a GPU|Triton is not)"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_elbo_loss_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vf.elbo_loss(**{**batch(), **change})


NOT_FOR_NLL = ("mu", "logvar", "beta", "reduction")


@pytest.mark.parametrize(
    ("change", "error", "message"), [case for case in REFUSED if not case[0].keys() & set(NOT_FOR_NLL)]
)
def test_nll_refuses_the_same(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {name: tensor for name, tensor in batch().items() if name not in NOT_FOR_NLL}
    with pytest.raises(error, match=message.replace("elbo_loss", "nll")):
        nll(**{**arguments, **change})


OF_NOISE = [
    ({"seed": -1}, ValueError, "seed: expected 0 <= seed < 2\\^63, got -1"),
    ({"seed": 2**63}, ValueError, "seed: expected"),
    ({"step": 1.0}, TypeError, "step: expected an int or a 0-d int64 tensor, got float"),
    ({"step": torch.zeros(1, dtype=torch.int64)}, ValueError, r"step: expected a 0-d int64 tensor, got .* \[1\]"),
    ({"seed": torch.zeros((), dtype=torch.int32)}, ValueError, "seed: expected a 0-d int64 tensor"),
    (
        {"seed": torch.zeros((), dtype=torch.int64, device="meta")},
        ValueError,
        "seed: expected a tensor on cpu, got one on meta",
    ),
    ({"stream": 2**32}, ValueError, r"stream: expected an int in \[0, 2\^32\), got 4294967296"),
    ({"row_offset": 1.5}, TypeError, "row_offset: expected an int, got float"),
    ({"row_offset": -1}, ValueError, r"row_offset: expected an int in \[0, 2\^63\), got -1"),
    ({"impl": "cuda"}, ValueError, "impl: expected one of 'auto', 'triton', 'cpp', 'reference', got 'cuda'"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        *OF_NOISE,
        ({"stats": [1.0]}, TypeError, "stats: expected a tensor, got list"),
        ({"stats": M.int()}, TypeError, "stats: expected a floating dtype, got torch.int32"),
        ({"stats": torch.zeros(4)}, ValueError, r"stats: expected \[B, 2 Z\], got \[4\]"),
        ({"stats": torch.zeros(3, 5)}, ValueError, r"stats: expected \[B, 2 Z\], got \[3, 5\]"),
        (
            {"impl": "triton"},
            RuntimeError,
            "impl='triton' of sample_posterior is not available: (it runs on a GPU|Triton is not)",
        ),
    ],
)
def test_sample_posterior_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample_posterior(**{"stats": M, "seed": 0, "step": 0, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        *OF_NOISE,
        ({"mu": torch.zeros(3, 5)}, ValueError, r"mu and logvar: expected the same shape \[..., Z\], got \[3, 5\]"),
        ({"mu": M.int()}, TypeError, "mu: expected a floating dtype"),
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


def test_seed_and_step_may_be_numpys() -> None:
    expected = vf.reparameterize(M, M, 3, 7)
    for seed, step in ((np.int64(3), np.int32(7)), (np.uint8(3), 7)):
        assert torch.equal(vf.reparameterize(M, M, seed, step), expected)
    with pytest.raises(TypeError, match="step: expected an int or a 0-d int64 tensor, got float64"):
        vf.reparameterize(M, M, 3, np.float64(7))
