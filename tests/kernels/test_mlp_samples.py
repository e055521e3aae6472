"""The fused step with several samples of z an image, compared with the specification, objectives/multisample.py."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_fast.kernels import FLOAT32, Rates, bf16_loops, extension, mlp_copies, mlp_gradients, mlp_workspace
from vae_fast.models.vae import VAE
from vae_fast.objectives.elbo import Noise
from vae_fast.objectives.multisample import backward, forward

pytestmark = pytest.mark.skipif(not extension.load(), reason="the C++ library is not built")
BETA, OFFSET = 0.6, 5


def fused(model: VAE, x: Tensor, **more: Any) -> tuple[Tensor, list[Tensor]]:
    """Return the terms of a batch of as many images as x has, and the gradients."""
    parameters = list(model.parameters())
    found, terms = [torch.full_like(p, torch.nan) for p in parameters], torch.zeros(5, dtype=torch.float64)
    products = more.get("products", FLOAT32)
    workspace = mlp_workspace(parameters, len(x), 0.0, products, more["samples"]).fill_(torch.nan)
    copies = None if products == FLOAT32 else mlp_copies(parameters)
    given = copies, x, None, torch.tensor(3), torch.tensor(4), torch.tensor(BETA)
    likelihood = {"likelihood": model.likelihood.name, "log_scale": model.likelihood.fixed_log_scale}
    settings = {"activation": model.activation, "row_offset": OFFSET, "workspace": workspace, "terms": terms}
    mlp_gradients(parameters, found, *given, **settings, **likelihood, **more)
    return terms, found


def specified(model: VAE, x: Tensor, samples: int, objective: str) -> tuple[Any, tuple[Tensor, ...]]:
    noise, rates = Noise(torch.tensor(3), torch.tensor(4), OFFSET), Rates(torch.tensor(1e-3), torch.tensor(BETA))
    done = forward(model, x, noise, samples=samples, prior=model.prior)
    given = model, model.likelihood, x, noise, done, rates, torch.tensor(1.0)
    return backward(*given, images=len(x), objective=objective, prior=model.prior)


CASES = [  # batch, samples, objective, likelihood
    *product((1, 37), (1, 3), ("elbo", "iwae", "dreg"), ("bernoulli",)),
    *((130, 8, objective, "bernoulli") for objective in ("iwae", "dreg")),
    *((21, 5, "iwae", likelihood) for likelihood in ("continuous_bernoulli", "gaussian", "discretized_logistic")),
    (21, 5, "dreg", "gaussian"),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("batch", "samples", "objective", "likelihood"), CASES)
def test_losses_and_gradients_match_the_specification(
    batch: int, samples: int, objective: str, likelihood: str, threads: int
) -> None:
    torch.manual_seed(0)
    scale = "per-value" if likelihood in ("gaussian", "discretized_logistic") else None
    model = VAE((1, 10, 10), hidden=(33, 20), latent=5, activation="silu", likelihood=likelihood, scale=scale)
    x = torch.randint(0, 256, (batch, 100), dtype=torch.uint8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        terms, found = fused(model, x, samples=samples, objective=objective)
    finally:
        torch.set_num_threads(before)
    expected, gradients = specified(model, x, samples, objective)
    loss, nll, kl, images, skipped = terms.tolist()
    assert (images, skipped) == (batch, 0)
    assert nll == pytest.approx(float(expected.nll.sum()), rel=1e-5)
    assert kl == pytest.approx(float(expected.kl.sum()), rel=1e-4, abs=1e-3)
    assert loss == pytest.approx(nll + BETA * kl, rel=1e-6)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5 * float(theirs.abs().max()) + 1e-7)


@pytest.mark.parametrize("threads", [2, 5])
def test_results_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    torch.manual_seed(0)
    model, x = VAE((1, 10, 10), hidden=(33,), latent=5), torch.randint(0, 256, (100, 100), dtype=torch.uint8)
    before, results = torch.get_num_threads(), []
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            results.append(fused(model, x, samples=4, objective="dreg"))
    finally:
        torch.set_num_threads(before)
    (terms, found), (more_terms, more_found) = results
    assert torch.equal(terms, more_terms)
    assert all(map(torch.equal, found, more_found))


@pytest.mark.parametrize("products", bf16_loops() if extension.load() else [])
def test_bfloat16_is_near(products: str) -> None:
    torch.manual_seed(0)
    model, x = VAE((1, 10, 10), hidden=(33,), latent=5), torch.randint(0, 256, (50, 100), dtype=torch.uint8)
    terms, found = fused(model, x, samples=3, objective="iwae", products=products)
    expected, gradients = specified(model, x, 3, "iwae")
    assert terms[1].item() == pytest.approx(float(expected.nll.sum()), rel=1e-3)
    for ours, theirs in zip(found, gradients, strict=True):
        assert float((ours - theirs).norm()) < 0.05 * float(theirs.norm())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples: expected at least 1, got 0"),
        ({"objective": "vae"}, "objective: got the unknown 'vae'"),
        ({"free_bits": 0.1}, "free_bits: expected 0 unless the objective is elbo with one sample, got 0.1"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fused(VAE((1, 4, 4), hidden=(9,)), torch.zeros(3, 16), **{"samples": 2, "objective": "iwae", **change})
