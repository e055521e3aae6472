"""Tests of decoding single image files: modes, transparency, orientation, size, and files that are none."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from vae_fast.data.image_files.decode import MOST_PIXELS, How, decode, size_and_channels

RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
SMOOTH = np.linspace(40, 200, 12 * 16).reshape(12, 16).astype(np.uint8)
COLOUR, GREY = How(12, 16, False, False, 3), How(12, 16, False, False, 1)


def pixels_of(found, how):
    planes = np.frombuffer(found.pixels, np.uint8).reshape(how.channels, how.height, how.width)
    return planes.transpose(1, 2, 0)


def encoded(image, kind="PNG", **options):
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_formats_without_loss_give_the_pixels(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(encoded(RGB, kind, **options), COLOUR)
    np.testing.assert_array_equal(pixels_of(found, COLOUR), RGB)
    assert (found.had_alpha, found.was_turned) == (False, False)


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_formats_with_loss_give_nearly_the_pixels(kind):
    found = decode(encoded(np.stack([SMOOTH] * 3, -1), kind), COLOUR)
    assert np.abs(pixels_of(found, COLOUR).astype(int) - SMOOTH[..., None]).max() < 16


def test_only_the_first_frame_of_an_animation_counts():
    frames = [Image.fromarray(np.full((12, 16), value, np.uint8)) for value in (10, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels_of(decode(content, GREY), GREY) == 10).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("how", [GREY, COLOUR])
def test_every_mode_becomes_grey_or_colour(mode, how):
    if mode == "I;16":
        image = Image.fromarray(SMOOTH.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(SMOOTH).convert("RGB" if mode == "CMYK" else "L").convert(mode)
    found = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"), how)
    if mode != "1":
        assert np.abs(pixels_of(found, how).astype(int) - SMOOTH[..., None]).max() <= 2
    assert not found.had_alpha


def test_transparent_pixels_are_composited_on_white():
    pixels = np.dstack([RGB, np.full((12, 16), 255, np.uint8)])
    pixels[:3, :, 3], pixels[3:6, :, 3] = 0, 128
    found = decode(encoded(pixels), COLOUR)
    assert found.had_alpha
    found = pixels_of(found, COLOUR)
    assert (found[:3] == 255).all()
    expected = (RGB[3:6] * 128.0 + 255 * 127) / 255
    assert np.abs(found[3:6] - expected).max() <= 1
    np.testing.assert_array_equal(found[6:], RGB[6:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_in_exif_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = orientation in (5, 6, 7, 8)
    stored = RGB if not turned else RGB.transpose(1, 0, 2)
    content = encoded(np.ascontiguousarray(stored), exif=exif)
    assert size_and_channels(content) == (12, 16, 3)
    found = decode(content, COLOUR)
    ways = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored),
    }  # fmt: skip
    np.testing.assert_array_equal(pixels_of(found, COLOUR), ways[orientation])
    assert found.was_turned == (orientation != 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images_are_stretched_or_their_middle_is_cut_out(kind):
    """Draw three vertical bands, of which the middle one is the square in the centre."""
    pixels = np.zeros((60, 180, 3), np.uint8)
    pixels[:, :60, 0], pixels[:, 60:120, 1], pixels[:, 120:, 2] = 200, 200, 200
    content = encoded(pixels, kind)
    how = How(20, 20, True, True, 3)
    cut = pixels_of(decode(content, how), how)
    assert (cut[:, 2:-2, 1] > 180).all()
    assert (cut[:, 2:-2, [0, 2]] < 30).all()
    how = How(20, 30, True, False, 3)
    stretched = pixels_of(decode(content, how), how)
    for band in range(3):
        assert (stretched[:, band * 10 + 2 : band * 10 + 8, band] > 180).all()


def test_another_size_is_an_error_unless_images_are_resized():
    with pytest.raises(ValueError, match="another size: 12 x 16, not 12 x 15"):
        decode(encoded(RGB), How(12, 15, False, False, 3))


BOMB = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot identify image file"),
        (b"not an image", "cannot identify image file"),
        (encoded(RGB)[:60], "truncated|cannot identify|broken"),
        (encoded(RGB, "JPEG")[:300], "[Tt]runcated|broken|cannot identify"),
        (encoded(RGB, "PDF") if "PDF" in Image.SAVE else b"%PDF", "cannot identify image file"),
        (BOMB + (0).to_bytes(4, "big"), f"60000 x 60000 pixels, more than {MOST_PIXELS:,}|cannot identify|broken"),
    ],
)
def test_what_is_no_image_raises(content, message):
    with pytest.raises((ValueError, OSError, SyntaxError), match=message):
        decode(content, COLOUR)
