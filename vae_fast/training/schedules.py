"""The learning rate and beta of every step, according to the settings."""

import math

import torch
from torch import Tensor

from vae_fast.config import Config


def learning_rate_at(step: int, config: Config, steps_per_epoch: int) -> float:
    """Return the learning rate of a step (counted from 0): linear warm-up, then what the schedule says.

    constant; cosine, half a cosine down to 0; or multistep, a factor of lr_gamma for each milestone passed.
    """
    warmup = round(config.lr_warmup * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.lr_schedule == "constant":
        return config.lr
    if config.lr_schedule == "multistep":
        passed = sum(step >= epoch * steps_per_epoch for epoch in config.lr_milestones)
        return config.lr * config.lr_gamma**passed
    progress = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def beta_at(step: int, config: Config, steps_per_epoch: int) -> float:
    """Return beta of a step (counted from 0): constant, a linear warm-up, or cyclical annealing.

    Cyclical: in each of `beta_cycles` equal parts of the run, beta rises linearly over the first half and stays there
    (Fu et al.: Cyclical Annealing Schedule, 2019).
    """
    if config.beta_schedule == "constant":
        return config.beta
    if config.beta_schedule == "linear":
        return config.beta * min(1.0, step / (config.beta_warmup * steps_per_epoch))
    cycle = config.epochs * steps_per_epoch / config.beta_cycles
    return config.beta * min(1.0, 2 * (step % cycle) / cycle)


def epoch_schedule(epoch: int, config: Config, steps_per_epoch: int) -> Tensor:
    """Return learning rate and beta of every step of an epoch (counted from 0): float32 [steps_per_epoch, 2].

    On the device, this table lets a replayed step follow the schedules without the host.
    """
    steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
    rows = [(learning_rate_at(s, config, steps_per_epoch), beta_at(s, config, steps_per_epoch)) for s in steps]
    return torch.tensor(rows)


def is_constant(config: Config) -> bool:
    """Return whether learning rate and beta are the same in every step of the run."""
    return (config.lr_schedule, config.lr_warmup, config.beta_schedule) == ("constant", 0, "constant")
