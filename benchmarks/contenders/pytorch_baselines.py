"""The VAE in ordinary PyTorch, from the common script to what a careful user makes of it.

Each `build` takes a network and returns its trainer, which returns once all the work is done. The noise comes from
torch's generator.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.contenders.network import D, H, Measurable, Network, Trainer, Z, initial_model
from vae_fast.models.likelihood import Likelihood
from vae_fast.runtime.compile import compiled, keep_compiled_code
from vae_fast.runtime.plan import DTYPES
from vae_fast.training import cuda_graphs


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


class CommonVAE(Measurable):
    """The network of pytorch/examples' vae/main.py: two heads for the posterior, pixels rather than logits."""

    def __init__(self) -> None:
        super().__init__()
        self.likelihood = Likelihood()
        self.fc1, self.fc21, self.fc22 = nn.Linear(D, H), nn.Linear(H, Z), nn.Linear(H, Z)
        self.fc3, self.fc4 = nn.Linear(Z, H), nn.Linear(H, D)
        first, first_bias, stats, stats_bias, *rest = initial_model().state_dict().values()
        heads = (t for pair in zip(stats.chunk(2), stats_bias.chunk(2), strict=True) for t in pair)
        weights = (first, first_bias, *heads, *rest)
        self.load_state_dict(dict(zip(self.state_dict(), weights, strict=True)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        mu, logvar = self.fc21(h), self.fc22(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.decoder(z)), mu, logvar

    def decoder(self, z: Tensor) -> Tensor:
        logits: Tensor = self.fc4(F.relu(self.fc3(z)))
        return logits

    def stats(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return [B, 2 Z] for uint8 x."""
        h = F.relu(self.fc1(x / 255))
        return torch.cat((self.fc21(h), self.fc22(h)), dim=1)


class CarefulVAE(Network):
    """The network with good habits: logits, and one product for both halves of the posterior."""

    def loss(self, x: Tensor, precision: str) -> Tensor:
        with autocast(x.device, precision):
            mu, logvar = self.encoder(x).chunk(2, dim=-1)
            mu, logvar = mu.float(), logvar.float()
            logits = self.decoder(mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)).float()
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (nll - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)


class CommonImages(Dataset[tuple[Tensor, int]]):
    """A dataset that does the same work for every image as torchvision's MNIST with the transform ToTensor."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels.view(-1, 28, 28).cpu()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = Image.fromarray(self.pixels[index].numpy()), 0
        array = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(image.height, image.width, 1)
        return array.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()).div(255), label


def build_common(model: CommonVAE, pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
    """Return the common trainer: images on the device, sigmoid and cross entropy, default Adam, `.item()` each step."""

    def batches(order: Tensor) -> Iterable[Tensor]:
        for rows in order.to(pixels.device):
            yield pixels[rows].float() / 255

    return _common(model, pixels, precision, batches)


def build_loaded(model: CommonVAE, pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
    """Return the same with a DataLoader, as in pytorch/examples; for a GPU with one worker, whose start counts."""
    images = CommonImages(pixels)
    settings: dict[str, Any] = {"num_workers": 1, "pin_memory": True} if pixels.is_cuda else {}

    def batches(order: Tensor) -> Iterable[Tensor]:
        for x, _ in DataLoader(images, batch_sampler=order.tolist(), **settings):
            yield x.to(pixels.device).view(-1, D)

    return _common(model, pixels, precision, batches)


def _common(model: CommonVAE, pixels: Tensor, precision: str, batches: Callable[[Tensor], Iterable[Tensor]]) -> Trainer:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scaler = _scaler(pixels.device, precision)

    def train(order: Tensor) -> float:
        total = 0.0
        for x in batches(order):
            optimizer.zero_grad()
            with autocast(x.device, precision):
                y, mu, logvar = model(x)
            y, mu, logvar = y.float(), mu.float(), logvar.float()  # binary cross entropy needs it under autocast
            nll = F.binary_cross_entropy(y, x, reduction="sum")
            loss = (nll - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.item()
        return total / len(order)

    return train


def build_careful(model: CarefulVAE, pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
    """Return an eager trainer with good habits: logits, PyTorch's fused Adam, no `.item()`."""
    return _careful(model, pixels, batch, precision, lambda loss_of: loss_of)


def build_compiled(model: CarefulVAE, pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
    """Return a trainer with torch.compile of gather, forward and loss."""
    return _careful(model, pixels, batch, precision, compiled)


def build_reduce_overhead(model: CarefulVAE, pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
    """Return a trainer with torch.compile(mode="reduce-overhead"), which records CUDA graphs by itself."""
    keep_compiled_code()
    torch._dynamo.mark_static_address(pixels)  # otherwise its graphs copy all images to their own memory at each step
    compiler = partial(torch.compile, mode="reduce-overhead", fullgraph=True)
    return _careful(model, pixels, batch, precision, compiler)


def _careful(model: CarefulVAE, pixels: Tensor, batch: int, precision: str, compiler: Callable[[Any], Any]) -> Trainer:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    scaler = _scaler(pixels.device, precision)

    def loss_of(rows: Tensor) -> Tensor:
        return model.loss(pixels.index_select(0, rows).float() / 255, precision)

    forward = compiler(loss_of)

    def step(rows: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = forward(rows)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    with _no_trace(optimizer):
        for rows in torch.arange(3 * batch, device=pixels.device).view(3, batch) % len(pixels):
            step(rows)

    def train(order: Tensor) -> float:
        total = torch.zeros((), device=pixels.device)
        for rows in order.to(pixels.device):
            total += step(rows)
        return total.item() / len(order)

    return train


@contextmanager
def _no_trace(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Undo the steps inside, which compile and record off the clock: restore the weights, zero Adam's state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with cuda_graphs.preserved(parameters):
        yield
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()


def build_captured(model: CarefulVAE, pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
    """Return a trainer whose compiled step, with backward and optimizer, is recorded by hand as one CUDA graph."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)
    scaler = _scaler(pixels.device, precision)
    forward = compiled(lambda rows: model.loss(pixels.index_select(0, rows).float() / 255, precision))
    rows = torch.arange(batch, device=pixels.device) % len(pixels)
    total = torch.zeros((), device=pixels.device)

    def step() -> None:
        optimizer.zero_grad()
        loss = forward(rows)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        total.add_(loss.detach())

    with _no_trace(optimizer):
        step()  # creates Adam's state
        graph = cuda_graphs.capture(step)

    def train(order: Tensor) -> float:
        total.zero_()
        for chosen in order.to(pixels.device):
            rows.copy_(chosen)
            graph.replay()
        return total.item() / len(order)

    return train


def _scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
