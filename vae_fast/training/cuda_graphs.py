"""A program over static tensors, recorded once as a CUDA graph and replayed without Python.

A recording holds kernels with their addresses and with the Python numbers of that moment. Whatever changes from one
replay to the next therefore has to live in tensors that the program itself updates, or that the host fills between
replays.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor

Program = Callable[[], None]

WARM_UP_RUNS = 3  # enough for cuBLAS, Triton and the allocator to reach a steady state
TIMED_REPLAYS = 50
GRAPH_SECONDS = 0.75e-3  # of work per graph: a launch reportedly costs the host 5 to 10 us, and leaves a gap
MOST_STEPS = 64


class Graph(Protocol):
    """A recorded program that can be replayed."""

    def replay(self) -> None: ...


Capture = Callable[[Program], Graph]


def capture(program: Program) -> Graph:
    """Record `program` on the current CUDA device, after warm-up runs on a side stream.

    The warm-up runs change the tensors of the program: see `preserved`.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            program()
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()  # nothing may be freed while recording
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")  # other threads may do as they like meanwhile
        try:
            program()
        except BaseException:
            with suppress(RuntimeError):  # its error would hide the original one
                graph.capture_end()
            raise
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


@contextmanager
def preserved(state: Sequence[Tensor]) -> Iterator[None]:
    """Restore every tensor of `state` bit for bit at the end, whatever happens inside."""
    before = [tensor.detach().clone() for tensor in state]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)


def steps_worth_a_graph(graph: Graph) -> int:
    """Return how many steps to record together to fill GRAPH_SECONDS, judging by timed replays of one step.

    Waits for the device.
    """
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    graph.replay()
    start.record()
    for _ in range(TIMED_REPLAYS):
        graph.replay()
    end.record()
    end.synchronize()
    seconds: float = start.elapsed_time(end) / 1e3 / TIMED_REPLAYS
    return min(MOST_STEPS, max(1, round(GRAPH_SECONDS / seconds)))
