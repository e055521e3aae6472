"""A network of your own, ten lines of PyTorch, with all that runs have: fused losses, AMP, resume, report, export.

    python -m vae_fast.train --data digits --network examples/own_network.py:make --network-options width=16

The run records where this file is, its SHA-256 and the options, so that commands on the run find the network again.
"""

from torch import nn


def make(shape: tuple[int, int, int], latent: int, outputs: int, width: int = 32) -> tuple[nn.Module, nn.Module]:
    """Return encoder, [B, C, H, W] -> [B, 2 latent], and decoder, [B, latent] -> [B, outputs H W]."""
    channels, height, wide = shape
    small = width * (height // 4) * (wide // 4)
    convolved = nn.Sequential(nn.Conv2d(channels, width, 4, stride=4), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten())
    encoder = nn.Sequential(convolved, nn.Linear(small, 2 * latent))
    hidden = nn.Sequential(nn.Linear(latent, 400), nn.ReLU(), nn.Dropout(0.1))
    decoder = nn.Sequential(hidden, nn.Linear(400, outputs * height * wide))
    return encoder, decoder
