"""Train a VAE, load it again, reconstruct test images and draw new ones.

    python examples/quickstart.py [DATA] [EPOCHS]

DATA is digits (embedded, the default: 20 seconds), mnist, fashion-mnist or a file of images.
"""

import sys

import torch

import vae_fast as vf

data = sys.argv[1] if len(sys.argv) > 1 else "digits"
settings = {"amp": True, "compile": True}
if len(sys.argv) > 2:
    settings["epochs"] = int(sys.argv[2])

if data == "digits":  # so few images need small batches: that is the recipe of a preset
    run = vf.fit(vf.Config.from_preset("digits", **settings))
else:
    run = vf.fit(vf.Config(data=data, **settings))
print(f"test loss {run.metrics[-1]['test_loss']:.2f} nats an image; everything is in {run.directory}")

model = vf.load(run.directory)  # the same model, as another program would load it
images = vf.load_images(data, "test").pixels[:8]
with torch.no_grad():
    mu, logvar = model.encode(images)  # [8, Z] each
    reconstructions = model.decode(mu).sigmoid()  # [8, C, H, W], means of the pixels
    samples = model.decode(torch.randn(8, model.latent)).sigmoid()
pixels = images / 255 if images.dtype == torch.uint8 else images
error = (reconstructions - pixels).abs().mean()
print(f"mean absolute error of the reconstructions {error:.3f}; mean pixel of the samples {samples.mean():.3f}")
