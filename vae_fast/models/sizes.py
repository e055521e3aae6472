"""The sizes of a network's layers: how much memory a run needs, and how many images fit at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vae_fast.config import Config
from vae_fast.models.build import new_model
from vae_fast.models.vae import VAE

MOST_ROWS = 1000
PART_BYTES = 1 << 30  # for the values, and their gradients, of the images that a step computes together
LAYER_BYTES = 1 << 27  # for the outputs of one layer where images go through a network without gradients


def layer_sizes(model: VAE) -> dict[str, list[int]]:
    """Return how many values each layer of "encoder" and "decoder" outputs for an image, in the order of the calls."""
    device = next(model.parameters()).device
    labels = torch.zeros(1, dtype=torch.int64, device=device) if model.classes else None
    x, z = torch.zeros(1, *model.input_shape, device=device), torch.zeros(1, model.latent, device=device)
    calls: dict[str, Any] = {"encoder": lambda: model.stats(x, labels), "decoder": lambda: model.logits(z, labels)}
    trains = model.training
    model.eval()
    try:
        with torch.no_grad():
            return {name: _outputs(model, call) for name, call in calls.items()}
    finally:
        model.train(trains)


def _outputs(model: nn.Module, call: Any) -> list[int]:
    sizes: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    leaves = [m for m in model.modules() if not list(m.children())]
    handles = [module.register_forward_hook(note) for module in leaves]
    try:
        values = call().numel()
    finally:
        for handle in handles:
            handle.remove()
    return sizes or [values]  # of a half that calls no layers


def rows_at_once(model: VAE, nbytes: int = LAYER_BYTES) -> int:
    """Return how many images can go through the network at once if a layer's outputs may take `nbytes` bytes."""
    return max(1, min(MOST_ROWS, nbytes // (4 * max(map(max, layer_sizes(model).values())))))


def network_memory(config: Config, input_shape: Sequence[int], classes: int = 0) -> int:
    """Estimate the bytes that weights, gradients, moments and the activations of one batch take, all float32.

    Of a user's network, which only its own code can make, it is 0.
    """
    if ":" in config.network:
        return 0
    with torch.device("meta"):
        model = new_model(config, input_shape, classes)
    parameters = sum(p.numel() for p in model.parameters())
    most: int = max(part.stop - part.start for part in parts_of(model, config.batch_size, config.samples))
    inputs = config.components if config.prior == "vamp" else 0  # which go through the encoder, too
    encoded = 8 * inputs * sum(layer_sizes(model)["encoder"])
    return 16 * parameters + most * image_memory(model, config.samples) + encoded


def image_memory(model: VAE, samples: int) -> int:
    """Return the bytes that an image takes in a step: its values and their gradients, float32."""
    sizes = layer_sizes(model)
    of_sample = model.pixels + sum(sizes["decoder"]) + (0 if model.prior.is_normal else model.prior.components)
    values: int = sum(sizes["encoder"]) + samples * of_sample
    return 8 * values


def parts_of(model: VAE, batch: int, samples: int) -> list[slice]:
    """Return the parts in which a step computes a batch: one, unless several samples an image need too much memory.

    A batch whose images depend on each other, as batch normalisation makes them, is not divided.
    """
    together = max(1, PART_BYTES // image_memory(model, samples))
    if samples == 1 or model.has_moving_buffers or together >= batch:
        return [slice(0, batch)]
    return [slice(first, min(first + together, batch)) for first in range(0, batch, together)]
