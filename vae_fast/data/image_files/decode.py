"""A worker process that decodes image files: `python -m vae_fast.data.image_files.decode`

It reads frames from its standard input, each the bytes of one file, and writes the pixels to its place in an array's
file. It imports Pillow alone, so that it starts fast, and a file that crashes the decoder ends only a worker.
"""

import json
import os
import signal
import struct
import sys
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple

from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
MOST_PIXELS = 100_000_000  # of one file; more are a decompression bomb
FRAME = struct.Struct(
    "<qqq"
)  # the array's file by its number, or -1 at the end of a batch; the row; the bytes that follow
OTHER_SIZE = "another size"  # how the error begins
DETAIL = 2  # a JPEG is decoded at the smallest of its scales that is this many times the wanted size, or more


class How(NamedTuple):
    """What becomes of an image.

    height, width: its size. resizes: whether images of another size are resized, or are errors. crop: whether resizing
    keeps their shape and cuts out the middle, or stretches them. channels: 1 for grey, 3 for colour.
    """

    height: int
    width: int
    resizes: bool
    crop: bool
    channels: int


class Decoded(NamedTuple):
    """Pixels, [C, H, W] as bytes, and whether the image was transparent in places and was turned upright."""

    pixels: bytes
    had_alpha: bool
    was_turned: bool


def decode(content: bytes | str, how: How) -> Decoded:
    """Decode an image file, given its content or its path.

    Raises ValueError or OSError, or any error of Pillow's, if it is no image or is damaged.

    Only the first frame of an animation counts. Transparent pixels are composited on white, and the orientation in EXIF
    is applied.
    """
    with opened(content) as image:
        height, width, was_turned = _upright_size(image)
        if (height, width) != (how.height, how.width):
            if not how.resizes:
                raise ValueError(f"{OTHER_SIZE}: {height} x {width}, not {how.height} x {how.width}")
            if image.format == "JPEG":
                enough = DETAIL * max(how.height, how.width)
                image.draft("L" if how.channels == 1 else "RGB", (enough, enough))
        upright = ImageOps.exif_transpose(image) if was_turned else image
        flat, had_alpha = _without_alpha(upright)
        mode = "L" if how.channels == 1 else "RGB"
        flat = flat if flat.mode == mode else flat.convert(mode)
        size = (how.width, how.height)
        if flat.size != size:
            flat = ImageOps.fit(flat, size, Image.Resampling.BICUBIC) if how.crop else flat.resize(size)
        interleaved = flat.tobytes()  # cut up below, which is faster than taking band by band
        pixels = b"".join(interleaved[channel :: how.channels] for channel in range(how.channels))
        return Decoded(pixels, had_alpha, was_turned)


def size_and_channels(content: bytes | str) -> tuple[int, int, int]:
    """Return the height and width of an image file after turning it upright, and 1 for grey or 3 for colour."""
    with opened(content) as image:
        height, width, _ = _upright_size(image)
        return height, width, 1 if image.mode in ("1", "L", "LA", "I", "I;16") else 3


def opened(content: bytes | str) -> Any:
    """Return an image of which only the header has been read."""
    image = Image.open(BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
    return image


def _upright_size(image: Any) -> tuple[int, int, bool]:
    """Return height and width of an image turned as its EXIF says, and whether that changes anything."""
    orientation = image.getexif().get(0x0112, 1)
    width, height = image.size
    return (width, height, True) if orientation in (5, 6, 7, 8) else (height, width, orientation in (2, 3, 4))


def _without_alpha(image: Any) -> tuple[Any, bool]:
    """Return an image of 8 bits without transparency, on white, and whether any of it was transparent."""
    if image.mode.startswith("I"):  # 16 bits, grey
        import numpy as np

        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)), False
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image, False
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema()[0] == 255:
        return layered.convert("RGB"), False
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB"), True


def main() -> None:
    """Decode the frames of standard input into the files that the arguments name, and report after each batch."""
    Image.MAX_IMAGE_PIXELS = None  # `opened` has a limit of its own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that feeds this one decides
    settings = json.loads(sys.argv[1])
    how = How(**settings["how"])
    files = [os.open(path, os.O_WRONLY) for path in settings["paths"]]
    bytes_each = how.height * how.width * how.channels
    broken: list[tuple[int, int, str]] = []
    counts = {"had_alpha": 0, "was_turned": 0}
    for number, row, content in _frames():
        if number < 0:
            print(json.dumps({"broken": broken, **counts}), flush=True)
            broken, counts = [], dict.fromkeys(counts, 0)
            continue
        try:
            found = decode(content, how)
        except Exception as error:  # Pillow raises a dozen types on damaged files
            broken.append((number, row, str(error).partition("\n")[0] or type(error).__name__))
            continue
        os.pwrite(files[number], found.pixels, settings["offset"] + row * bytes_each)
        counts["had_alpha"] += found.had_alpha
        counts["was_turned"] += found.was_turned


def _frames() -> Iterator[tuple[int, int, bytes | str]]:
    stream = sys.stdin.buffer
    while len(header := stream.read(FRAME.size)) == FRAME.size:
        number, row, size = FRAME.unpack(header)
        yield number, row, stream.read(size) if size >= 0 else os.fsdecode(stream.read(-size))


if __name__ == "__main__":
    main()
