"""The importance-weighted likelihood of images under a briefly trained model: ours, and the usual implementation.

The usual one takes one image at a time, repeats it, and encodes it again for every chunk of 100 samples (pythae's
get_nll, and others). It runs on a network of plain PyTorch, and on this engine's, whose products may be faster. Each
contender draws its own noise; the means over the images must agree within four standard errors.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vae_fast as vf
from benchmarks.contenders.network import D, H, Network, Z, initial_model
from benchmarks.harness.metadata import Case, describe
from benchmarks.harness.rounds import Pace, Turn, alternate
from benchmarks.harness.suites import Suite
from vae_fast.models.mlp import Decoder
from vae_fast.objectives.importance import log_likelihoods

BATCHES, PRECISIONS = [64], ["fp32"]  # images
SAMPLES, CHUNK = 1000, 100


def trained(pixels: Tensor) -> vf.VAE:
    """Return a model after 100 steps: with a posterior equal to the prior, all weights would be alike."""
    model = initial_model().to(pixels.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step, x in enumerate(pixels.split(100)[:100]):
        optimizer.zero_grad()
        logits, mu, logvar, _ = model(x, 0, step)
        vf.elbo_loss(logits, x, mu, logvar).loss.backward()
        optimizer.step()
    return model


def plain(model: vf.VAE) -> Network:
    """Return the same network in plain PyTorch."""
    network = Network().to(next(model.parameters()).device)
    network.load_state_dict(dict(zip(network.state_dict(), model.state_dict().values(), strict=True)))
    return network


def usual(model: vf.VAE | Network, images: Tensor) -> Tensor:
    estimates = []
    for image in images:
        weights = []
        for _ in range(SAMPLES // CHUNK):
            x = (image / 255).repeat(CHUNK, 1)
            mu, logvar = model.encoder(x).chunk(2, dim=-1)
            z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
            logits = model.decoder(z)
            nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
            log_q = (-0.5 * (logvar + (z - mu).square() / logvar.exp())).sum(1)
            log_p = (-0.5 * z.square()).sum(1)
            weights.append(-nll + log_p - log_q)
        estimates.append(torch.cat(weights).logsumexp(0) - math.log(SAMPLES))
    return torch.stack(estimates)


def fused(model: vf.VAE, images: Tensor) -> Tensor:
    return torch.cat(list(log_likelihoods(model, images, SAMPLES, 0)))


def products(model: vf.VAE, samples: int) -> None:
    decoder = model.decoder
    assert isinstance(decoder, Decoder)
    hidden, logits = decoder.hidden[0], decoder.logits
    z = torch.zeros(1000, Z, device=logits.weight.device)
    for _ in range(samples // len(z)):
        logits(hidden(z))


WAYS: dict[str, tuple[str, Callable[[vf.VAE], Callable[[Tensor], Tensor]]]] = {
    "eager": ("one image at a time, encoded for every chunk, in plain PyTorch", lambda m: partial(usual, plain(m))),
    "products": ("the same, on this engine's network", lambda m: partial(usual, m)),
    "fused": ("vae_fast", lambda m: partial(fused, m)),
}


@pytest.mark.suite(Suite("importance", {name: label for name, (label, _) in WAYS.items()}, seconds=12))
@pytest.mark.parametrize("name", WAYS)
def test_importance(name: str, case: Case, pixels: Tensor, pace: Pace, benchmark: Any) -> None:
    model, images = trained(pixels.to(case.device)), pixels[: case.batch]
    (label, build), (_, build_baseline) = WAYS[name], WAYS["eager"]
    way, baseline = build(model), build_baseline(model)
    with torch.no_grad():
        difference = (way(images).cpu() - baseline(images).cpu()).double()
        error = difference.std() / math.sqrt(len(images))
        assert difference.mean().abs() < 4 * error, f"{label}: off by {difference.mean():.3f} nats, +- {error:.3f}"
        floor = Turn(partial(products, model, len(images) * SAMPLES))
        ours, usually = (Turn(partial(one, images)) for one in (way, baseline))
        times = alternate(benchmark, ours, usually, floor, pace.of(name), case.device)
    describe(
        benchmark,
        case,
        times,
        unit="image",
        units=case.batch,
        floor="the decoder's products alone, of all samples",
        images=case.batch,
        flops=case.batch * SAMPLES * 2 * (Z * H + H * D),
        suite="importance",
        what=None,
        contender=name,
        label=label,
        ours=name == "fused",
        shape=[case.batch, SAMPLES, D],
    )
