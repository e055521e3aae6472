"""Lightning: the network as a LightningModule, one `Trainer.fit` of one epoch per call.

The same: weights, order of the images, objective, torch.optim.Adam. Its own: a DataLoader over a TensorDataset of
floats in the host's memory (the pixels are divided by 255 before the clock starts), image by image; the loop; AMP by
`precision`. In its favour: logger, checkpoints, progress bar and summary are off, and the loss is summed in a tensor
where `self.log` would be usual. To its disadvantage: `fit` sets everything up again in each call, which a run of many
epochs does once.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.contenders.network import Network, floats

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def unavailable(device: str, precision: str) -> str | None:
    """Return why Lightning cannot train on this device in this precision; None where it can."""
    return "Lightning's fp16 needs a GPU" if (device, precision) == ("cpu", "fp16") else None


class Module(LightningModule):
    """The network, its loss and its optimizer, which outlives a `fit` so that the next continues with its moments."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.adam = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.adam

    def on_train_epoch_start(self) -> None:
        self.total = torch.zeros((), device=self.device)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        (x,) = batch
        mu, logvar = self.network.encoder(x).float().chunk(2, dim=-1)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        nll = F.binary_cross_entropy_with_logits(self.network.decoder(z), x, reduction="sum")
        loss = (nll - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)
        self.total += loss.detach()
        return loss


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's advice (more workers, a GPU) and PyTorch's to Lightning, which 2.6 does not follow yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        yield


@quiet()
def build(pixels: Tensor, batch: int, precision: str, steps: int) -> Callable[[Tensor], float]:
    """Return a trainer on the pixels' device: see `benchmarks.contenders.peers`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    module, dataset, device = Module(), TensorDataset(floats(pixels)), pixels.device
    trainer = Trainer(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=PRECISIONS[precision],
        max_epochs=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # would replace the order with its own sampler
    )

    @quiet()
    def train(order: Tensor) -> float:
        trainer.fit_loop.max_epochs += 1
        trainer.fit(module, DataLoader(dataset, batch_sampler=order.tolist()))
        return module.total.item() / len(order)

    return train
