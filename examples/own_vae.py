"""A plain PyTorch VAE before and after: two lines of it call vae_fast, everything else stays.

    python examples/own_vae.py [EPOCHS]

Both are trained on the embedded digits; the losses agree up to the noise of the seeds.
"""

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vae_fast as vf

SEED = 0


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))


def before(model: VAE, x: Tensor, step: int) -> Tensor:
    mu, logvar = model.encoder(x / 255).chunk(2, dim=-1)
    z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
    nll = F.binary_cross_entropy_with_logits(model.decoder(z), x / 255, reduction="sum")
    kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()
    return (nll + kl) / len(x)


def after(model: VAE, x: Tensor, step: int) -> Tensor:
    mu, logvar = model.encoder(x / 255).chunk(2, dim=-1)
    z = vf.reparameterize(mu, logvar, SEED, step)
    return vf.elbo_loss(model.decoder(z), x, mu, logvar).loss  # uint8 images as they are


def train(loss_of: Callable[[VAE, Tensor, int], Tensor], images: Tensor, epochs: int) -> float:
    """Return the mean loss of the last epoch."""
    torch.manual_seed(SEED)
    model, step = VAE(), 0
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(images)).split(50):
            loss = loss_of(model, images[rows], step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step += 1
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    images = vf.load_images("digits").pixels.flatten(1)  # uint8 [1000, 784]
    for loss_of in (before, after):
        began = time.perf_counter()
        loss = train(loss_of, images, epochs)
        print(f"{loss_of.__name__:<6}  loss {loss:.2f} nats an image, {time.perf_counter() - began:.1f} s")
