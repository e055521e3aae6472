"""loss = nll + kl, nll and kl of images held out, averaged exactly, in nats; float32 whatever the training's precision.

One sample of z an image, with the noise of its own index, so that the result does not depend on the batch.
"""

from functools import partial

import torch
from torch import Tensor

from vae_fast.data.images import Pixels
from vae_fast.kernels import streams
from vae_fast.models.vae import VAE
from vae_fast.objectives.elbo import objective
from vae_fast.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from vae_fast.training.cuda_graphs import Capture, Graph

BATCH = 1000


def validate(model: VAE, images: Pixels, seed: int) -> dict[str, float]:
    """One pass over `images` [N, D], wherever they are."""
    return Validation(model, images, seed)()


class Validation:
    """Repeated passes over the same images.

    Args:
        model: the VAE.
        images: [N, D], uint8 or float32; those on another device than the model go there batch by batch.
        seed: of the noise.
        capture: how to record a batch, and one of the size of the last, so that they are replayed; None to run them as
            they are. It takes images that are on the device, where the number of a batch's first one then is, too.
        group: the processes that share the images.
    """

    def __init__(
        self,
        model: VAE,
        images: Pixels,
        seed: int,
        capture: Capture | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self._model, self._images, self._seed, self._group = model, images, seed, group
        self._device = next(model.parameters()).device
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        share = group.shard(len(images))
        self._batches = [
            range(first, min(first + BATCH, share.stop)) for first in range(share.start, share.stop, BATCH)
        ]
        self._first = torch.zeros((), dtype=torch.int64, device=self._device)
        self._graphs: dict[int, Graph] = {}  # by the number of their images
        if capture is not None:
            sizes = sorted({len(batch) for batch in self._batches})
            self._graphs = {size: capture(partial(self._add_resident, size)) for size in sizes}

    def __call__(self) -> dict[str, float]:
        """Evaluate the model as it is now. Waits."""
        self._sums.zero_()
        for batch in self._batches:
            if self._graphs:
                self._first.fill_(batch.start)
                self._graphs[len(batch)].replay()
            else:
                self._add(self._images[batch.start : batch.stop].to(self._device), batch.start)
        self._group.sum_(self._sums)
        nll, kl = (self._sums / len(self._images)).tolist()
        return {"loss": nll + kl, "nll": nll, "kl": kl}

    def _add_resident(self, size: int) -> None:
        rows = self._first + torch.arange(size, device=self._device)
        assert isinstance(self._images, Tensor)
        self._add(self._images.index_select(0, rows), self._first)

    @torch.no_grad()
    def _add(self, x: Tensor, first: int | Tensor) -> None:
        _, nll, kl = objective(self._model, x, self._seed, 0, row_offset=first, stream=streams.EVALUATION)
        self._sums += torch.stack((nll.double().sum(), kl.double().sum()))
