"""The line that a run prints for each epoch."""

import pytest

from vae_fast.training.epoch_line import _terms, epoch_line

RECORD = {
    "epoch": 3, "train_loss": 105.123, "train_nll": 80.1, "train_kl": 25.023, "images_per_second": 23456.7,
    "skipped_steps": 0, "test_loss": None, "test_nll": None, "test_kl": None,
}  # fmt: skip


def test_an_epoch_is_one_line() -> None:
    assert epoch_line(RECORD, 10) == "epoch  3/10   train 105.12 (nll 80.10 + kl 25.02)   23,457 images/s"
    more = {**RECORD, "test_loss": 99.0, "test_nll": 70.0, "test_kl": 29.0, "skipped_steps": 2}
    assert "   test 99.00 (nll 70.00 + kl 29.00)   " in epoch_line(more, 3)
    assert epoch_line(more, 3).endswith("2 steps skipped: not finite")


def test_an_epoch_that_learned_nothing_is_still_a_line() -> None:
    nothing = {**RECORD, "train_loss": None, "images_per_second": None, "skipped_steps": 7}
    assert epoch_line(nothing, 3) == "epoch 3/3   7 steps skipped: not finite"


def test_a_loss_that_is_not_nll_plus_kl_shows_its_terms() -> None:
    record = {
        "epoch": 1,
        "train_loss": 321.0,
        "train_nll": 292.0,
        "train_kl": 7.25,
        "beta": 4.0,
        "test_loss": 263.0,
        "test_nll": 256.0,
        "test_kl": 7.0,
        "images_per_second": None,
        "skipped_steps": 1,
    }
    assert epoch_line(record, 20).split("   ") == [
        "epoch  1/20",
        "train 321.00 (nll 292.00, kl 7.25, beta 4; -ELBO 299.25)",
        "test 263.00 (nll 256.00 + kl 7.00)",
        "1 step skipped: not finite",
    ]


@pytest.mark.parametrize(
    ("loss", "nll", "kl", "beta", "expected"),
    [
        (555.72, 555.61, 0.13, 0.857, "nll 555.61, kl 0.13, beta 0.857; -ELBO 555.74"),
        (555.67, 555.61, 0.13, 0.857, "nll 555.61, kl 0.13, beta 0.857 at its end; -ELBO 555.74"),  # beta was scheduled
        (136000.05, 135900.0, 100.0, 1.0, "nll 135900.00 + kl 100.00"),  # float32's rounding
        (110.0, 90.0, 10.0, 1.0, "nll 90.00, kl 10.00, beta 1 at its end; -ELBO 100.00"),  # free bits
    ],
)
def test_the_terms_of_a_loss_are_described(loss: float, nll: float, kl: float, beta: float, expected: str) -> None:
    assert _terms(loss, nll, kl, beta) == expected
