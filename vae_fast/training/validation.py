"""loss = nll + kl, nll and kl of held-out images, averaged exactly, in nats; float32 whatever the training's precision.

Each image gets one sample of z, with the noise of its own index, so that the result does not depend on the batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from vae_fast.data.images import Pixels
from vae_fast.kernels import streams
from vae_fast.models.sizes import rows_at_once
from vae_fast.models.vae import VAE
from vae_fast.objectives.elbo import objective
from vae_fast.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from vae_fast.training.cuda_graphs import Capture, Graph


def validate(model: VAE, images: Pixels, seed: int, labels: Tensor | None = None) -> dict[str, float]:
    """Evaluate the model in one pass over `images` [N, D], on whatever device they are; labels: int64 [N]."""
    return Validation(model, images, seed, labels=labels)()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and back at the end: dropout and batch normalisation depend on it."""
    trains = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(trains)


class Validation:
    """Repeated passes over the same images.

    Args:
        model: the VAE.
        images: [N, D], uint8 or float32; if they are on another device than the model, they are copied batch by batch.
        seed: the seed of the noise.
        capture: records one graph per batch size, the last batch being smaller, to be replayed; None to run eagerly.
            It requires images on the device; the index of a batch's first image is then on the device, too.
        group: the processes that share the images.
        labels: int64 [N], if the model has classes.
    """

    def __init__(
        self,
        model: VAE,
        images: Pixels,
        seed: int,
        capture: Capture | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
        labels: Tensor | None = None,
    ) -> None:
        self._model, self._images, self._seed, self._group = model, images, seed, group
        self._device = next(model.parameters()).device
        self._labels = None if labels is None else labels.to(self._device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        share = group.shard(len(images))
        size = rows_at_once(model)
        self._batches = [range(first, min(first + size, share.stop)) for first in range(share.start, share.stop, size)]
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
                labels = None if self._labels is None else self._labels[batch.start : batch.stop]
                self._add(self._images[batch.start : batch.stop].to(self._device), labels, batch.start)
        self._group.sum_(self._sums)
        nll, kl = (self._sums / len(self._images)).tolist()
        return {"loss": nll + kl, "nll": nll, "kl": kl}

    def _add_resident(self, size: int) -> None:
        rows = self._first + torch.arange(size, device=self._device)
        assert isinstance(self._images, Tensor)
        labels = None if self._labels is None else self._labels.index_select(0, rows)
        self._add(self._images.index_select(0, rows), labels, self._first)

    @torch.no_grad()
    def _add(self, x: Tensor, labels: Tensor | None, first: int | Tensor) -> None:
        with evaluating(self._model):
            _, nll, kl = objective(
                self._model, x, self._seed, 0, labels=labels, row_offset=first, stream=streams.EVALUATION
            )
        self._sums += torch.stack((nll.double().sum(), kl.double().sum()))
