"""Tests of the shuffle and of the batches that it yields."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_fast.data.sampler import BatchSampler, shuffled
from vae_fast.errors import DataError
from vae_fast.kernels import random_bits, streams


@given(count=st.integers(0, 200), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000))
def test_the_shuffle_is_a_permutation_and_a_pure_function(count: int, seed: int, epoch: int) -> None:
    order = shuffled(count, seed, epoch)
    assert order.sort().values.tolist() == list(range(count))
    assert torch.equal(order, shuffled(count, seed, epoch))


def test_epochs_and_seeds_give_different_shuffles_without_bias() -> None:
    orders = torch.stack([shuffled(6, seed, epoch) for seed in range(40) for epoch in range(50)]).double()
    # where an image lands is uniform on 0..5: mean 2.5, variance 35/12
    assert ((orders.mean(0) - 2.5).abs() < 4.5 * (35 / 12 / len(orders)) ** 0.5).all()
    assert len(orders.unique(dim=0)) > 600


@given(count=st.integers(1, 60), size=st.integers(1, 60))
def test_batches_cover_the_epoch_but_for_an_incomplete_one(count: int, size: int) -> None:
    if size > count:
        with pytest.raises(DataError, match=f"batch_size: expected at most the {count} training images, got {size}"):
            BatchSampler(count, size, 0)
        return
    sampler = BatchSampler(count, size, seed=3)
    order = sampler.order(2)
    assert order.shape == (sampler.steps_per_epoch, size)
    assert len(order.unique()) == order.numel() == count - sampler.left_out


def test_an_order_drawn_in_blocks_equals_one_drawn_at_once() -> None:
    count = (1 << 20) + 5
    bits = random_bits(count, 2, 7, 3, stream=streams.SHUFFLE)
    assert torch.equal(shuffled(count, 7, 3), (bits[:, 0] * 2**31 + bits[:, 1] // 2).argsort(stable=True))
    order = BatchSampler(count, 1000, seed=7).order(3)
    assert order.shape == (1048, 1000)
