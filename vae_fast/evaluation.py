"""loss = nll + kl, nll and kl of images held out, averaged exactly, in nats; float32 whatever the training's precision.

One sample of z an image, with the noise of its own index, so that the result does not depend on the batch.
"""

import torch

from vae_fast.distributed import ALONE, World
from vae_fast.graphs import Capture, Graph
from vae_fast.kernels import streams
from vae_fast.model import VAE
from vae_fast.objective import objective
from vae_fast.stored import Pixels

BATCH = 1000


def evaluate(model: VAE, images: Pixels, seed: int) -> dict[str, float]:
    """One pass over `images` [N, D], wherever they are."""
    return Evaluation(model, images, seed)()


class Evaluation:
    """Repeated passes over the same images.

    Args:
        model: the VAE.
        images: [N, D], uint8 or float32; those on another device than the model go there batch by batch.
        seed: of the noise.
        capture: how to record a whole pass, so that it is replayed; None to run it each time. It takes images that are
            on the device. The batches' offsets are part of what is recorded, so nothing has to be padded or masked.
        world: the processes that share the images.
    """

    def __init__(
        self, model: VAE, images: Pixels, seed: int, capture: Capture | None = None, world: World = ALONE
    ) -> None:
        self._model, self._images, self._seed, self._world = model, images, seed, world
        self._device = next(model.parameters()).device
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        self._graph: Graph | None = capture(self._pass) if capture else None

    def __call__(self) -> dict[str, float]:
        """Evaluate the model as it is now. Waits."""
        if self._graph is None:
            self._pass()
        else:
            self._graph.replay()
        nll, kl = (self._sums / len(self._images)).tolist()
        return {"loss": nll + kl, "nll": nll, "kl": kl}

    @torch.no_grad()
    def _pass(self) -> None:
        self._sums.zero_()
        share = self._world.share(len(self._images))
        for start in range(share.start, share.stop, BATCH):
            x = self._images[start : min(start + BATCH, share.stop)].to(self._device)
            _, nll, kl = objective(self._model, x, self._seed, 0, row_offset=start, stream=streams.EVALUATION)
            self._sums += torch.stack((nll.double().sum(), kl.double().sum()))
        self._world.sum_(self._sums)
