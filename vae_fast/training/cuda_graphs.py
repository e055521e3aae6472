"""A program over static tensors, recorded once as a CUDA graph and replayed without Python.

What is recorded are kernels with their addresses and the Python numbers of the moment. So whatever changes from one
replay to the next has to live in tensors that the program itself updates, or that the host fills between replays.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor

Program = Callable[[], None]

WARM_UP_RUNS = 3  # cuBLAS, Triton and the allocator have settled by then
TIMED_REPLAYS = 50
GRAPH_SECONDS = 0.75e-3  # of work in one graph: a launch takes the host 5 to 10 us, as others report, and leaves a gap
MOST_STEPS = 64


class Graph(Protocol):
    """What was recorded."""

    def replay(self) -> None: ...


Capture = Callable[[Program], Graph]


def capture(program: Program) -> Graph:
    """Record `program` on the current CUDA device, after runs on a side stream. They happen: see `preserved`."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            program()
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()  # nothing is to be freed while recording
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")  # what another thread does meanwhile is its own matter
        try:
            program()
        except BaseException:
            with suppress(RuntimeError):  # what it would say hides what went wrong
                graph.capture_end()
            raise
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


@contextmanager
def preserved(state: Sequence[Tensor]) -> Iterator[None]:
    """Leave all of `state` as it was, to the bit, whatever happens inside."""
    before = [tensor.detach().clone() for tensor in state]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)


def steps_worth_a_graph(graph: Graph) -> int:
    """How many steps to record together, so that they take GRAPH_SECONDS, by the time that replays of one step take.

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
