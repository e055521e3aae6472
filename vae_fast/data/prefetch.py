"""Batches of images that are not on the device: one thread gathers them ahead and copies them there while steps run.

On a GPU the thread gathers into pinned memory and copies on a stream of its own. Events keep the order: the consumer's
stream waits for the copy on the device, the host never waits, and a buffer is refilled only once its last reader has
finished. On a CPU the consumer gets the gathered memory itself. Either way the number of buffers is fixed, so memory is
bounded.

Gathering takes no thread from the step's pool: it runs in one thread, without Python's lock (NumPy's `take` for images
in memory, because PyTorch's `index_select` would start a second pool that spins against the first; pread for a file).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from vae_fast.data.file_images import Stored
from vae_fast.data.images import Pixels
from vae_fast.runtime.nvtx import Mark, unmarked

BUFFERS = 3  # one in use, one ready, one being filled
READ = 1 << 20  # bytes gathered per task, unless a chunk is larger: submitting a task costs as much as 100 images
THREAD = "vae_fast-arrivals"


class Prefetcher:
    """A source of batches on a device from images [N, D] on the host, in memory or in a file.

    Args:
        images: a contiguous tensor on the CPU, or `Stored`; uint8 or float32.
        device: where the batches go.
        mark: puts the profiler range "data" around each wait for a batch, and around each read in the thread.
    """

    def __init__(self, images: Pixels, device: torch.device, mark: Mark = unmarked) -> None:
        if len(images.shape) != 2:
            raise ValueError(f"images: expected [N, D], got {list(images.shape)}")
        self.images, self.device, self._mark = images, device, mark

    @contextmanager
    def chunks(self, order: Tensor, sizes: int | Iterable[int]) -> Iterator[Iterator[Tensor]]:
        """Yield an iterator over the batches that `order` lists, several at a time.

        Args:
            order: the indices of each batch's images, int64 [steps, B], on the CPU.
            sizes: the number of batches in each chunk, which must sum to `steps`; or one number for all chunks but the
                last, which may be smaller.

        The iterator yields tensors [size, B, D] on the device, of the images' dtype. Each is valid until the next one
        is requested; on a GPU, for the work queued until then on the stream that is current at that moment. Leaving
        the context, even by an error, ends the thread and waits for it, for no longer than one read.

        The iterator raises DataError if the file cannot be read. On a GPU memory is allocated and events are waited for
        as chunks arrive: do not capture a graph inside, except with capture_error_mode="thread_local".
        """
        if order.dtype != torch.int64 or order.dim() != 2 or order.device.type != "cpu":
            raise ValueError(f"order: expected int64 [steps, B] on the CPU, got {order.dtype} {list(order.shape)}")
        batch = order.shape[1] * self.images.shape[1] * self.images.dtype.itemsize
        reads = _reads(_checked(sizes, len(order)), batch)
        most = order.shape[1] * max(map(sum, reads), default=0)
        copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        buffers = [_Buffer(self.images, most, self.device, copies) for _ in range(min(BUFFERS, len(reads)))]
        if copies is not None:  # the consumer's stream may still be using memory that was just allocated
            copies.wait_stream(torch.cuda.current_stream(self.device))
        reader = ThreadPoolExecutor(1, THREAD)
        try:
            yield _arrive(reader, self.images, buffers, order, reads, self._mark)
        finally:
            reader.shutdown(cancel_futures=True)
            if copies is not None:  # the allocator may give the freed memory to the consumer's stream
                torch.cuda.current_stream(self.device).wait_stream(copies)


def _checked(sizes: int | Iterable[int], steps: int) -> list[int]:
    if isinstance(sizes, int):
        if sizes < 1:
            raise ValueError(f"sizes: expected at least 1, got {sizes}")
        return [min(sizes, steps - start) for start in range(0, steps, sizes)]
    sizes = list(sizes)
    if sum(sizes) != steps or min(sizes, default=1) < 1:
        raise ValueError(f"sizes: expected numbers above 0 that sum to the {steps} batches, got {sizes}")
    return sizes


def _reads(sizes: list[int], batch: int) -> list[list[int]]:
    """Group chunks of these sizes, in batches of `batch` bytes, into reads large enough to be worth a task."""
    reads: list[list[int]] = []
    for size in sizes:
        if reads and (sum(reads[-1]) + size) * batch <= READ:
            reads[-1].append(size)
        else:
            reads.append([size])
    return reads


def _arrive(
    reader: ThreadPoolExecutor,
    images: Pixels,
    buffers: list["_Buffer"],
    order: Tensor,
    reads: list[list[int]],
    mark: Mark,
) -> Iterator[Tensor]:
    free, left = deque(buffers), zip(reads, order.split([sum(sizes) for sizes in reads]), strict=True)
    pending: deque[tuple[_Buffer, list[int], Future[Tensor]]] = deque()

    def submit_reads() -> None:
        while free and (read := next(left, None)) is not None:
            buffer, (sizes, rows) = free.popleft(), read
            pending.append((buffer, sizes, reader.submit(mark("data", buffer.fill), images, rows)))

    submit_reads()
    while pending:
        buffer, sizes, filled = pending.popleft()
        batches = mark("data", filled.result)()
        buffer.lend()
        yield from batches.split(sizes)
        buffer.take_back()
        free.append(buffer)
        submit_reads()


class _Buffer:
    """Memory for the images of one read: on the host, and also on the device unless that is the CPU."""

    def __init__(self, images: Pixels, count: int, device: torch.device, copies: torch.cuda.Stream | None) -> None:
        shape = (count, images.shape[1])
        self._device, self._copies = device, copies
        self._host = torch.empty(shape, dtype=images.dtype, pin_memory=copies is not None)
        if copies is not None:
            self._on_device = torch.empty(shape, dtype=images.dtype, device=device)
            self._copied = torch.cuda.Event(blocking=True)
            self._used = torch.cuda.Event()

    def fill(self, images: Pixels, order: Tensor) -> Tensor:
        """Fill the buffer with the images of `order` [k, B] and return them as [k, B, D]; runs in the thread."""
        host = self._host[: order.numel()]
        if self._copies is None:
            _gather(images, order.flatten(), host)
            return host.view(*order.shape, -1)
        self._copied.synchronize()  # the previous copy may still be reading the pinned memory
        _gather(images, order.flatten(), host)
        on_device = self._on_device[: len(host)]
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._used)
            on_device.copy_(host, non_blocking=True)
            self._copied.record()
        return on_device.view(*order.shape, -1)

    def lend(self) -> None:
        """Make all later work on the consumer's stream wait for the copy."""
        if self._copies is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)

    def take_back(self) -> None:
        """Make the next copy wait for all work queued so far on the consumer's stream."""
        if self._copies is not None:
            self._used.record(torch.cuda.current_stream(self._device))


def _gather(images: Pixels, rows: Tensor, out: Tensor) -> None:
    if isinstance(images, Stored):
        images.gather(rows, out)
    else:
        assert isinstance(images, Tensor)
        np.take(images.numpy(), rows.numpy(), axis=0, out=out.numpy(), mode="clip")  # "raise" would copy `out`
