"""Training steps a second: this engine against the script that people write. `python -m benchmarks.against_ordinary`

The ordinary script is the VAE of pytorch/examples: each image with its label through PIL and the operations of
torchvision's ToTensor in a DataLoader, sigmoid and binary cross entropy, the default Adam, `.item()` every step. Both
sides have the same network, data and batch size, eager fp32, and take turns in one process, so that a drift of the
machine hits both. A side whose loss did not fall as the other's makes the measurement void.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import vae_fast as vf
from benchmarks.step import engine_block
from vae_fast.data import Images
from vae_fast.errors import DataError
from vae_fast.plan import environment

BATCH = 128
LOSS_TOLERANCE = 0.05  # relative, over a block: the two draw different batches and noise


class OrdinaryImages(Dataset[tuple[Tensor, int]]):
    """The work that torchvision's MNIST with the transform ToTensor does for every image."""

    def __init__(self, images: Images) -> None:
        assert images.labels is not None
        self.pixels, self.labels = images.pixels, images.labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = Image.fromarray(self.pixels[index, 0].numpy()), int(self.labels[index])
        array = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(image.height, image.width, 1)
        return array.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()).div(255), label


class OrdinaryVAE(nn.Module):
    """The network as the example writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x.view(-1, 784)))
        mu, logvar = self.fc21(h), self.fc22(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def ordinary_steps(images: Images) -> Iterator[float]:
    """Endless training steps; yields each one's loss, nats per image."""
    torch.manual_seed(0)
    model = OrdinaryVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(OrdinaryImages(images), batch_size=BATCH, shuffle=True, drop_last=True)
    while True:
        for x, _ in loader:
            optimizer.zero_grad()
            y, mu, logvar = model(x)
            nll = F.binary_cross_entropy(y, x.view(-1, 784), reduction="sum")
            loss = nll - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            loss.backward()
            optimizer.step()
            yield loss.item() / len(x)


def ordinary_block(steps: Iterator[float]) -> Callable[[int], float]:
    return lambda count: statistics.fmean(next(steps) for _ in range(count))


def measure(contenders: dict[str, Callable[[int], float]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds a step of each contender in each round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        losses = {}
        for name, block in contenders.items():
            began = time.perf_counter()
            losses[name] = block(steps)
            if turn:
                times[name].append((time.perf_counter() - began) / steps * 1e3)
        low, high = min(losses.values()), max(losses.values())
        if not high - low <= LOSS_TOLERANCE * low:
            raise SystemExit(f"void: in round {turn} the losses differ: {losses}")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_ordinary", description=__doc__)
    parser.add_argument("--data", default="mnist", help="mnist, or digits where all of MNIST is not at hand")
    parser.add_argument("--data-root", default=os.environ.get("VAE_FAST_DATA"), help="where mnist is")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100, help="a side and round")
    arguments = parser.parse_args()
    try:
        images = vf.load_images(arguments.data, root=arguments.data_root)
    except DataError as error:
        raise SystemExit(f"error: {error}") from None
    contenders = {
        "ordinary": ordinary_block(ordinary_steps(images)),
        "vae_fast": engine_block(images.pixels.flatten(1), BATCH),
    }
    times = measure(contenders, arguments.rounds, arguments.steps)
    print(", ".join(f"{k} {v}" for k, v in environment(torch.device("cpu")).items()))
    print(f"{arguments.data}, 784-400-20, batch {BATCH}, {arguments.rounds} rounds of {arguments.steps} steps a side")
    for name, values in times.items():
        print(f"{name:<10} {statistics.median(values):6.2f} ms a step ({min(values):.2f} to {max(values):.2f})")
    ratios = [a / b for a, b in zip(times["ordinary"], times["vae_fast"], strict=True)]
    print(f"ratio      {statistics.median(ratios):6.2f} times ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
