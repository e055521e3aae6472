"""Tests of the network: its size, shapes and accepted inputs."""

import pytest
import torch

import vae_fast as vf
from vae_fast.models.layers import ACTIVATIONS


def test_the_default_model_has_the_documented_size() -> None:
    model = vf.VAE()
    assert sum(p.numel() for p in model.parameters()) == 652_824
    assert model.title == "784-400-20-400-784"


@pytest.mark.parametrize("hidden", [(), (7,), (9, 5, 3)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("input_shape", [(1, 4, 4), (3, 2, 5), (6,)])
def test_any_depth_activation_and_shape_works(
    hidden: tuple[int, ...], activation: str, input_shape: tuple[int, ...]
) -> None:
    model = vf.VAE(input_shape, hidden, 2, activation)
    x = torch.rand(5, *input_shape)
    out = model(x, 1, 2)
    assert out.logits.shape == x.shape
    assert out.mu.shape == out.logvar.shape == out.z.shape == (5, 2)
    assert torch.equal(out.z, vf.reparameterize(out.mu, out.logvar, 1, 2))
    assert torch.equal(out.logits, model.decode(out.z))
    assert len([m for m in model.encoder.hidden if isinstance(m, torch.nn.Linear)]) == len(hidden)
    rebuilt = vf.VAE(**model.hyperparameters)
    rebuilt.load_state_dict(model.state_dict())


def test_flat_or_shaped_and_uint8_or_float_inputs_are_the_same_image() -> None:
    model, x = vf.VAE((1, 4, 4), (8,), 3), torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8)
    encodings = [model.encode(form) for form in (x, x.flatten(1), x / 255, (x / 255).flatten(1))]
    for mu, logvar in encodings[1:]:
        torch.testing.assert_close((mu, logvar), encodings[0])


def test_the_initialisation_is_that_of_linear_layers() -> None:
    torch.manual_seed(0)
    weight = vf.VAE().encoder.hidden[0].weight
    torch.manual_seed(0)
    assert torch.equal(weight, torch.nn.Linear(784, 400).weight)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hidden": (0,)}, r"hidden: expected positive integers, got \(0,\)"),
        ({"hidden": 5}, "hidden: expected positive integers, got 5"),
        ({"latent": 2.5}, "latent: expected positive integers"),
        ({"input_shape": (1, True)}, "input_shape: expected positive integers"),
        ({"activation": "sigmoid"}, "activation: expected one of relu, .* got 'sigmoid'"),
    ],
)
def test_bad_settings_are_refused(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vf.VAE(**kwargs)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x: expected \[B, 1, 28, 28\] or \[B, 784\], got \[2, 783\]"):
        vf.VAE().encode(torch.zeros(2, 783))
    for value, shown in ((1.5, "1.5"), (-0.1, "0"), (200.0, "200; uint8 images are taken"), (float("nan"), "nan")):
        with pytest.raises(ValueError, match=rf"x: expected floats in \[0, 1\], got .* to {shown}"):
            vf.VAE().encode(torch.tensor([0.0] * 783 + [value]).expand(2, 784))
    with pytest.raises(ValueError, match=r"z: expected \[B, 20\], got \[2, 3, 20\]"):
        vf.VAE().decode(torch.zeros(2, 3, 20))
    with pytest.raises(TypeError, match=r"x: expected uint8 or a floating dtype, got torch.int64"):
        vf.VAE().encode(torch.zeros(2, 784, dtype=torch.int64))
