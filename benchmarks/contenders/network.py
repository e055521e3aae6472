"""The network that all train, as PyTorch writes it, and the weights from which all start.

784-400-20-400-784 with ReLU, and the weights of `vae_fast.VAE()` made after torch.manual_seed(0).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import vae_fast as vf

D, H, Z = 784, 400, 20  # pixels, hidden units, latent dimensions
Trainer = Callable[[Tensor], float]
"""Trains on the images that its steps take, int64 [S, B] on the CPU, in this order: their mean loss, nats an image"""


def initial_model() -> vf.VAE:
    """The network as this engine has it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return vf.VAE()


class Network(nn.Module):
    """`encoder`: [B, D] pixels in [0, 1] -> [B, 2 Z], mean and log variance; `decoder`: [B, Z] -> [B, D] logits."""

    likelihood = vf.VAE.likelihood

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(Z, H), nn.ReLU(), nn.Linear(H, D))
        self.load_state_dict(dict(zip(self.state_dict(), initial_model().state_dict().values(), strict=True)))

    def stats(self, x: Tensor) -> Tensor:
        """With `decoder` what `vae_fast.training.validation` asks of a model; x uint8."""
        stats: Tensor = self.encoder(x / 255)
        return stats


def floats(pixels: Tensor) -> Tensor:
    """uint8 [N, D] on any device -> float32 in [0, 1] in the host's memory, where the loaders of libraries want it."""
    return pixels.cpu().float() / 255
