"""Counter-based noise: Philox4x32-10 and the normals made from it, in plain PyTorch.

Philox (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) is a keyed bijection of a
128-bit counter. A number depends only on where it is used, so there is no generator state that would have to be saved,
split between devices or advanced inside a captured graph.

    key     = (seed low 32 bits, seed high 32 bits)
    counter = (column // 4, row, step mod 2^32, stream)

One call gives four words; column j uses word j % 4. These functions are the specification of the noise: every other
implementation yields the same integers.
"""

import math

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, as 32-bit fractions
ROUNDS = 10
MASK = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Apply Philox4x32-10 to counters under a key; all words are int64 tensors of values in [0, 2^32)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & MASK, (k1 + KEY_INCREMENTS[1]) & MASK
    return c0, c1, c2, c3


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """Return the high and low 32 bits of the 64-bit product, using halves of the multiplier so that no int64 overflows.

    A product that wraps is correct in eager PyTorch, but undefined in the C++ that torch.compile generates: there the
    compiler assumes that it is positive and drops the mask after the shift, which gives different bits (seen with gcc
    12).
    """
    lower = word * (multiplier & 0xFFFF)
    upper = word * (multiplier >> 16) + (lower >> 16)
    return upper >> 16, (upper & 0xFFFF) << 16 | lower & 0xFFFF


def random_bits(
    rows: int, columns: int, seed: Tensor, step: Tensor, row_offset: int | Tensor = 0, stream: int = 0
) -> Tensor:
    """Return 32 random bits for each of `rows` x `columns` positions.

    `seed` and `step` are 0-d int64 tensors; the result is on their device, int64 [rows, columns] in [0, 2^32).
    """
    calls = -(-columns // 4)
    column = torch.arange(calls, device=seed.device).expand(rows, calls)
    row = (torch.arange(rows, device=seed.device).unsqueeze(1) + row_offset & MASK).expand(rows, calls)
    counter = (column, row, (step & MASK).expand(rows, calls), torch.full_like(column, stream))
    words = philox(counter, (seed & MASK, seed >> 32))
    return torch.stack(words, dim=-1).reshape(rows, 4 * calls)[:, :columns]


def normals(bits: Tensor) -> Tensor:
    """Return standard normal noise, float64 of the shape of `bits` [..., an even number], by Box and Muller (1958).

    Words 2i and 2i + 1 give normals 2i and 2i + 1: sqrt(-2 ln u1) times cosine and sine of 2 pi u2, with
    u1 = ((r >> 8) + 1) 2^-24 in (0, 1] and u2 = (r' >> 8) 2^-24 in [0, 1). In float64, because the angle alone, rounded
    to float32, would cost up to 2e-6.
    """
    pairs = (bits >> 8).unflatten(-1, (-1, 2)).to(torch.float64)
    radius = (-2 * ((pairs[..., 0] + 1) * 2.0**-24).log()).sqrt()
    angle = pairs[..., 1] * (2 * math.pi * 2.0**-24)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(-2)
