"""The Triton kernels, run by Triton's interpreter on a CPU; test_triton.py runs this file in a process of its own."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vae_fast as vf
from vae_fast.kernels import library, operators, random_bits, reference
from vae_fast.testing import (
    LAYOUTS,
    SEED,
    SHAPES,
    STEP,
    check_elbo,
    check_extremes,
    check_reparameterize,
    images,
    posterior,
    within,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FEW = settings(deadline=None, max_examples=15)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Every new tensor is full of NaN, or of the largest integer, until a kernel has written it."""
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory
    yield
    torch.use_deterministic_algorithms(False)


def elbo_cases() -> Iterator[Any]:
    """Every likelihood, shape, layout and dtype. The interpreter takes seconds for 128 images, so few of those."""
    pairs = list(zip(LAYOUTS, DTYPES, strict=True))
    for likelihood, shape, layout, dtype in product(reference.LIKELIHOODS, SHAPES, LAYOUTS, DTYPES):
        slow = (layout, dtype) not in pairs or (shape[0] == 128 and (likelihood, layout) != ("bernoulli", "halves"))
        yield pytest.param(*shape, layout, dtype, likelihood, marks=[pytest.mark.sweep] if slow else [])


def scales(likelihood: str, d: int) -> list[torch.Tensor | None]:
    if likelihood not in reference.SCALED:
        return [None]
    return [torch.tensor(-1.0), 0.3 * torch.randn(d, generator=torch.Generator().manual_seed(d)) - 1]


def test_memory_is_poisoned() -> None:
    assert torch.empty(3).isnan().all()
    assert torch.ones(2).new_empty((2, 3), dtype=torch.float16).isnan().all()


def test_the_interpreter_takes_the_cpu() -> None:
    assert operators.INTERPRETED, "run this file through test_triton.py"
    assert not library.load()
    assert "TRITON_INTERPRET" in library.status()
    with pytest.raises(RuntimeError, match=r"impl='cpp' of reparameterize is not available: .*TRITON_INTERPRET"):
        vf.reparameterize(torch.zeros(1, 1), torch.zeros(1, 1), 0, 0, impl="cpp")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("b", "d", "z"), SHAPES)
def test_reparameterize_is_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype) -> None:
    check_reparameterize("triton", *posterior(b, z, layout, dtype))


@pytest.mark.parametrize(("b", "z"), [(1, 1), (41, 3), (5, 300)])
def test_the_kl_comes_with_the_sample(b: int, z: int) -> None:
    """Both from the encoder's output, whose gradient is one tensor."""
    from vae_fast.kernels.triton.reparameterize import reparameterize_bwd_triton, reparameterize_fwd_triton

    stats = torch.randn(b, 2 * z, generator=torch.Generator().manual_seed(z))
    mu, logvar = stats.chunk(2, dim=-1)
    sample, kl = reparameterize_fwd_triton(mu, logvar, SEED, STEP, 5, 16, with_kl=True)
    assert kl is not None
    grad_z, grad_kl, by_stats = torch.randn(b, z), torch.linspace(-1, 2, b), torch.empty(b, 2 * z)
    out = by_stats.chunk(2, dim=-1)
    reparameterize_bwd_triton(grad_z, grad_kl, mu, logvar, SEED, STEP, 5, 16, (out[0], out[1]))

    exact_stats = stats.double().requires_grad_()
    exact_mu, exact_logvar = exact_stats.chunk(2, dim=-1)
    bits = random_bits(b, z + z % 2, SEED, STEP, row_offset=5, stream=16, impl="reference")
    exact = reference.reparameterize(exact_mu, exact_logvar, bits)
    exact_kl = reference.kl_per_dimension(exact_mu, exact_logvar).sum(1)
    (exact_grad,) = torch.autograd.grad((exact, exact_kl), exact_stats, (grad_z.double(), grad_kl.double()))
    # the noise, at most 6, is within 1e-6 max(1, |eps|), and all is made from values no larger than these
    size = 6 * (1 + mu.double().square() + logvar.double().abs() + logvar.double().exp())
    within(sample, exact, 12, size)
    within(kl, exact_kl, 20, size.sum(1))
    weight = (1 + grad_z.abs() + grad_kl.abs().view(-1, 1)).double()
    within(by_stats, exact_grad, 20, (size * weight).repeat(1, 2))


def test_dtypes_may_differ() -> None:
    (mu, _), (_, logvar) = posterior(5, 6, "halves", torch.bfloat16), posterior(5, 6, "halves")
    check_reparameterize("triton", mu, logvar)
    check_elbo("triton", *images(5, 9, "halves", torch.float16, torch.bfloat16), mu, logvar)


@pytest.mark.parametrize(("b", "d", "z", "layout", "dtype", "likelihood"), list(elbo_cases()))
def test_elbo_is_the_reference(b: int, d: int, z: int, layout: str, dtype: torch.dtype, likelihood: str) -> None:
    target_dtype = torch.uint8 if layout != "contiguous" else torch.float32
    for log_scale in scales(likelihood, d):
        check_elbo(
            "triton", *images(b, d, layout, target_dtype, dtype), *posterior(b, z, layout, dtype), likelihood, log_scale
        )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the overflows that are wanted here
@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("likelihood", reference.LIKELIHOODS)
def test_extreme_values_come_out_as_in_the_reference(likelihood: str, target_dtype: torch.dtype) -> None:
    check_extremes("triton", target_dtype, 1, likelihood, scales(likelihood, 1)[0])


@FEW
@given(
    b=st.integers(0, 9),
    d=st.integers(0, 70),
    z=st.integers(0, 40),
    layout=st.sampled_from(LAYOUTS),
    likelihood=st.sampled_from(list(reference.LIKELIHOODS)),
    row_offset=st.integers(0, 2**33),
)
def test_any_shape(b: int, d: int, z: int, layout: str, likelihood: str, row_offset: int) -> None:
    check_reparameterize("triton", *posterior(b, z, layout), row_offset)
    for log_scale in scales(likelihood, d):
        check_elbo("triton", *images(b, d, layout, torch.uint8), *posterior(b, z, layout), likelihood, log_scale)


@FEW
@given(
    rows=st.integers(0, 9),
    columns=st.integers(0, 300),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**40),
    row_offset=st.integers(0, 2**40),
    stream=st.integers(0, 2**32 - 1),
)
def test_bits_are_the_specifications(
    rows: int, columns: int, seed: int, step: int, row_offset: int, stream: int
) -> None:
    ours, exact = (
        random_bits(rows, columns, seed, step, row_offset=row_offset, stream=stream, impl=impl)
        for impl in ("triton", "reference")
    )
    assert torch.equal(ours, exact)


def test_are_proper_operators() -> None:
    ops = torch.ops.vae_fast
    mu_data, logvar_data = posterior(6, 5, "halves")
    logits, target = images(6, 11, "strided", torch.uint8)
    mu, logvar, logits = (t.detach().requires_grad_() for t in (mu_data, logvar_data, logits))
    torch.library.opcheck(ops.random_bits, (SEED, STEP, 3, 5, 4, 16))
    torch.library.opcheck(ops.reparameterize, (mu, logvar, SEED, STEP, 4, 16))
    torch.library.opcheck(ops.reparameterize_backward, (mu_data, logvar_data, SEED, STEP, 4, 16))
    gradients = torch.ones(6), torch.ones(()).expand(6)
    for likelihood in reference.LIKELIHOODS:
        for log_scale in scales(likelihood, 11):
            inputs = (logits, target, mu, logvar, None if log_scale is None else log_scale.requires_grad_(), likelihood)
            torch.library.opcheck(ops.elbo, inputs)
            plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in inputs]
            torch.library.opcheck(ops.elbo_backward, (*gradients, *plain))
