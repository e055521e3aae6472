"""Tests of the public operators' errors for invalid arguments."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vae_fast as vf
from vae_fast.kernels import kl_per_dimension, nll, sample_posterior


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
    ({"mu": torch.zeros(2, 4)}, ValueError, r"mu and logvar: .* \[3, Z\] or \[3, ...\], got \[2, 4\] and \[3, 4\]"),
    ({"mu": M[:, :, None]}, ValueError, r"mu and logvar: .* got \[3, 4, 1\] and \[3, 4\]"),
    ({"mu": M[:, 0], "logvar": M[:, 0]}, ValueError, r"mu and logvar: .* got \[3\] and \[3\]"),
    ({"logvar": torch.zeros(3, 5)}, ValueError, r"mu and logvar: .* got \[3, 4\] and \[3, 5\]"),
    ({"mu": torch.zeros(3, 4, device="meta")}, ValueError, "mu: expected a tensor on cpu, got one on meta"),
    ({"beta": None}, TypeError, "beta: expected a float or a tensor, got NoneType"),
    ({"beta": torch.zeros(2)}, ValueError, r"beta: expected a float or a tensor of shape \[\] or \[3\], got \[2\]"),
    ({"beta": np.float32(1)}, TypeError, "beta: expected a float or a tensor, got numpy.float32"),
    ({"log_scale": torch.zeros(3, 5)}, ValueError, r"log_scale: expected None with .*, got a tensor of shape \[3, 5\]"),
    ({"likelihood": "poisson"}, ValueError, "likelihood: expected one of 'bernoulli', .* got 'poisson'"),
    ({"reduction": "max"}, ValueError, "reduction: expected one of 'mean', 'sum', 'none', got 'max'"),
    ({"log_scale": 0.0}, ValueError, "log_scale: expected None with likelihood='bernoulli', got 0.0"),
    ({"likelihood": "gaussian"}, ValueError, "log_scale: expected a float or tensor with likelihood='gaussian'"),
    (
        {"likelihood": "gaussian", "log_scale": torch.zeros(4)},
        ValueError,
        r"log_scale: expected shape \[\], \[5\] or",
    ),
    ({"likelihood": "gaussian", "log_scale": "1"}, TypeError, "log_scale: expected a float or a tensor, got str"),
    ({"beta": torch.tensor(1j)}, TypeError, "beta: expected a float or a real tensor, got torch.complex64"),
    ({"impl": "cuda"}, ValueError, "impl: expected one of 'auto', 'triton', 'cpp', 'reference', got 'cuda'"),
    ({"impl": "triton"}, RuntimeError, "impl='triton' of elbo_loss is not available: (it runs on a GPU|Triton is not)"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_elbo_loss_refuses_invalid_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vf.elbo_loss(**{**batch(), **change})


NOT_FOR_NLL = ("mu", "logvar", "beta", "reduction")


@pytest.mark.parametrize(
    ("change", "error", "message"), [case for case in REFUSED if not case[0].keys() & set(NOT_FOR_NLL)]
)
def test_nll_refuses_the_same_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {name: tensor for name, tensor in batch().items() if name not in NOT_FOR_NLL}
    with pytest.raises(error, match=message.replace("elbo_loss", "nll")):
        nll(**{**arguments, **change})


@pytest.mark.parametrize(
    "shape", [(5,), (4,), (2, 1, 1), (3, 1), (2, 3, 1, 1), (1, 1, 3, 1, 1), (3, 4, 4), (0,), (3, 0, 1)]
)
def test_a_scale_that_does_not_broadcast_is_refused(shape: tuple[int, ...]) -> None:
    """Check shapes that do not broadcast, and rows of pixels, which might be meant for channels or all pixels."""
    message = re.escape(f"expected shape [], [60] or one that broadcasts to an image's [3, 4, 5], got {list(shape)}")
    images = torch.zeros(2, 3, 4, 5)
    for logits, target in ((images, images), (images.flatten(1), images), (images, images.flatten(1))):
        with pytest.raises(ValueError, match=f"log_scale: {message}"):
            nll(logits, target, likelihood="gaussian", log_scale=torch.zeros(shape))


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
    ({"stream": np.int64(1)}, TypeError, "stream: expected an int, got numpy.int64"),
    ({"row_offset": -1}, ValueError, r"row_offset: expected an int in \[0, 2\^63\), got -1"),
    ({"impl": "cuda"}, ValueError, "impl: expected one of 'auto', 'triton', 'cpp', 'reference', got 'cuda'"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        *OF_NOISE,
        ({"stats": [1.0]}, TypeError, "stats: expected a tensor, got list"),
        ({"stats": M.int()}, TypeError, "stats: expected a floating dtype, got torch.int32"),
        ({"stats": torch.zeros(4)}, ValueError, r"stats: expected \[B, 2 Z\] or \[B, 2 C, ...\], got \[4\]"),
        ({"stats": torch.zeros(3, 5)}, ValueError, r"stats: expected .* got \[3, 5\]"),
        ({"stats": torch.zeros(3, 5, 2)}, ValueError, r"stats: expected .* got \[3, 5, 2\]"),
        (
            {"impl": "triton"},
            RuntimeError,
            "impl='triton' of sample_posterior is not available: (it runs on a GPU|Triton is not)",
        ),
    ],
)
def test_sample_posterior_refuses_invalid_arguments(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
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
def test_reparameterize_refuses_invalid_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vf.reparameterize(**{"mu": M, "logvar": M, "seed": 0, "step": 0, **change})


@pytest.mark.parametrize(
    ("mu", "logvar", "error", "message"),
    [
        (M, None, TypeError, "logvar: expected a tensor, got NoneType"),
        (M[0, 0], M[0, 0], ValueError, r"mu and logvar: .* \[B, Z\] or \[B, ...\], got \[\] and \[\]"),
        (M[0], M[0], ValueError, r"mu and logvar: .* \[B, Z\] or \[B, ...\], got \[4\] and \[4\]"),
        (M, M[:2], ValueError, r"mu and logvar: .* got \[3, 4\] and \[2, 4\]"),
        (M, M.to("meta"), ValueError, "logvar: expected a tensor on cpu, got one on meta"),
    ],
)
def test_kl_per_dimension_refuses_invalid_arguments(
    mu: Tensor, logvar: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kl_per_dimension(mu, logvar)


def test_seed_and_step_may_be_numpy_integers() -> None:
    expected = vf.reparameterize(M, M, 3, 7)
    for seed, step in ((np.int64(3), np.int32(7)), (np.uint8(3), 7)):
        assert torch.equal(vf.reparameterize(M, M, seed, step), expected)
    with pytest.raises(TypeError, match=r"step: expected an int or a 0-d int64 tensor, got numpy\.float64"):
        vf.reparameterize(M, M, 3, np.float64(7))
