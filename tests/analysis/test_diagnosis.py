"""Descriptions of losses in words."""

from typing import Any

import pytest

from vae_fast.analysis.diagnosis import observe, observed


def records(train: list[float | None], test: list[float] | None = None) -> list[dict[str, Any]]:
    return [
        {"epoch": i + 1, "train_loss": loss, "test_loss": test[i] if test else None} for i, loss in enumerate(train)
    ]


def test_a_fall_is_a_share_of_what_can_be_learned() -> None:
    """Subtract the entropy of the pixels, which makes up most of the loss of colour images."""
    history = records([1930.0, 1927.0], [1935.0, 1933.0])
    assert observe(history) == "levelled off"
    for record in history:
        record["entropy"] = 1850.0
    assert observe(history) == "falling fast"
    history[1]["train_loss"], history[1]["test_loss"] = 1929.9, 1935.1
    assert observe(history) == "levelled off"
    history[1]["test_loss"] = 1935.5
    assert observe(history) == "overfitting since epoch 1"


def test_losses_of_another_beta_are_not_compared() -> None:
    history = records([60.0, 85.0, 105.0, 104.0])
    for record, beta in zip(history, (0.0, 0.5, 1.0, 1.0), strict=True):
        record["beta"] = beta
    assert [record["observation"] for record in observed(history)] == [
        "first epoch",
        "beta changes",
        "beta changes",
        "still falling",
    ]


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([150.0], None, "first epoch"),
        ([150.0, 120.0], [120.0, 110.0], "falling fast"),
        ([100.0, 99.0], [101.0, 100.0], "still falling"),
        ([100.0, 99.9], [101.0, 101.0], "levelled off"),
        ([100.0, 100.1], None, "levelled off"),
        ([100.0, 101.0], None, "rising"),
        ([100.0, 95.0, 90.0], [105.0, 104.0, 104.5], "overfitting since epoch 2"),
        ([100.0, 95.0, 90.0], [105.0, 104.0, 104.1], "falling fast"),
        ([100.0, 95.0, None], None, "diverged"),
        ([100.0, 95.0, 150.0], None, "diverged"),
        ([100.0, None, 99.0], None, "back from a divergence"),
    ],
)
def test_observations(train: list[float | None], test: list[float] | None, expected: str) -> None:
    assert observe(records(train, test)) == expected
