"""Tests of batches gathered ahead: they are the right ones, memory is bounded, and no thread is left running."""

import os
import threading
import time
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from vae_fast.data import prefetch
from vae_fast.data.file_images import Stored
from vae_fast.data.images import Pixels
from vae_fast.data.prefetch import BUFFERS, THREAD, Prefetcher
from vae_fast.data.sampler import BatchSampler
from vae_fast.errors import DataError

COUNT, PIXELS, BATCH = 300, 12, 7
DEVICES = [
    torch.device("cpu"),
    pytest.param(
        torch.device("cuda", 0), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]
DTYPES = [torch.uint8, torch.float32]
Source = Callable[[torch.dtype], Pixels]


def images(dtype: torch.dtype) -> Tensor:
    numbers = torch.arange(COUNT * PIXELS) * 7 % 256
    return (numbers.to(dtype) if dtype == torch.uint8 else numbers / 256).view(COUNT, PIXELS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "images.npy"


@pytest.fixture(params=["memory", "file"])
def source(request: pytest.FixtureRequest, path: Path) -> Source:
    """Return a function that makes the images, in memory or in a file."""

    def make(dtype: torch.dtype) -> Pixels:
        if request.param == "memory":
            return images(dtype)
        np.save(path, images(dtype).numpy())
        return Stored.of(np.load(path, mmap_mode="r"))

    return make


@pytest.fixture(params=[0, 200], ids=["single reads", "joint reads"])
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Set the number of bytes that are read at a time."""
    monkeypatch.setattr(prefetch, "READ", request.param)
    return int(request.param)


def order(epoch: int = 1) -> Tensor:
    return BatchSampler(COUNT, BATCH, seed=2).order(epoch)


def nothing_runs() -> bool:
    return not any(thread.name.startswith(THREAD) for thread in threading.enumerate())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("read")
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_chunks_of_any_sizes_hold_the_batches_of_the_order(
    source: Source, dtype: torch.dtype, device: torch.device, data: st.DataObject
) -> None:
    rows = order(data.draw(st.integers(1, 3)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1))) | {0, len(rows)})
    uneven = [b - a for a, b in pairwise(cuts)]
    sizes = data.draw(st.one_of(st.integers(1, 50), st.just(uneven)))
    seen, memory = [], set()
    with Prefetcher(source(dtype), device).chunks(rows, sizes) as chunks:
        for chunk in chunks:
            assert (chunk.dtype, chunk.device) == (dtype, device)
            memory.add(chunk.untyped_storage().data_ptr())
            seen.append(chunk.clone())
    assert [len(chunk) for chunk in seen][:-1] == ([sizes] * (len(seen) - 1) if isinstance(sizes, int) else sizes[:-1])
    assert torch.equal(torch.cat(seen).cpu(), images(dtype)[rows])
    assert len(memory) <= BUFFERS
    assert nothing_runs()


def test_a_chunk_stays_valid_while_in_use_and_reading_ahead_is_bounded(source: Source, read: int) -> None:
    rows, buffers = order(), []
    with Prefetcher(source(torch.uint8), torch.device("cpu")).chunks(rows, 1) as chunks:
        for i, chunk in enumerate(chunks):
            time.sleep(0.001)  # let the reader get as far ahead as it may
            assert torch.equal(chunk[0], images(torch.uint8)[rows[i]])
            buffers.append(chunk.untyped_storage().data_ptr())
    together = max(1, read // (BATCH * PIXELS))
    turns = [buffers[together * i] for i in range(BUFFERS) for _ in range(together)]
    assert len(set(turns)) == BUFFERS
    assert buffers == (turns * len(rows))[: len(rows)]  # in turns: never a buffer that is still in use


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_reader_ends_with_its_consumer(source: Source, taken: int, error: type[BaseException] | None) -> None:
    def consume() -> None:
        with Prefetcher(source(torch.uint8), torch.device("cpu")).chunks(order(), 2) as chunks:
            list(islice(chunks, taken))
            if error is not None:
                raise error

    if error is None:
        consume()
    else:
        with pytest.raises(error):
            consume()
    assert nothing_runs()


def test_an_error_of_the_reader_reaches_the_consumer(path: Path) -> None:
    np.save(path, images(torch.uint8).numpy())
    stored = Stored.of(np.load(path, mmap_mode="r"))
    os.truncate(path, path.stat().st_size // 2)

    def consume() -> None:
        with Prefetcher(stored, torch.device("cpu")).chunks(order(), 1) as chunks:
            for _ in chunks:
                pass

    with pytest.raises(DataError, match=f"^{path}: ends before its last image"):
        consume()
    assert nothing_runs()


def test_an_empty_order_has_no_chunks(source: Source) -> None:
    for sizes in (3, []):
        with Prefetcher(source(torch.uint8), torch.device("cpu")).chunks(order()[:0], sizes) as chunks:
            assert list(chunks) == []


@pytest.mark.parametrize(
    ("rows", "sizes", "message"),
    [
        (order(), 0, "sizes: expected at least 1, got 0"),
        (order(), [40, 3], r"sizes: expected numbers above 0 that sum to the 42 batches, got \[40, 3\]"),
        (order(), [43, -1], "sizes: expected numbers above 0"),
        (order()[0], 1, r"order: expected int64 \[steps, B\] on the CPU, got torch.int64 \[7\]"),
        (order().int(), 1, "order: expected int64"),
    ],
)
def test_bad_arguments_raise_an_error(rows: Tensor, sizes: int | list[int], message: str) -> None:
    with (
        pytest.raises(ValueError, match=message),
        Prefetcher(images(torch.uint8), torch.device("cpu")).chunks(rows, sizes),
    ):
        pass
    with pytest.raises(ValueError, match=r"images: expected \[N, D\], got \[300, 3, 4\]"):
        Prefetcher(images(torch.uint8).view(-1, 3, 4), torch.device("cpu"))
