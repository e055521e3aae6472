"""pythae: its `VAE` and the `train_step` of its `BaseTrainer`, which trains for one epoch of its loader.

The same: weights, order of the images, binary cross entropy and KL, mean over the batch, torch.optim.Adam. Its own: a
dataset of floats in the host's memory (the pixels are divided by 255 before the clock starts), taken image by image and
collated by its `collate_dataset_output`; a decoder that ends in a sigmoid, followed by F.binary_cross_entropy;
`.item()` at every step. Only the sampler of its DataLoader is ours, for the order; its own would shuffle.

Left out of what is timed, in its favour: what `train` does around `train_step` in every epoch (a deep copy of the best
model, a progress bar, log lines) and at its end (files).
"""

import logging
from collections.abc import Callable, Iterator

import torch
from pythae.data.datasets import BaseDataset, collate_dataset_output
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from benchmarks.contenders.network import D, Network, Z, floats


def unavailable(device: str, precision: str) -> str | None:
    """Return why pythae cannot train in this precision; None where it can."""
    return None if precision == "fp32" else "pythae turns AMP off for the binary cross entropy"


class Encoder(BaseEncoder):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.layers = network.encoder

    def forward(self, x: Tensor) -> ModelOutput:
        mu, logvar = self.layers(x).chunk(2, dim=-1)
        return ModelOutput(embedding=mu, log_covariance=logvar)


class Decoder(BaseDecoder):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.layers = network.decoder

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))


class Order(Sampler[int]):
    """A sampler of the entries of `rows`, int64 [S, B], in order."""

    rows: Tensor

    def __init__(self, count: int, batch: int) -> None:
        self.rows = torch.zeros(count, batch, dtype=torch.int64)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows.flatten().tolist())

    def __len__(self) -> int:
        return self.rows.numel()


class OrderedTrainer(BaseTrainer):
    """pythae's trainer, over the images in a given order."""

    def __init__(self, order: Order, *arguments: object, **settings: object) -> None:
        self.order = order
        super().__init__(*arguments, **settings)

    def get_train_dataloader(self, train_dataset: BaseDataset) -> DataLoader[object]:
        size = self.training_config.per_device_train_batch_size
        return DataLoader(train_dataset, size, sampler=self.order, collate_fn=collate_dataset_output)


def build(pixels: Tensor, batch: int, precision: str, steps: int) -> Callable[[Tensor], float]:
    """Return a trainer on the pixels' kind of device: see `benchmarks.contenders.peers`."""
    logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.WARNING)
    network, order = Network(), Order(steps, batch)
    settings = VAEConfig(input_dim=(D,), latent_dim=Z, reconstruction_loss="bce")
    trainer = OrderedTrainer(
        order,
        VAE(settings, Encoder(network), Decoder(network)),
        BaseDataset(floats(pixels), torch.zeros(len(pixels))),
        training_config=BaseTrainerConfig(
            per_device_train_batch_size=batch, learning_rate=1e-3, no_cuda=pixels.device.type != "cuda"
        ),
    )
    trainer.set_optimizer()
    trainer.callback_handler = CallbackHandler([], trainer.model)  # `train` would add the progress bar

    def train(rows: Tensor) -> float:
        order.rows = rows
        return float(trainer.train_step(epoch=1))

    return train
