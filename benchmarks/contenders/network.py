"""The network that all contenders train, in plain PyTorch, and the weights that all start from.

784-400-20-400-784 with ReLU, and the weights of `vae_fast.VAE()` made after torch.manual_seed(0).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import vae_fast as vf
from vae_fast.models.likelihood import Likelihood

D, H, Z = 784, 400, 20  # pixels, hidden units, latent dimensions
Trainer = Callable[[Tensor], float]
"""trains on the images of its steps, int64 [S, B] on the CPU, in order; returns their mean loss, nats per image"""


def initial_model() -> vf.VAE:
    """Return this engine's network with the initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return vf.VAE()


class Measurable(nn.Module):
    """What `vae_fast.training.validation` asks of a model beside `stats` and `decoder`."""

    classes, input_shape, latent = 0, (D,), Z

    def mixture(self) -> None:
        """Return what stands for a normal prior."""

    def logits(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        model: Any = self
        logits: Tensor = model.decoder(z)
        return logits


class Network(Measurable):
    """`encoder`: [B, D] pixels in [0, 1] -> [B, 2 Z], mean and log variance; `decoder`: [B, Z] -> [B, D] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.likelihood = Likelihood()
        self.encoder = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(Z, H), nn.ReLU(), nn.Linear(H, D))
        self.load_state_dict(dict(zip(self.state_dict(), initial_model().state_dict().values(), strict=True)))

    def stats(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return [B, 2 Z] for uint8 x."""
        stats: Tensor = self.encoder(x / 255)
        return stats


def floats(pixels: Tensor) -> Tensor:
    """Return uint8 [N, D] of any device as float32 in [0, 1] in the host's memory, where libraries' loaders need it."""
    return pixels.cpu().float() / 255
