"""Tests of images from files: how pixels and labels are stored, and the held-out part."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import vae_fast as vf
from vae_fast.data.dataset import DataSet, load_splits
from vae_fast.errors import DataError

BYTES = np.random.default_rng(0).integers(0, 256, (20, 3, 5), np.uint8)
FLOATS = np.random.default_rng(1).random((20, 3, 5)).astype(np.float32)
LABELS = np.arange(20, dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "mine.npz"


def load(path, **members):
    np.savez(path, **members)
    return load_splits(path)


@settings(max_examples=60, deadline=None)
@given(
    pixels=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=4, max_side=6)).filter(
        lambda x: x.max() != 1  # refused: the check expects white to be 255
    ),
    dtype=st.sampled_from(["u1", "<f4", ">f4", "<f8", ">f8"]),
    order=st.sampled_from("CF"),
)
def test_bytes_come_back_whatever_they_were_stored_as(path, pixels, dtype, order):
    """Check that k/255 in fp32 or fp64, in either byte order, becomes k again."""
    stored = pixels if dtype == "u1" else (pixels / 255).astype(dtype)
    np.save(path.with_name("one.npy"), np.asarray(stored, order=order))
    images, test = load_splits(path.with_name("one.npy"), test_fraction=0, layout="nchw")
    shape = {2: (1, 1), 3: (1,), 4: ()}[pixels.ndim] + pixels.shape[1:]
    assert test is None
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.is_contiguous()
    np.testing.assert_array_equal(images.pixels.numpy(), pixels.reshape(len(pixels), *shape))
    assert images.note == (
        "uint8" if dtype == "u1" else "float pixels stored as uint8: every value is a multiple of 1/255"
    )
    assert (images.name, images.labels, len(images)) == ("one", None, len(pixels))
    if dtype == "<f4" and order == "C":  # these can also be left in the file
        left, _ = DataSet.open(path.with_name("one.npy"), layout="nchw").splits(0, in_file=True)
        assert (left.pixels.dtype, left.pixels.nbytes) == (torch.uint8, images.pixels.nbytes)
        assert torch.equal(left.pixels.to("cpu"), images.pixels)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "f8"])
def test_other_floats_become_fp32(path, dtype):
    stored = FLOATS.astype(dtype)
    images, _ = load(path, train=stored, test=stored)
    np.testing.assert_array_equal(images.pixels.numpy()[:, 0], stored.astype(np.float32), strict=True)
    assert images.note == "float32 (not multiples of 1/255)"


@pytest.mark.parametrize(("off", "kept"), [(0.9e-6, torch.uint8), (1.1e-6, torch.float32)])
@pytest.mark.parametrize("at", [0, 400])
def test_one_pixel_off_the_grid_decides_for_the_whole_set(path, off, kept, at):
    """Check it across the two parts, and in a set that is checked in several chunks."""
    stored = np.full((500, 1000), 0.2)
    stored[at, 7] += off
    train, test = load(path, train=np.full((2, 1000), 0.4), test=stored)
    assert train.pixels.dtype == test.pixels.dtype == kept
    assert test.note.startswith("float32" if kept == torch.float32 else "float pixels stored as uint8")


def test_a_file_gives_its_parts_and_labels(path):
    train, test = load(path, train=BYTES, train_labels=LABELS, test=BYTES[:4], test_labels=LABELS[:4].astype(">i4"))
    assert train.pixels.shape == (20, 1, 3, 5)
    assert train.labels.dtype == test.labels.dtype == torch.int64
    np.testing.assert_array_equal(train.labels, LABELS)
    np.testing.assert_array_equal(test.pixels[:, 0], BYTES[:4])
    np.testing.assert_array_equal(test.labels, LABELS[:4])
    np.testing.assert_array_equal(vf.load_images(path, "test").pixels, test.pixels)
    assert train.name == test.name == "mine"


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 18), (0.5, 10), (0.93, 1)])
def test_the_last_images_are_held_out(path, fraction, count):
    np.savez(path, train=BYTES, train_labels=LABELS)
    train, test = load_splits(path, test_fraction=fraction)
    assert len(train) == count
    np.testing.assert_array_equal(torch.cat([train.pixels, test.pixels])[:, 0], BYTES)
    np.testing.assert_array_equal(torch.cat([train.labels, test.labels]), LABELS)
    assert train.pixels.is_contiguous()
    assert test.pixels.is_contiguous()


def test_asking_for_a_missing_test_part_is_an_error(path):
    np.savez(path, train=BYTES)
    assert len(vf.load_images(path, test_fraction=0)) == 20
    with pytest.raises(DataError, match=r"mine\.npz: has no test part"):
        vf.load_images(str(path), "test", test_fraction=0)
    with pytest.raises(DataError, match=r"holding out 0\.01 of 20 images leaves one part empty"):
        load_splits(path, test_fraction=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("mnits",),
            "mnits: no such file or folder, and not one of digits, mnist, fashion-mnist; did you mean 'mnist'",
        ),
        (("",), "no such file or folder"),
        (("x" * 5000,), "no such file or folder, and not one of"),
        ((5,), "data: expected a name or a path, got 5"),
        (("digits", "valid"), "split: expected 'train' or 'test', got 'valid'"),
    ],
)
def test_bad_arguments_raise_an_error(arguments, message):
    with pytest.raises(DataError, match=message):
        vf.load_images(*arguments)


@pytest.mark.parametrize("fraction", [-0.1, 1, float("nan")])
def test_a_bad_test_fraction_raises_an_error(fraction):
    with pytest.raises(DataError, match="test_fraction: expected at least 0 and less than 1, got"):
        load_splits("digits", test_fraction=fraction)


def test_the_digits_load_with_their_labels():
    train, test = load_splits("digits")
    assert train.pixels.shape == test.pixels.shape == (1000, 1, 28, 28)
    assert (train.name, train.note, train.pixels.dtype) == ("digits", "uint8", torch.uint8)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_the_import_loads_no_heavy_packages():
    program = "import sys, vae_fast.data.dataset; print(*{'rich', 'platformdirs', 'matplotlib'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout == b"\n"
