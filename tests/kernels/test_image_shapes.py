"""Tests of latents with channels and scales per channel, for every implementation, against formulas in float64."""

from itertools import product

import pytest
import torch

import vae_fast as vf
from tests.kernels.image_shape_cases import (
    LATENTS,
    SCALES,
    check_broadcast_scale,
    check_latents_of_elbo,
    check_sample_of_channels,
)
from tests.kernels.operator_calls import normal
from vae_fast.kernels import extension, nll, reference, sample_posterior

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
CASES = [
    pytest.param(
        impl,
        dtype,
        marks=[pytest.mark.skipif(not extension.load(), reason=extension.status())] if impl == "cpp" else [],
    )
    for impl, dtype in product(("auto", "reference", "cpp"), DTYPES)
    if (impl, dtype) != ("cpp", torch.float64)  # not supported
]


@pytest.mark.parametrize(("impl", "dtype"), CASES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", LATENTS)
def test_the_kl_sums_over_all_but_the_batch(
    shape: tuple[int, ...], channels_last: bool, impl: str, dtype: torch.dtype
) -> None:
    check_latents_of_elbo(impl, shape, dtype, channels_last)


@pytest.mark.parametrize(("impl", "dtype"), CASES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", LATENTS)
def test_a_sample_with_channels_matches_that_of_flattened_stats(
    shape: tuple[int, ...], channels_last: bool, impl: str, dtype: torch.dtype
) -> None:
    check_sample_of_channels(impl, shape, dtype, channels_last)


@pytest.mark.parametrize(("impl", "dtype"), CASES)
@pytest.mark.parametrize("likelihood", reference.SCALED)
@pytest.mark.parametrize(("image", "shape"), [(image, shape) for image in SCALES for shape in SCALES[image]])
def test_a_scale_broadcasts_to_the_images(
    image: tuple[int, ...], shape: tuple[int, ...], likelihood: str, impl: str, dtype: torch.dtype
) -> None:
    for b, flat in ((3, ""), (37, "logits"), (1, "target"), (0, "")):
        check_broadcast_scale(impl, likelihood, b, image, shape, dtype, flat)


@pytest.mark.parametrize("likelihood", reference.SCALED)
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1)])
def test_gradients_of_a_scale_per_channel_are_correct(shape: tuple[int, ...], likelihood: str) -> None:
    target = normal(2, 3, 1, 2, seed=1).abs().clamp(max=0.9).double()
    leaves = [normal(*s, dtype=torch.float64).requires_grad_() for s in ((2, 3, 1, 2), shape)]
    assert torch.autograd.gradcheck(
        lambda logits, scale: nll(logits, target, likelihood=likelihood, log_scale=scale), leaves
    )


def test_a_scale_of_one_dimension_has_a_value_for_each_pixel() -> None:
    """Check this for an image whose rows have as many pixels as the whole image."""
    logits, x, scale = normal(2, 1, 1, 5), torch.rand(2, 1, 1, 5), normal(5)
    options = {"likelihood": "gaussian"}
    assert torch.equal(
        nll(logits, x, log_scale=scale, **options), nll(logits.flatten(1), x.flatten(1), log_scale=scale, **options)
    )


@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.sweep)])
def test_channels_compile_without_a_graph_break(dynamic: bool) -> None:
    def loss(stats: torch.Tensor, logits: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        mu, logvar = stats.chunk(2, dim=1)
        elbo = vf.elbo_loss(logits, x, mu, logvar, likelihood="gaussian", log_scale=scale)
        return elbo.loss + sample_posterior(stats, 3, 4).z.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for b in (2, 5):
        leaves = [normal(b, 4, 2, 3).requires_grad_(), normal(b, 3, 5, 5).requires_grad_(), torch.rand(b, 3, 5, 5)]
        leaves.append(normal(3, 1, 1).requires_grad_())
        results = [
            (value := function(*leaves), *torch.autograd.grad(value, [leaves[0], leaves[1], leaves[3]]))
            for function in (loss, compiled)
        ]
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(eager, traced)
