"""Reading rows of a file, in any order, into one tensor: how shuffled batches are made of images that stay on disk.

It uses pread, not a memory map: pages of a map count as resident memory and have to be dropped again, which took four
times as long at 128 rows of 784 bytes, and if a mapped file is truncated meanwhile the process dies.
"""

import os

import torch
from torch import Tensor

from . import extension

HAS_LIBRARY = extension.load()

torch.library.define("vae_fast::read_rows", "(int file, int offset, Tensor rows, Tensor(a!) out) -> int")


@torch.library.register_fake("vae_fast::read_rows")
def _read_rows_fake(file: int, offset: int, rows: Tensor, out: Tensor) -> int:
    return 0


def read_rows(file: int, offset: int, rows: Tensor, out: Tensor) -> None:
    """Fill out[i] with row rows[i] of a file whose rows are stored one after the other from `offset` on.

    The C++ version releases the GIL, and requests all rows that are not in memory before it waits for the first.

    Args:
        file: a descriptor, open for reading.
        offset: bytes before row 0.
        rows: int64 [n], each 0 or more, on the CPU, contiguous.
        out: [n, ...] on the CPU, contiguous; out[0] has as many bytes as a row of the file.

    Raises:
        EOFError: the file ends before the end of a row. OSError: the file cannot be read.
        TypeError, ValueError: an argument is not as above.
    """
    if HAS_LIBRARY:
        failed = torch.ops.vae_fast.read_rows.default(file, offset, rows, out)
    else:
        failed = _read_rows(file, offset, rows, out)
    if failed < 0:
        raise EOFError("the file ends early")
    if failed:
        raise OSError(failed, os.strerror(failed))


def _read_rows(file: int, offset: int, rows: Tensor, out: Tensor) -> int:
    if rows.dtype != torch.int64:
        raise TypeError(f"read_rows: rows: expected int64, got {rows.dtype}")
    if len(rows) != len(out) or not out.is_contiguous():
        raise ValueError(
            f"read_rows: expected contiguous rows [n] and out [n, ...] on the CPU, got {list(rows.shape)} and "
            f"{list(out.shape)}"
        )
    if len(rows) and int(rows.min()) < 0:
        raise ValueError(f"read_rows: rows: expected 0 or more, got {int(rows.min())}")
    for row, target in zip(rows.tolist(), out.numpy(), strict=True):
        if not _fill(file, target.data.cast("B"), offset + row * target.nbytes):
            return -1
    return 0


def read_span(file: int, offset: int, out: Tensor) -> None:
    """Fill `out`, contiguous on the CPU, with the bytes of a file from `offset` on; raise as `read_rows` does."""
    if out.numel() and not _fill(file, out.numpy().data.cast("B"), offset):
        raise EOFError("the file ends early")


def _fill(file: int, target: memoryview, offset: int) -> bool:
    """Fill `target` with the bytes from `offset` on and return whether the file had enough of them."""
    done = 0
    while done < len(target):  # Linux reads at most 2 GiB at a time
        got = os.preadv(file, [target[done:]], offset + done)
        if not got:
            return False
        done += got
    return True
