"""Tests of the treatments of pixels: sampling, thresholds, entropy."""

import math

import pytest
import torch

from vae_fast.data.transforms import CHUNK, bernoulli_sample, mean_entropy, treat


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_bernoulli_sample_is_on_with_the_probability_of_the_pixel(dtype: torch.dtype) -> None:
    levels = torch.tensor([0, 1, 51, 150, 254, 255], dtype=torch.uint8)
    pixels = levels.expand(40_000, 6) if dtype == torch.uint8 else (levels / 255).expand(40_000, 6)
    sample = bernoulli_sample(pixels, 1, 2)
    assert sample.dtype == torch.uint8
    assert set(sample.unique().tolist()) == {0, 255}
    p = levels / 255
    on = (sample == 255).double().mean(0)
    assert on[0] == 0
    assert on[-1] == 1
    assert ((on - p).abs() <= 4.5 * (p * (1 - p) / 40_000).sqrt()).all()


def test_a_static_sample_does_not_depend_on_chunks_or_on_later_images() -> None:
    pixels = torch.randint(0, 256, (35, CHUNK // 30), dtype=torch.uint8)
    whole = treat(pixels, "static", 0)
    assert torch.equal(whole, bernoulli_sample(pixels, 0, 0))
    assert torch.equal(whole[:3], treat(pixels[:3], "static", 0))
    assert not torch.equal(whole, treat(pixels, "static", 1))


def test_a_threshold_binarizes_at_one_half_and_none_returns_the_pixels() -> None:
    pixels = torch.tensor([[0, 127, 128, 255]], dtype=torch.uint8)
    assert treat(pixels, "threshold", 0).tolist() == [[0, 0, 255, 255]]
    assert treat(pixels / 255, "threshold", 0).tolist() == [[0, 0, 255, 255]]
    assert treat(pixels, "none", 0) is pixels


def test_the_mean_entropy_is_the_lowest_possible_cross_entropy() -> None:
    pixels = torch.tensor([[0, 51], [255, 0]], dtype=torch.uint8)
    p = 51 / 255
    expected = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / 2
    assert mean_entropy(pixels) == pytest.approx(expected)
    assert mean_entropy(pixels / 255) == pytest.approx(expected, rel=1e-6)
