"""Look into a trained model from Python: its numbers, its active latent dimensions, a walk between two images.

    python examples/analyse_run.py RUN

RUN is a directory that training left. `python -m vae_fast.evaluate RUN` and its siblings do the same from a shell.
"""

import sys

import torch

import vae_fast as vf
from vae_fast.evaluate import evaluate

if len(sys.argv) != 2:
    sys.exit(__doc__)
trained = vf.Trained.open(sys.argv[1])
images = trained.images("test")
print(f"{trained.title}\n{images.title}", flush=True)

numbers = evaluate(trained, images, iw=50)
estimate = numbers["importance_weighted"]
print(f"ELBO        {-numbers['loss']:.2f} nats an image: nll {numbers['nll']:.2f} + kl {numbers['kl']:.2f}")
print(f"log p(x)    {-estimate['nll']:.2f}, from {estimate['samples']} samples an image")
kl = torch.tensor(numbers["kl_per_dimension"])
print(f"dimensions  {numbers['active_units']} of {len(kl)} active; most carry {kl.max():.2f} nats: z{kl.argmax()}")

first, last = images.pick([0, 1])
with torch.no_grad():
    mu, _ = trained.model.encode(torch.stack((first, last)).to(trained.device))
    walk = torch.stack([mu[0].lerp(mu[1], t) for t in torch.linspace(0, 1, 8)])  # [8, Z]
    pictures = trained.model.decode(walk).sigmoid()
print(f"a walk from image 0 to image 1: {list(pictures.shape)}")
