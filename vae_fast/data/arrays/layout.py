"""The order of the axes of images: [N, C, H, W] inside, and in a file also [N, H, W, C]."""

from typing import Literal, get_args

import numpy as np

from vae_fast.data.arrays.readers import Source
from vae_fast.errors import DataError

Layout = Literal["auto", "nchw", "nhwc"]
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def channels_first(source: Source, layout: Layout = "auto") -> Source:
    """Return images of four axes as [N, C, H, W], as a view; images of other axes are returned unchanged.

    Raises DataError if `layout` is "auto" and the shape leaves open which axis the channels are.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout: expected one of {', '.join(get_args(Layout))}, got {layout!r}")
    if source.array.ndim != 4 or not (layout == "nhwc" or (layout == "auto" and _come_last(source))):
        return source
    return source._replace(array=np.moveaxis(source.array, -1, 1))


def _come_last(source: Source) -> bool:
    """Return whether the channels come last; raise DataError if they may be the first axis as well as the last."""
    first, _, last = source.array.shape[1:]
    if last > 4 or first == last == 1 or (first <= 4 and last not in CHANNELS):
        return False
    if last in CHANNELS and first > 4:
        return True
    raise DataError(
        f"{source.where}: shape {list(source.array.shape)}: do its channels come last? Say --layout nhwc if they do, "
        f"--layout nchw if not"
    )
