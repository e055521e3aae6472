"""The learning rate over a run, and the table that a step reads."""

from typing import Any

import pytest
import torch

import vae_fast as vf
from vae_fast.errors import ConfigError
from vae_fast.training.schedules import beta_at, epoch_schedule, is_constant, learning_rate_at


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {0: 1e-3, 99: 1e-3}),
        ({"lr_warmup": 1.0}, {0: 1e-4, 9: 1e-3, 50: 1e-3}),
        ({"lr_schedule": "cosine"}, {0: 1e-3, 50: 5e-4, 100: 0}),
        (
            {"lr_schedule": "multistep", "lr_milestones": (2, 5), "lr_gamma": 0.5, "lr_warmup": 1.0},
            {0: 1e-4, 19: 1e-3, 20: 5e-4, 49: 5e-4, 50: 2.5e-4, 99: 2.5e-4},
        ),
        ({"lr_schedule": "cosine", "lr_warmup": 2.0}, {0: 5e-5, 19: 1e-3, 20: 1e-3, 60: 5e-4}),
    ],
)
def test_the_learning_rate_follows_its_schedule(settings: dict[str, Any], expected: dict[int, float]) -> None:
    config = vf.Config(epochs=10, **settings)
    assert {step: learning_rate_at(step, config, 10) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_schedule": "multistep"}, "lr_milestones: expected epochs below the 10 of the run .* got none"),
        ({"lr_schedule": "multistep", "lr_milestones": (3, 10)}, "lr_milestones: expected epochs below .* got 3 10"),
        ({"lr_milestones": (3,)}, "lr_milestones: belongs to lr_schedule 'multistep', got 3 with 'constant'"),
        ({"lr_gamma": 0.5}, "lr_gamma: belongs to lr_schedule 'multistep', got 0.5 with 'constant'"),
        ({"lr_milestones": (3, 2), "lr_schedule": "multistep"}, "lr_milestones: expected rising numbers of epochs"),
    ],
)
def test_milestones_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vf.Config(epochs=10, **settings)


def test_an_epochs_table_holds_the_values_of_its_steps() -> None:
    config = vf.Config(epochs=4, lr_schedule="cosine", lr_warmup=1.0, beta_schedule="cyclical")
    table = epoch_schedule(2, config, 10)
    expected = [(learning_rate_at(step, config, 10), beta_at(step, config, 10)) for step in range(20, 30)]
    assert torch.equal(table, torch.tensor(expected))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"lr_warmup": 1.0}, False),
        ({"lr_schedule": "cosine"}, False),
        ({"beta_schedule": "linear"}, False),
        ({"beta_schedule": "cyclical", "beta_cycles": 3}, False),
    ],
)
def test_only_constant_schedules_have_the_same_table_in_all_epochs(settings: dict[str, Any], expected: bool) -> None:
    config = vf.Config(epochs=4, **settings)
    tables = [epoch_schedule(epoch, config, 10) for epoch in range(4)]
    assert is_constant(config) == all(torch.equal(table, tables[0]) for table in tables) == expected
