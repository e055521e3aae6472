"""loss = nll + kl, nll and kl of held-out images, averaged exactly, in nats; float32 whatever the training's precision.

Each image gets one sample of z, with the noise of its own index, so that the result does not depend on the batch.
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
    """Evaluate the model in one pass over `images` [N, D], on whatever device they are."""
    return Validation(model, images, seed)()


class Validation:
    """Repeated passes over the same images.

    Args:
        model: the VAE.
        images: [N, D], uint8 or float32; if they are on another device than the model, they are copied batch by batch.
        seed: the seed of the noise.
        capture: records one graph per batch size, the last batch being smaller, to be replayed; None to run eagerly.
            It requires images on the device; the index of a batch's first image is then on the device, too.
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
        self._graphs: dict[int, Graph] = {}  # by their number of images
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
