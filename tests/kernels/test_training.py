"""Tests of the operators of a training step, in C++ and in the reference, against the reference in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.operator_cases import DTYPES, LAYOUTS, SHAPES, encoded, images, scales
from tests.kernels.training_cases import (
    check_nll_with_gradient,
    check_row_offset_on_the_device,
    check_sample_posterior_gradient,
)
from vae_fast.kernels import (
    extension,
    mixture_log_density,
    nll_with_gradient,
    reference,
    sample_posterior,
    sample_posterior_gradient,
)

IMPLEMENTATIONS = [
    pytest.param("cpp", marks=pytest.mark.skipif(not extension.load(), reason=extension.status())),
    "reference",
]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("b", "d", "z"), SHAPES)
@pytest.mark.parametrize(("layout", "dtype"), list(zip(LAYOUTS, DTYPES, strict=True)))
def test_values_match_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype, impl: str) -> None:
    for target_dtype in (torch.uint8, torch.float32):
        for likelihood in reference.LIKELIHOODS:
            for log_scale in scales(likelihood, d):
                check_nll_with_gradient(impl, *images(b, d, layout, target_dtype, dtype), likelihood, log_scale)
    for by_dimension in (False, True):
        check_sample_posterior_gradient(impl, encoded(b, z, layout, dtype), by_dimension, row_offset=d)
    if impl == "reference":
        check_row_offset_on_the_device(impl, encoded(b, z, layout, dtype))


def test_images_have_any_shape() -> None:
    logits, target = torch.randn(3, 2, 4, 5), torch.randint(0, 256, (3, 40), dtype=torch.uint8)
    check_nll_with_gradient("auto", logits, target)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: nll_with_gradient(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2)),
            ValueError,
            r"weight: expected shape \[\], got \[2\]",
        ),
        (
            lambda: nll_with_gradient(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(()), likelihood="gaussian"),
            ValueError,
            "log_scale: expected a float or tensor with likelihood='gaussian', got None",
        ),
        (
            lambda: nll_with_gradient(torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(())),
            ValueError,
            "target: expected the logits' shape",
        ),
        (
            lambda: sample_posterior_gradient(torch.zeros(2, 3), torch.ones(2), torch.zeros(2, 6), 0, 0),
            ValueError,
            r"kl_weight: expected shape \[\] or \[3\], got \[2\]",
        ),
        (
            lambda: nll_with_gradient(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones((), dtype=torch.float64)),
            TypeError,
            "weight: expected a float32 tensor, got torch.float64",
        ),
        (
            lambda: sample_posterior_gradient(torch.zeros(2, 3), torch.ones(()), torch.zeros(2, 7), 0, 0),
            ValueError,
            r"stats: expected \[B, 2 Z\] or \[B, 2 C, ...\], got \[2, 7\]",
        ),
        (
            lambda: sample_posterior_gradient(torch.zeros(2, 3), torch.ones(()), torch.zeros(2, 6), 0, 0, stream=-1),
            ValueError,
            "stream: expected an int in",
        ),
        (
            lambda: sample_posterior(torch.zeros(2, 6), 0, 0, row_offset=torch.tensor(0), impl="cpp"),
            RuntimeError,
            "impl='cpp' of sample_posterior_from is not available: C\\+\\+ takes row_offset as an int",
        ),
        (
            lambda: sample_posterior_gradient(torch.zeros(2, 2), torch.ones(()), torch.zeros(2, 6), 0, 0),
            ValueError,
            r"grad_z: expected \[2, 3\], got \[2, 2\]",
        ),
        (
            lambda: sample_posterior(torch.zeros(2, 6), 0, 0, row_offset=torch.zeros(1)),
            ValueError,
            "row_offset: expected a 0-d int64 tensor",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 21), st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
def test_a_mixtures_density_and_gradients_are_those_of_the_formula(
    impl: str, batch: int, components: int, latent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, stats = (torch.randn(shape, generator=generator) for shape in ((batch, latent), (components, 2 * latent)))
    inputs = z, stats, torch.randn(components, generator=generator).log_softmax(0)
    weight = torch.randn(batch, generator=generator)
    ours = [t.clone().requires_grad_() for t in inputs]
    exact = [t.double().requires_grad_() for t in inputs]
    value, expected = mixture_log_density(*ours, impl=impl), reference.mixture_log_density(*exact)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(value, ours, weight)
    for gradient, correct in zip(found, torch.autograd.grad(expected, exact, weight.double()), strict=True):
        torch.testing.assert_close(gradient.double(), correct, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("deviation", [0.1, 0.003])
def test_gradients_of_narrow_normals_are_exact(deviation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    means = 2 + torch.randn(5, 3, generator=generator)
    z = means.repeat(4, 1) + deviation * torch.randn(20, 3, generator=generator)
    stats = torch.cat((means, torch.full_like(means, 2 * math.log(deviation))), dim=1).requires_grad_()
    log_weights = torch.full((5,), -math.log(5))
    exact = stats.detach().double().requires_grad_()
    expected = reference.mixture_log_density(z.double(), exact, log_weights.double()).sum()
    found = torch.autograd.grad(mixture_log_density(z, stats, log_weights).sum(), stats)[0]
    correct = torch.autograd.grad(expected, exact)[0]
    torch.testing.assert_close(found.double(), correct, rtol=1e-3, atol=1e-4 * float(correct.abs().max()))


def test_the_density_of_many_rows_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    z, stats, log_weights = torch.randn(9, 2), torch.randn(4, 4), torch.randn(4).log_softmax(0)
    whole = reference.mixture_log_density(z, stats, log_weights)
    monkeypatch.setattr(reference, "MOST_TERMS", 16)  # two rows
    assert torch.equal(reference.mixture_log_density(z, stats, log_weights), whole)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"z": torch.zeros(2, 3)}, ValueError, r"expected \[B, Z\], \[N, 2 Z\] and \[N\], got \[2, 3\]"),
        ({"z": torch.zeros(2, 2, dtype=torch.int64)}, TypeError, "z: expected a floating dtype, got torch.int64"),
        ({"stats": torch.zeros(4, 4, device="meta")}, ValueError, "stats: expected it on cpu like z, got meta"),
        ({"impl": "gpu"}, ValueError, "impl: expected one of"),
    ],
)
def test_arguments_of_a_mixture_that_do_not_fit_are_refused(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    given: dict[str, object] = {"z": torch.zeros(2, 2), "stats": torch.zeros(4, 4), "log_weights": torch.zeros(4)}
    with pytest.raises(error, match=message):
        mixture_log_density(**{**given, **change})


@pytest.mark.skipif(not extension.load(), reason=extension.status())
def test_the_bits_of_a_mixtures_density_do_not_depend_on_threads_or_rows() -> None:
    z, stats, log_weights = torch.randn(500, 20), torch.randn(300, 40), torch.randn(300).log_softmax(0)
    whole, before = mixture_log_density(z, stats, log_weights, impl="cpp"), torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(torch.ops.vae_fast.mixture_joint(z, stats, log_weights).logsumexp(1), whole)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(mixture_log_density(z[7:8], stats, log_weights, impl="cpp"), whole[7:8])


def test_a_mixtures_density_has_other_dtypes_transforms_and_one_derivative() -> None:
    z, stats, log_weights = torch.randn(3, 2), torch.randn(4, 4), torch.randn(4).log_softmax(0)
    assert mixture_log_density(z.double(), stats, log_weights).dtype == torch.float64
    low = mixture_log_density(z.bfloat16(), stats.bfloat16(), log_weights)
    torch.testing.assert_close(low, mixture_log_density(z.bfloat16().float(), stats.bfloat16().float(), log_weights))
    by_row = torch.func.vmap(lambda row: mixture_log_density(row[None], stats, log_weights)[0])(z)
    torch.testing.assert_close(by_row, mixture_log_density(z, stats, log_weights))
    with pytest.raises(RuntimeError, match="impl='triton' of mixture_log_density is not available"):
        mixture_log_density(z, stats, log_weights, impl="triton")
