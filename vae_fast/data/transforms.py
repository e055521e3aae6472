"""The treatments of pixels: unchanged, or binarized. Results of different treatments are never compared.

Binarized pixels stay uint8, 0 or 255, so that everything downstream still reads k as k / 255.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fast.config import STANDARDIZED
from vae_fast.data.images import Pixels
from vae_fast.kernels import random_bits, streams

# The `step` of each static sample: all differ, and no training reaches steps this high.
TRAIN_SAMPLE, TEST_SAMPLE, VALID_SAMPLE = 2**32 - 1, 2**32 - 2, 2**32 - 3
TREATMENTS = {  # how results describe the pixels; for "none", `pixel_kind` gives the description
    "none": "pixels as they are",
    "static": "one static Bernoulli sample of the pixels",
    "threshold": "thresholded pixels",
    "dynamic": "dynamically binarized pixels, of those held out one static Bernoulli sample",
}
CHUNK = 1 << 21  # pixels processed at a time: bounds the memory that their random bits and float64 copies take


def pixel_kind(treatment: str, image_shape: Sequence[int]) -> str:
    """Return how results describe the pixels of images [C, H, W] after a treatment: `Config.treatment`."""
    if treatment == STANDARDIZED:
        return "standardized columns"
    if treatment != "none":
        return TREATMENTS[treatment]
    channels = image_shape[0] if len(image_shape) == 3 else 1
    return {1: "grey pixels", 3: "colour pixels"}.get(channels, f"pixels of {channels} channels")


def floats(pixels: Tensor) -> Tensor:
    """Return pixels as float32 in [0, 1]; a uint8 k becomes k/255."""
    return pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()


def bernoulli_sample(pixels: Tensor, seed: int | Tensor, step: int | Tensor, row_offset: int = 0) -> Tensor:
    """Return binary images, uint8 0 or 255, in which each pixel is on with a probability equal to its grey value.

    `pixels` is [B, D], uint8 (k stands for k / 255) or float; the draw is a pure function of (seed, step, row, column).
    """
    rows, columns = pixels.shape
    bits = random_bits(
        rows, columns, seed, step, row_offset=row_offset, stream=streams.BINARIZATION, device=pixels.device
    )
    levels = 255 if pixels.dtype == torch.uint8 else 1
    # u < p with u = (bits >> 8) 2^-24; float64 holds both sides exactly
    return ((bits >> 8).double() * levels < pixels.double() * 2**24).to(torch.uint8) * 255


def treat(pixels: Tensor, treatment: str, sample: int, first_row: int = 0) -> Tensor:
    """Treat images [N, D] as `--binarize` asks before training starts: "none", "static" or "threshold".

    The static sample has seed 0 whatever the run's seed, so that all runs share one data set. Images may be treated
    piece by piece, given the index of each piece's first image: the result is the same as for all at once.
    """
    if treatment == "none":
        return pixels
    if treatment == "threshold":
        half = 128 if pixels.dtype == torch.uint8 else 0.5
        return (pixels >= half).to(torch.uint8) * 255
    rows = _rows(pixels)
    parts = pixels.split(rows)
    return torch.cat([bernoulli_sample(part, 0, sample, first_row + rows * i) for i, part in enumerate(parts)])


def mean_entropy(pixels: Pixels) -> float:
    """Return H(x) of grey pixels [N, D], averaged over the images, in nats: the lowest nll that any decoder can reach.

    H(x) = -sum_d (x_d log x_d + (1 - x_d) log(1 - x_d)).
    """
    scale = 255 if pixels.dtype == torch.uint8 else 1
    total, rows = 0.0, _rows(pixels)
    for start in range(0, len(pixels), rows):
        x = pixels[start : start + rows].to(pixels.device).double() / scale
        total -= (torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).sum().item()
    return total / len(pixels)


def _rows(pixels: Pixels) -> int:
    return max(1, CHUNK // int(pixels.shape[1]))
