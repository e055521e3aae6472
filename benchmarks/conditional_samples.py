"""The share of a conditional model's samples that a classifier, trained on real images, takes for their label.

`python -m benchmarks.conditional_samples RUN`. The classifier is a small convolutional network, trained for three
epochs on the training images of the run; its accuracy on the test images is printed beside the result.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reporting.tables import markdown
from vae_fast.analysis.trained import Selection, Trained
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.numbers import positive_number
from vae_fast.data.transforms import floats
from vae_fast.errors import ConfigError
from vae_fast.sample import sample

BATCH, EPOCHS = 128, 3


def classifier(shape: Sequence[int], classes: int) -> nn.Module:
    channels, height, width = shape
    values = 64 * (-(-height // 4)) * (-(-width // 4))
    halves = [nn.Conv2d(channels, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*halves, nn.Linear(values, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, classes))


def trained_classifier(images: Selection, classes: int) -> nn.Module:
    torch.manual_seed(0)
    model = classifier(images.pixels.shape[1:], classes)
    optimizer, labels = torch.optim.Adam(model.parameters(), 1e-3, fused=True), images.labels
    pixels = images.pixels[: len(images.pixels)].to("cpu")
    assert labels is not None, "the model is conditional"
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH):
            x = floats(pixels[rows])
            loss = F.cross_entropy(model(x), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.inference_mode()
def hits(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return for each image whether it is classified as its label: bool [N]."""
    parts = zip(images.split(1000), labels.split(1000), strict=True)
    return torch.cat([model(floats(x)).argmax(1) == y for x, y in parts])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conditional_samples", description=__doc__)
    parser.add_argument("run", type=Path, help="the directory of a run with --conditional")
    parser.add_argument("--count", type=positive_number, default=1000, help="samples of each class; default: 1000")
    chosen = parser.parse_args(arguments)
    trained = Trained.open(chosen.run, "cpu")
    classes = trained.model.classes
    if not classes:
        raise ConfigError(f"run: expected one with --conditional, {chosen.run} has no labels")
    model, test = trained_classifier(trained.images("train"), classes), trained.images("test")
    assert test.labels is not None
    images = test.pixels[: len(test.pixels)].to("cpu")
    print(f"{trained.title}; classifier: {hits(model, images, test.labels).float().mean():.2%} of real test images\n")
    rows, found = [], []
    for label in range(classes):
        drawn = sample(trained, chosen.count, seed=label, label=label).view(chosen.count, *images.shape[1:])
        found.append(hits(model, drawn, torch.full((chosen.count,), label)))
        rows.append([str(label), f"{found[-1].float().mean():.2%}"])
    rows.append(["all", f"{torch.cat(found).float().mean():.2%}"])
    print("\n".join(markdown(["label", "samples taken for it"], rows, 1)))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
