"""Losses of the first fifty steps, as they were when each plan was last looked at closely.

`python tests/test_golden.py` writes the file anew; a change of it needs a reason.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vae_fast as vf
from vae_fast.engine import Engine
from vae_fast.feed import Feed
from vae_fast.kernels import library
from vae_fast.plan import cpp_compiler, make_plan

GOLDEN = Path(__file__).with_name("golden.json")
STEPS = 50
PLANS: dict[str, dict[str, Any]] = {
    "eager": {"step": "autograd"},
    "compiled": {"compile": True},
    "fused": {"step": "fused"},
}


def losses(settings: dict[str, Any]) -> list[float]:
    """Nats per image of each step: a small network on 64 digits, which sees them in 25 orders."""
    images = vf.load_images("digits").pixels[:64].flatten(1)
    config = vf.Config(hidden=(16,), latent=4, batch_size=32, lr=5e-3, device="cpu", **settings)
    feed = Feed(len(images), config.batch_size, config.seed)
    torch.manual_seed(0)
    model = vf.VAE(hidden=config.hidden, latent=config.latent)
    engine = Engine(model, images, config, make_plan(config)[0], feed.steps_per_epoch)
    engine.warm_up()
    for epoch in range(1, STEPS // feed.steps_per_epoch + 1):
        engine.begin_epoch(feed.order(epoch))
        for count in engine.launches(feed.steps_per_epoch):
            engine.advance(count)
    terms = engine.ledger.latest(STEPS, STEPS)
    return (terms[:, 0] / terms[:, 3]).tolist()


@pytest.mark.parametrize("plan", PLANS)
def test_losses_are_the_golden_ones(plan: str) -> None:
    if plan == "compiled" and cpp_compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    if plan == "fused" and not library.load():
        pytest.skip(library.status())
    golden = json.loads(GOLDEN.read_text())[plan]
    ours = losses(PLANS[plan])
    # Sums in another order differ in the last bits; Adam then turns the rounding of small gradients into whole steps.
    assert ours[0] == pytest.approx(golden[0], rel=1e-5)
    assert ours == pytest.approx(golden, rel=1e-3)
    assert ours[-1] < 0.6 * ours[0]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({plan: losses(settings) for plan, settings in PLANS.items()}, indent=0) + "\n")
