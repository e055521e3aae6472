"""Train on images of your own: pass an array to `fit`.

    python examples/own_images.py [EPOCHS]

The images here are drawn: 2,000 colour pictures of one disc each, 16 x 16. Put your own array in their place.
"""

import sys

import numpy as np

import vae_fast as vf


def discs(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """Return uint8 [count, size, size, 3]: a disc of random place, radius and colour in each image."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    centre = random.uniform(4, size - 4, (2, count, 1, 1))
    radius = random.uniform(2, 5, (count, 1, 1))
    distance = np.hypot(y - centre[0], x - centre[1])
    inside = np.clip(radius - distance + 0.5, 0, 1)  # [count, size, size], soft at the rim
    colour = random.uniform(0.3, 1, (count, 1, 1, 3))
    return np.rint(255 * colour * inside[..., None]).astype(np.uint8)


images = discs(2000)
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
config = vf.Config(hidden=(256,), latent=8, batch_size=50, epochs=epochs)
run = vf.fit(config, images=images[:1800], test_images=images[1800:])
print(f"test loss {run.metrics[-1]['test_loss']:.1f} nats an image; pictures in {run.directory / 'pictures'}")

# The same from a file, which the command line can read too: python -m vae_fast.train --data RUN/discs.npz
file = run.directory / "discs.npz"
np.savez(file, train=images[:1800], test=images[1800:])
loaded = vf.load_images(file, "test")  # what training would see; an error says what is wrong with it
print(f"test part: {list(loaded.pixels.shape)}, kept as {loaded.note}")
