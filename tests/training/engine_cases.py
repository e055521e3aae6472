"""A small engine on 64 digits, and helpers to run its steps, for the tests of the engine and its recordings."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from vae_fast.kernels import extension
from vae_fast.runtime.plan import Plan, make_plan
from vae_fast.training.cuda_graphs import Capture, capture
from vae_fast.training.engine import Engine

ROWS = torch.arange(32)
STEPS = ["autograd", pytest.param("fused", marks=pytest.mark.skipif(not extension.load(), reason=extension.status()))]


def images() -> Tensor:
    return vf.load_images("digits").pixels[:64].flatten(1)


def engine(data: Tensor | None = None, plan: Plan | None = None, capture: Capture = capture, **settings: Any) -> Engine:
    config = vf.Config(**{"hidden": (16,), "latent": 4, "device": "cpu", "batch_size": 32, **settings})
    torch.manual_seed(0)
    model = vf.VAE(hidden=config.hidden, latent=config.latent)
    wished = replace(config, cuda_graphs="auto")
    plan = plan or make_plan(wished)[0]
    return Engine(model, images() if data is None else data, config, plan, steps_per_epoch=10, capture=capture)


def train(e: Engine, rows: Tensor = ROWS, steps: int = 1) -> None:
    """Run steps that all see the same images, across the ends of epochs."""
    batch = None if e.plan.feed == "device" else images()[rows].unsqueeze(0)
    for _ in range(steps):
        e.begin_epoch(rows.expand(e.steps_per_epoch, -1))
        e.advance(1, batch)


def gradients(e: Engine) -> tuple[Tensor, ...]:
    """Return the gradients of the first step, on the images ROWS."""
    schedule, first, seed = torch.tensor([[1e-3, 1.0]]), torch.tensor(0), torch.tensor(e.config.seed)
    return e._train._learn(images(), ROWS.view(1, -1), None, schedule, first, seed, torch.ones(()))[2]


def parameters(e: Engine) -> Tensor:
    return torch.cat([p.detach().flatten() for p in e.model.parameters()])
