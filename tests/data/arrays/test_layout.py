"""Tests of the order of an array's axes."""

import numpy as np
import pytest

import vae_fast as vf
from vae_fast.data.arrays.layout import channels_first
from vae_fast.data.arrays.readers import Source
from vae_fast.data.dataset import DataSet
from vae_fast.errors import DataError

AMBIGUOUS = "ambiguous"


def zeros(*shape):
    return Source(np.zeros((2, *shape), np.uint8), "x.npy")


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((28, 28, 1), "nhwc"), ((64, 48, 3), "nhwc"), ((8, 8, 4), "nhwc"), ((8, 9, 3), "nhwc"),
        ((8, 8, 2), AMBIGUOUS), ((4, 4, 3), AMBIGUOUS), ((3, 3, 1), AMBIGUOUS),
        ((3, 4, 4), AMBIGUOUS), ((3, 3, 3), AMBIGUOUS), ((1, 28, 3), AMBIGUOUS), ((2, 28, 3), AMBIGUOUS),
        ((9, 9, 5), "nchw"), ((64, 64, 32), "nchw"), ((3, 28, 2), "nchw"),
        ((1, 28, 28), "nchw"), ((1, 1, 5), "nchw"), ((1, 5, 1), "nchw"), ((2, 16, 8), "nchw"), ((16, 8, 9), "nchw"),
    ],
)  # fmt: skip
def test_the_shape_says_where_the_channels_are_or_an_error_asks(shape, found):
    source = zeros(*shape)
    last = (2, shape[2], *shape[:2])
    if found == AMBIGUOUS:
        with pytest.raises(DataError, match=r"^x.npy: shape \[2, .*\]: do its channels come last\? Say --layout nhwc"):
            channels_first(source)
    else:
        assert channels_first(source).array.shape == (last if found == "nhwc" else (2, *shape))
    assert channels_first(source, "nhwc").array.shape == last
    assert channels_first(source, "nchw").array is source.array


def test_arrays_of_other_axes_have_no_layout_and_names_are_checked():
    for shape in ((4,), (5, 3)):
        assert channels_first(zeros(*shape), "nhwc").array.shape == (2, *shape)
    with pytest.raises(ValueError, match="layout: expected one of auto, nchw, nhwc, got 'hwc'"):
        channels_first(zeros(2, 2, 2), "hwc")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_of_images_with_channels_last_is_read_like_one_with_channels_first(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (40, 7, 9, channels), np.uint8)
    np.save(tmp_path / "x.npy", images)
    loaded = vf.load_images(tmp_path / "x.npy", test_fraction=0)
    np.testing.assert_array_equal(loaded.pixels.numpy(), np.moveaxis(images, -1, 1))
    assert loaded.pixels.is_contiguous()
    assert loaded.note == "uint8, given with channels last"
    found = DataSet.open(tmp_path / "x.npy")
    if channels == 1:  # the same bytes in either order
        assert found.obstacle is None
        assert np.array_equal(found.splits(0, in_file=True)[0].pixels.to("cpu"), loaded.pixels)
    else:
        assert "its channels come last; write it with numpy.save" in found.obstacle
