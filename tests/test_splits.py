"""What a run trains and is evaluated on."""

from collections.abc import Callable

import pytest
import torch

import vae_fast as vf
from vae_fast.errors import DataError
from vae_fast.pixels import TEST_SAMPLE, TRAIN_SAMPLE, bernoulli_sample
from vae_fast.splits import prepare

Small = Callable[..., vf.Config]


def test_validation_images_are_the_last_of_the_training_images(small: Small) -> None:
    said: list[str] = []
    splits = prepare(small(valid=300), said.append)
    pixels = vf.load_images("digits").pixels
    assert splits.valid is not None
    assert torch.equal(splits.train, pixels[:700])
    assert torch.equal(splits.valid, pixels[700:])
    assert said == ["data: digits, 1 x 28 x 28, 700 training, 300 validation, 1,000 test images; grey pixels, uint8"]
    assert splits.nbytes == 2000 * 784
    with pytest.raises(DataError, match="valid: expected fewer than the 1000 training images, got 1000"):
        prepare(small(valid=1000), said.append)


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_held_out_images_are_one_fixed_sample_apart_from_the_training_images(small: Small, binarize: str) -> None:
    splits = prepare(small(binarize=binarize, seed=5), lambda line: None)
    assert splits.test is not None
    grey = vf.load_images("digits").pixels.flatten(1)
    test = vf.load_images("digits", "test").pixels.flatten(1)
    assert torch.equal(splits.test.flatten(1), bernoulli_sample(test, 0, TEST_SAMPLE))
    expected = grey if binarize == "dynamic" else bernoulli_sample(grey, 0, TRAIN_SAMPLE)
    assert torch.equal(splits.train.flatten(1), expected)
