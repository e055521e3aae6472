"""The network that every peer trains, as PyTorch writes it, and the weights from which all start."""

import torch
from torch import Tensor, nn

import vae_fast as vf

D, H, Z = 784, 400, 20  # pixels, hidden units, latent dimensions


class Network(nn.Module):
    """784-400-20-400-784 in nn.Linear and ReLU, with the weights of `vae_fast.VAE()` made after torch.manual_seed(0).

    `encoder`: [B, D] pixels in [0, 1] -> [B, 2 Z], the posterior's mean, then its log variance.
    `decoder`: [B, Z] latents -> [B, D] logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(Z, H), nn.ReLU(), nn.Linear(H, D))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = vf.VAE().state_dict().values()
        self.load_state_dict(dict(zip(self.state_dict(), weights, strict=True)))


def floats(pixels: Tensor) -> Tensor:
    """uint8 [N, D] on any device -> float32 in [0, 1] in the host's memory, where the loaders of libraries want it."""
    return pixels.cpu().float() / 255
