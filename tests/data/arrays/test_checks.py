"""Tests of the checks of images and labels, each with its own message."""

import numpy as np
import pytest

from vae_fast.data.arrays.checks import check
from vae_fast.data.arrays.readers import Source
from vae_fast.errors import DataError

BYTES = np.random.default_rng(0).integers(0, 256, (20, 3, 5), np.uint8)
FLOATS = np.random.default_rng(1).random((20, 3, 5)).astype(np.float32)
LABELS = np.arange(20, dtype=np.uint8)


def off(index, value, array=FLOATS):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"train": BYTES.astype(np.int64) * 257},
            r"\(train\): its int64 pixels are between 0 and 65535: expected .*16-bit pixels. Divide by 65535, as",
        ),
        ({"train": BYTES.astype(np.int64) - 128}, r"between -128 and 127: .*Use \(images \+ 128\) / 255, as float32"),
        (
            {"train": BYTES.astype(complex)},
            r"\(train\): dtype complex128: expected integers of 0 to 255, bool, or floats",
        ),
        ({"train": BYTES[0, 0]}, r"shape \[5\]: expected \[N, H, W\], \[N, C, H, W\], \[N, H, W, C\] or \[N, D\]"),
        ({"train": off((7, 1, 2), np.nan)}, r"image 7: the value at \[7, 1, 2\] is NaN: expected .* repair or drop"),
        (
            {"train": off((7, 1, 2), np.inf)},
            r"image 7: the value at \[7, 1, 2\] is infinite \(inf\): expected .* repair or drop",
        ),
        (
            {"train": off(400, 9, np.zeros((500, 1000)))},
            r"image 400: the value at \[400, 0\] is 9: expected a number in \[0, 1\]",
        ),
        ({"train": FLOATS, "test": off((3, 0, 0), np.nan)}, r"\(test\): image 3: the value at \[3, 0, 0\] is NaN"),
        (
            {"train": BYTES, "train_labels": LABELS[:7]},
            r"\(train_labels\): shape \[7\]: expected \[20\], one label for",
        ),
        (
            {"train": BYTES, "train_labels": LABELS / 2},
            r"\(train_labels\): dtype float64: expected labels that are int",
        ),
        (
            {"train": BYTES, "train_labels": LABELS.astype("u8")},
            "dtype uint64: expected labels that are integers or strings; convert to int64",
        ),
        ({"train": BYTES, "test": BYTES[:, 1:]}, r"\(test\): test images are \[2, 5\], training images \[3, 5\]"),
        ({"train": BYTES, "test_labels": LABELS}, r"\(test_labels\): labels of test images that are missing"),
        ({"train": BYTES % 2}, "its largest pixel is 1, but a uint8 white is 255; multiply the pixels by 255"),
        (
            {"train": BYTES, "test": FLOATS},
            r"\(test\): its float pixels are not multiples of 1/255, .* uint8; store both",
        ),
    ],
)
def test_a_bad_set_raises_an_error_that_names_the_fault_and_the_file(members, message):
    with pytest.raises(DataError, match=message) as caught:
        check({part: Source(array, f"x.npz ({part})") for part, array in members.items()})
    assert str(caught.value).startswith("x.npz (")


NORMAL = np.random.default_rng(2).normal(size=(20, 3, 5))
SCALES = {
    "0/1 uint8": (BYTES % 2, "its largest pixel is 1, but a uint8 white is 255; multiply the pixels by 255"),
    "twice divided": (
        BYTES / 255**2,
        "largest pixel is 0.0039.*: divided by 255 twice. Multiply the pixels by 255",
    ),
    "0 to 200, no white": (
        BYTES[:, 1:2].clip(0, 200) * 1.0,
        "and 200: probably white is 255: divide by 255, or conv",
    ),
    "0 to 255, resampled": (BYTES * 0.98, "white is 255: divide by 255$"),
    "16 bits": (BYTES * 257.0, "between .* and 6....: 16-bit pixels. Divide by 65535"),
    "0 to 16": (BYTES % 17 * 1.0, "between 0 and 16: divide by the value that stands for white"),
    "12 bits": (BYTES * 16.0, "between .* and 40..: divide by the value that stands for white"),
    "signed": (BYTES * 1.0 - 128, r"signed bytes. Use \(images \+ 128\) / 255"),
    "centred": (FLOATS - 0.5, "centred. Use images \\+ 0.5"),
    "more": (BYTES * 1e6, "divide by the value that stands for white"),
    "-1 to 1": (FLOATS * 2 - 1, r"between -0.9\d+ and 0.99\d+: rescaled to \[-1, 1\]. Use \(images \+ 1\) / 2"),
    "standardised": (NORMAL, r"between -2.\d+ and 2.\d+: standardised. Undo it: images \* standard deviation \+ mean"),
    "overshoot": (FLOATS * 1.1 - 0.04, r"overshoot of a resampling. Use numpy.clip\(images, 0, 1\)"),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("kind", SCALES)
def test_the_error_for_a_wrong_scale_names_its_likely_cause_in_every_part(kind, part):
    pixels, message = SCALES[kind]
    good = BYTES if pixels.dtype == np.uint8 else BYTES / 255
    parts = {"train": good[:, :1], "test": good[:, :1]} | {part: pixels[:, :1]}
    with pytest.raises(DataError, match=rf"^x.npz \({part}\): .*{message}"):
        check({name: Source(array, f"x.npz ({name})") for name, array in parts.items()})


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_entirely_black_images_pass_the_checks_of_scale(dtype):
    assert check({"train": Source(np.zeros((4, 5), dtype), "x.npy")})["train"] in (1, 255)


@pytest.mark.parametrize(
    ("parts", "factors"),
    [
        ((BYTES,), [1]),
        ((BYTES > 99,), [255]),
        ((BYTES.astype(np.int64), BYTES > 99), [1, 255]),
        ((BYTES.astype("i2") % 2,), [255]),
        ((BYTES.astype("i2") % 2, BYTES), [1, 1]),  # dark pixels
        ((BYTES / 255, BYTES.astype("i8")), [255, 1]),
        ((FLOATS,), [None]),
        ((FLOATS, BYTES / 255), [None, None]),
    ],
)
def test_the_factor_that_makes_pixels_bytes_depends_on_both_parts(parts, factors):
    found = check({name: Source(array, "x.npz") for name, array in zip(("train", "test"), parts, strict=False)})
    assert [*found.values()] == factors
