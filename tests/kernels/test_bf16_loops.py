"""Tests of a step's bfloat16 products against float64 with the same roundings and without, and against each other."""

import pytest
import torch

from tests.kernels.mlp_cases import LOOPS, Case, same
from vae_fast.kernels import extension, fused_mlp

pytestmark = [pytest.mark.skipif(not extension.load(), reason=extension.status()), pytest.mark.loops]
each_loop = pytest.mark.parametrize("loop", LOOPS)

SHAPES = [  # batch, pixels, hidden, latent
    (1, 1, (1,), 1),
    (3, 7, (401,), 3),
    (17, 1025, (33, 20), 20),
    (130, 784, (400,), 20),
    (130, 93, (), 7),
    (48, 96, (64,), 16),
    (300, 101, (225,), 7),  # sums in several runs, and blocks of 96 rows
]


@each_loop
@pytest.mark.parametrize(("batch", "pixels", "hidden", "latent"), SHAPES)
def test_gradients_are_those_of_rounded_products(
    batch: int, pixels: int, hidden: tuple[int, ...], latent: int, loop: str
) -> None:
    Case(batch, pixels, hidden, latent, products=loop).check_bf16()


@pytest.mark.parametrize("activation", fused_mlp.FUSED_ACTIVATIONS)
def test_gradients_match_for_every_activation(activation: str) -> None:
    Case(40, hidden=(33, 20), activation=activation, products=LOOPS[0]).check_bf16()


@pytest.mark.parametrize("free_bits", [0.01, 10.0])
def test_gradients_match_with_free_bits(free_bits: float) -> None:
    Case(70, free_bits=free_bits, products=LOOPS[0]).check_bf16()


@pytest.mark.parametrize(
    ("loop", "specification"),
    [("emulated_amx", "portable_as_amx"), ("amx", "portable_as_amx"), ("avx512_bf16", "portable")],
)
@pytest.mark.parametrize(("batch", "pixels", "hidden", "latent"), SHAPES)
def test_a_loop_matches_its_specification_bit_for_bit(
    batch: int, pixels: int, hidden: tuple[int, ...], latent: int, loop: str, specification: str
) -> None:
    if loop not in LOOPS:
        pytest.skip(f"this CPU has no {loop}")
    ours, theirs = (Case(batch, pixels, hidden, latent, products=name).gradients() for name in (loop, specification))
    assert same(ours, theirs)


@each_loop
def test_denormal_operands_are_zero(loop: str) -> None:
    """Check that denormal pixels give no gradient, regardless of how the process treats denormals."""
    case = Case(20, dtype=torch.float32, products=loop)
    case.images = torch.where(torch.arange(93) % 2 == 0, case.images, 1e-39)
    assert case.images[0, 1] > 0
    weight = case.gradients()[0]
    assert (weight[:, 1::2] == 0).all()
    assert weight[:, ::2].count_nonzero() > 0


@each_loop
def test_nan_and_infinity_propagate(loop: str) -> None:
    case = Case(20, products=loop)
    for value in (float("nan"), float("inf")):
        case.parameters[0][3, 5] = value
        case.gradients()
        assert case.terms.tolist() == [0, 0, 0, 0, 1]


def test_copies_round_as_pytorch_does_except_that_denormals_become_zero() -> None:
    case = Case(1, pixels=32, hidden=(16,), latent=1)
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (16, 32), generator=generator).int()  # floats of every exponent
    bits[0, :7] = torch.tensor([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x007FFFFF, 0x00800000])
    weight = case.parameters[0] = bits.view(torch.float32)
    first_tile = (
        fused_mlp.mlp_copies(case.parameters)[:256].view(torch.bfloat16).view(16, 32)
    )  # has this weight's layout
    normal = torch.where(weight.abs() < torch.finfo(torch.float32).tiny, 0 * weight, weight)
    torch.testing.assert_close(first_tile, normal.bfloat16(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(first_tile.signbit() | normal.isnan(), normal.signbit() | normal.isnan())  # -0 is not 0
