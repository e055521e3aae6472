"""Ways through the latent space."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vae_fast as vf
from vae_fast import walks


def pair(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 6, generator=generator), torch.randn(2, 6, generator=generator)


@pytest.mark.parametrize("name", walks.PATHS)
@settings(deadline=None)
@given(seed=st.integers(0, 1000), steps=st.integers(2, 9))
def test_paths_begin_and_end_where_they_should(name: str, seed: int, steps: int) -> None:
    a, b = pair(seed)
    path = walks.PATHS[name](a, b, steps)
    assert path.shape == (2, steps, 6)
    torch.testing.assert_close(path[:, 0], a)
    torch.testing.assert_close(path[:, -1], b, rtol=1e-5, atol=1e-6)
    back = walks.PATHS[name](b, a, steps)
    torch.testing.assert_close(back.flip(1), path, rtol=1e-4, atol=1e-5)


def test_the_arc_keeps_its_distance_and_its_pace() -> None:
    a, b = (t / t.norm(dim=-1, keepdim=True) for t in pair(0))
    path = walks.spherical(a, b, 7)
    torch.testing.assert_close(path.norm(dim=-1), torch.ones(2, 7))
    strides = (path[:, 1:] - path[:, :-1]).norm(dim=-1)
    torch.testing.assert_close(strides, strides[:, :1].expand_as(strides), rtol=1e-4, atol=1e-5)
    line = walks.linear(a, b, 7)
    assert (line[:, 3].norm(dim=-1) < 0.99).all()


def test_an_arc_without_a_direction_is_the_line() -> None:
    a = torch.ones(1, 6)
    for b in (2 * a, -a):
        torch.testing.assert_close(walks.spherical(a, b, 5), walks.linear(a, b, 5))


def test_quantiles_are_the_priors() -> None:
    values = walks.quantiles(11)
    torch.testing.assert_close(values, -values.flip(0))
    assert values[5] == 0
    assert torch.special.ndtr(values)[[0, -1]].tolist() == pytest.approx([0.02, 0.98])


def test_a_sweep_moves_one_dimension() -> None:
    around, values = torch.arange(4.0), torch.tensor([-1.0, 0, 1])
    z = walks.sweeps(around, [2, 0], values)
    assert z.shape == (2, 3, 4)
    assert z[0, :, 2].tolist() == z[1, :, 0].tolist() == [-1, 0, 1]
    assert (z[0, :, [0, 1, 3]] == around[[0, 1, 3]]).all()


def test_images_of_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = vf.VAE(hidden=(16,), latent=4)
    z = walks.prior(model, 10, seed=0)
    assert torch.equal(walks.prior(model, 3, seed=0), z[:3])
    assert not torch.equal(walks.prior(model, 3, seed=1), z[:3])
    whole = walks.decode(model, z.view(2, 5, 4))
    assert whole.shape == (2, 5, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(whole.flatten(0, 1), model.decode(z).sigmoid())
    monkeypatch.setattr(walks, "BATCH", 3)
    torch.testing.assert_close(walks.decode(model, z.view(2, 5, 4)), whole)
    images = vf.load_images("digits").pixels[:7]
    with torch.no_grad():
        torch.testing.assert_close(walks.means(model, images), model.encode(images)[0])
