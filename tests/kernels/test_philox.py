"""Tests of the noise: published vectors, the counter's layout, the distribution, and split batches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vae_fast.kernels import extension, philox, reparameterize

IMPLEMENTATIONS = [
    "reference",
    pytest.param("cpp", marks=pytest.mark.skipif(not extension.load(), reason=extension.status())),
]
SEEDS = st.integers(0, 2**63 - 1)


def scalar(value: int) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.int64)


def normals(rows: int, columns: int, seed: int, step: int = 0, row_offset: int = 0, stream: int = 0) -> torch.Tensor:
    return philox.normals(philox.random_bits(rows, columns, scalar(seed), scalar(step), row_offset, stream))


# kat_vectors of Random123 (Salmon et al. 2011), philox4x32 with 10 rounds: counter, key, result
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, expected: str) -> None:
    words = [scalar(int(word, 16)) for word in (counter + " " + key).split()]
    result = philox.philox(tuple(words[:4]), tuple(words[4:]))
    assert [f"{word.item():08x}" for word in result] == expected.split()


@given(
    seed=SEEDS,
    step=st.integers(0, 2**63 - 1),
    row=st.integers(0, 2**32 - 1),
    column=st.integers(0, 40),
    stream=st.integers(0, 99),
)
def test_random_bits_are_laid_out_as_specified(seed: int, step: int, row: int, column: int, stream: int) -> None:
    """Compute one position's bits with Python's integers: key, counter and word as the docstring specifies."""

    def rounds(counter: list[int], key: list[int]) -> list[int]:
        for _ in range(10):
            first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
            counter = [
                second >> 32 ^ counter[1] ^ key[0],
                second % 2**32,
                first >> 32 ^ counter[3] ^ key[1],
                first % 2**32,
            ]
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        return counter

    expected = rounds([column // 4, row, step % 2**32, stream], [seed % 2**32, seed >> 32])[column % 4]
    bits = philox.random_bits(1, column + 1, scalar(seed), scalar(step), row, stream)
    assert bits.shape == (1, column + 1)
    assert bits[0, column] == expected


@given(seed=SEEDS, rows=st.integers(0, 9), split=st.integers(0, 9), columns=st.integers(0, 4).map(lambda n: 2 * n))
def test_a_split_batch_draws_what_the_whole_draws(seed: int, rows: int, split: int, columns: int) -> None:
    split = min(split, rows)
    whole = normals(rows, columns, seed, 3)
    parts = normals(split, columns, seed, 3), normals(rows - split, columns, seed, 3, row_offset=split)
    assert torch.equal(whole, torch.cat(parts))


def test_normals_are_the_transform_of_box_and_muller() -> None:
    r = philox.random_bits(5, 4, scalar(7), scalar(2)).tolist()
    drawn_rows = normals(5, 4, 7, 2).tolist()
    for words, drawn in zip(r, drawn_rows, strict=True):
        for i in (0, 2):
            u1, u2 = ((words[i] >> 8) + 1) / 2**24, (words[i + 1] >> 8) / 2**24
            radius = math.sqrt(-2 * math.log(u1))
            expected = (radius * math.cos(2 * math.pi * u2), radius * math.sin(2 * math.pi * u2))
            assert drawn[i : i + 2] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def drawn(impl: str, rows: int, seed: int = 5, step: int = 0, stream: int = 0) -> Tensor:
    """Draw normals [rows, 20] with the operator."""
    zeros = torch.zeros(rows, 20)
    return reparameterize(zeros, zeros, seed, step, stream=stream, impl=impl)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_normals_have_the_normal_distribution(impl: str) -> None:
    """Check 10^7 normals: moments and tails within 4.5 standard errors, and the Kolmogorov-Smirnov distance."""
    n = 10_000_000
    x = drawn(impl, n // 20).flatten().double()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(x.pow(power).mean().item() - mean) < 4.5 * math.sqrt(variance / n)
    for bound in (2.0, 3.0, 4.0, 4.5):
        for tail in (x > bound, x < -bound):
            expected = n * math.erfc(bound / math.sqrt(2)) / 2
            assert abs(tail.sum().item() - expected) < 4.5 * math.sqrt(expected)
    assert 4.8 < x.abs().max() <= math.sqrt(48 * math.log(2))  # the smallest u1 is 2^-24
    distribution = torch.special.ndtr(x.sort().values)
    distance = (distribution - torch.arange(1, n + 1) / n).abs().max().item()
    assert distance < 1.95 / math.sqrt(n)  # exceeded by chance once in a thousand


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_normals_are_independent_across_columns_rows_steps_seeds_and_streams(impl: str) -> None:
    rows = 50_000
    x = drawn(impl, rows)
    others = {
        **{f"column + {lag}": x.roll(lag, 1) for lag in (1, 2, 3, 4)},
        **{f"row + {lag}": x.roll(lag, 0) for lag in (1, 2, 256)},
        "step + 1": drawn(impl, rows, step=1),
        "seed + 1": drawn(impl, rows, seed=6),
        "seed + 2^32": drawn(impl, rows, seed=5 + 2**32),
        "stream + 1": drawn(impl, rows, stream=1),
    }
    for name, other in others.items():
        n = x.numel()
        assert abs((x * other).mean().item()) < 4.5 / math.sqrt(n), name
        squares = ((x.square() - 1) * (other.square() - 1)).mean().item()  # with variance 2 * 2
        assert abs(squares) < 4.5 * 2 / math.sqrt(n), name
