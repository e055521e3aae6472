"""Paths through the latent space."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vae_fast.analysis import latent_paths


def pair(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 6, generator=generator), torch.randn(2, 6, generator=generator)


@pytest.mark.parametrize("name", latent_paths.PATHS)
@settings(deadline=None)
@given(seed=st.integers(0, 1000), steps=st.integers(2, 9))
def test_paths_begin_and_end_where_they_should(name: str, seed: int, steps: int) -> None:
    a, b = pair(seed)
    path = latent_paths.PATHS[name](a, b, steps)
    assert path.shape == (2, steps, 6)
    torch.testing.assert_close(path[:, 0], a)
    torch.testing.assert_close(path[:, -1], b, rtol=1e-5, atol=1e-6)
    back = latent_paths.PATHS[name](b, a, steps)
    torch.testing.assert_close(back.flip(1), path, rtol=1e-4, atol=1e-5)


def test_the_arc_keeps_its_length_and_its_speed() -> None:
    a, b = (t / t.norm(dim=-1, keepdim=True) for t in pair(0))
    path = latent_paths.spherical(a, b, 7)
    torch.testing.assert_close(path.norm(dim=-1), torch.ones(2, 7))
    strides = (path[:, 1:] - path[:, :-1]).norm(dim=-1)
    torch.testing.assert_close(strides, strides[:, :1].expand_as(strides), rtol=1e-4, atol=1e-5)
    line = latent_paths.linear(a, b, 7)
    assert (line[:, 3].norm(dim=-1) < 0.99).all()


def test_an_arc_without_a_direction_is_the_line() -> None:
    a = torch.ones(1, 6)
    for b in (2 * a, -a):
        torch.testing.assert_close(latent_paths.spherical(a, b, 5), latent_paths.linear(a, b, 5))


def test_a_sweep_moves_one_dimension() -> None:
    around, values = torch.arange(4.0), torch.tensor([-1.0, 0, 1]) + torch.arange(4.0)[:, None]
    z = latent_paths.sweeps(around, [2, 0], values)
    assert z.shape == (2, 3, 4)
    assert z[0, :, 2].tolist() == [1, 2, 3]
    assert z[1, :, 0].tolist() == [-1, 0, 1]
    assert (z[0, :, [0, 1, 3]] == around[[0, 1, 3]]).all()
