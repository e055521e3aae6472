"""Train on images of your own: make an .npz of them, check it, train.

    python examples/own_images.py [EPOCHS]

The images here are drawn: 2,000 colour pictures of one disc each, 16 x 16. Put your own array in their place.
"""

import sys
from pathlib import Path

import numpy as np

import vae_fast as vf


def discs(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """Return uint8 [count, 3, size, size]: a disc of random place, radius and colour in each image."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    centre = random.uniform(4, size - 4, (2, count, 1, 1))
    radius = random.uniform(2, 5, (count, 1, 1))
    distance = np.hypot(y - centre[0], x - centre[1])
    inside = np.clip(radius - distance + 0.5, 0, 1)  # [count, size, size], soft at the rim
    colour = random.uniform(0.3, 1, (count, 3, 1, 1))
    return np.rint(255 * colour * inside[:, None]).astype(np.uint8)


images = discs(2000)
print(f"images: {images.dtype} {images.shape}, from {images.min()} to {images.max()}")
# Channels last, [N, H, W, C], would be: images = np.moveaxis(images, -1, 1)
file = Path("discs.npz")
np.savez(file, train=images[:1800], test=images[1800:])

loaded = vf.load_images(file, "test")  # what training would see; an error says what is wrong with it
print(f"test part: {list(loaded.pixels.shape)}, kept as {loaded.note}")

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
run = vf.fit(vf.Config(data=str(file), hidden=(256,), latent=8, batch_size=50, epochs=epochs))
print(f"test loss {run.metrics[-1]['test_loss']:.1f} nats an image; pictures in {run.directory / 'pictures'}")
