"""This engine's ways to take a step, as trainers (see `pytorch_baselines`)."""

from typing import Any

from torch import Tensor

import vae_fast as vf
from benchmarks.contenders.network import Trainer
from vae_fast.runtime.plan import make_plan
from vae_fast.training.engine import Engine


def config_of(device: str, batch: int, precision: str, **settings: Any) -> vf.Config:
    amp_dtype: Any = "auto" if precision == "fp32" else precision  # auto without --amp is float32
    return vf.Config(batch_size=batch, device=device, amp_dtype=amp_dtype, **settings)


def build(model: vf.VAE, pixels: Tensor, batch: int, precision: str, steps: int, **settings: Any) -> Trainer:
    """Return the engine's trainer, compiled and recorded, with its defaults except `settings` of `vf.Config`."""
    config = config_of(str(pixels.device), batch, precision, **settings)
    engine = Engine(model, pixels, config, make_plan(config)[0], steps)
    engine.warm_up()

    def train(order: Tensor) -> float:
        engine.begin_epoch(order)
        for count in engine.launches(len(order)):
            engine.advance(count)
        loss = engine.finish_epoch()["train_loss"]
        assert loss is not None, "every step was skipped"
        return loss

    return train
