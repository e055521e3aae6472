"""The implementations ("ways") of an operator, checked against the exact result and timed in turns with eager PyTorch.

A round calls a way, forward or backward, once on each of many sets of random inputs. Together they are larger than the
last cache, so that no call finds its inputs there; for the smallest inputs there are `MOST_SETS`. On a GPU the calls of
a round are recorded and replayed: the host's time for a launch does not count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import floors
from benchmarks.harness.metadata import Case, describe
from benchmarks.harness.peak_memory import peak_megabytes
from benchmarks.harness.rounds import Call, Pace, Turn, alternate

DIRECTIONS = ("forward", "backward", "both")
LABELS = {"eager": "eager", "compile": "torch.compile", "fused": "vae_fast"}
FEWEST_SETS, MOST_SETS = 4, 256
Tensors = Sequence[Tensor]
Way = Callable[..., Tensors]
Check = Callable[[Tensors, Tensors, Tensors, Tensors], None]


@dataclass(frozen=True)
class Operator:
    """An operator to be measured.

    Args:
        suite: the name of the suite.
        inputs: makes fresh random inputs; those that require gradients are differentiated.
        ways: by contender (`LABELS`), functions from the inputs to the results.
        check: takes inputs, results, the results' gradients and the inputs' gradients, and raises AssertionError where
            they are not exact.
        shape: the shape that the operator works on, for people to read.
        moved: bytes that a forward and a backward call must read and write at least.
    """

    suite: str
    inputs: Callable[[], Tensors]
    ways: dict[str, Way]
    check: Check
    shape: list[int]
    moved: tuple[int, int]


class Calls:
    """A round of one way: a call on each set of inputs."""

    def __init__(self, way: Way, sets: list[Tensors], device: str) -> None:
        self._way, self._sets = way, sets
        self._wanted = [[t for t in inputs if t.requires_grad] for inputs in sets]
        self._gradients = [[torch.randn_like(result) for result in way(*inputs)] for inputs in sets]
        self._results: list[Tensors] = []
        self._found: list[Tensors] = []
        self._graphs = self._recorded() if device == "cuda" else None

    def check(self, check: Check) -> None:
        """Check the first call of a round; on a GPU, check it as replayed."""
        if self._graphs is not None:
            for graph in self._graphs:
                graph.replay()
            results, found = self._results[0], self._found[0]
        else:
            results = self._way(*self._sets[0])
            found = torch.autograd.grad(results, self._wanted[0], self._gradients[0])
        check(*([t.detach().double() for t in ts] for ts in (self._sets[0], results, self._gradients[0], found)))

    def turn(self, direction: str) -> Turn:
        if self._graphs is not None:
            forward, backward = (graph.replay for graph in self._graphs)
            if direction == "backward":
                return Turn(backward, prepare=forward)  # makes what backward reads and may have overwritten
            runs: dict[str, Call] = {"forward": forward, "both": lambda: (forward(), backward())}
            return Turn(runs[direction])
        if direction == "backward":
            return Turn(self._backward, prepare=self._forward_kept)
        return Turn({"forward": self._forward, "both": self._both}[direction])

    def _forward(self) -> None:
        for inputs in self._sets:
            self._way(*inputs)

    def _forward_kept(self) -> None:
        self._results = [self._way(*inputs) for inputs in self._sets]

    def _backward(self) -> None:
        for results, wanted, gradients in zip(self._results, self._wanted, self._gradients, strict=True):
            torch.autograd.grad(results, wanted, gradients)

    def _backward_kept(self) -> None:
        """Run backward and keep the results, so that each call writes to its own memory and not always to the cache."""
        parts = zip(self._results, self._wanted, self._gradients, strict=True)
        self._found = [torch.autograd.grad(*part) for part in parts]

    def _both(self) -> None:
        for inputs, wanted, gradients in zip(self._sets, self._wanted, self._gradients, strict=True):
            torch.autograd.grad(self._way(*inputs), wanted, gradients)

    def _recorded(self) -> tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]:
        """Record all forward calls and all backward calls as one graph each, like torch.cuda.make_graphed_callables."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._both()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward):
            self._forward_kept()
        with torch.cuda.graph(backward, pool=forward.pool()):
            self._backward_kept()
        return forward, backward


def measure(benchmark: Any, operator: Operator, name: str, direction: str, case: Case, pace: Pace) -> None:
    """Check, time and describe one way of an operator, in turns with the way "eager"."""
    sets = _sets(operator, case.device)
    turns = []
    for one in (operator.ways[name], operator.ways["eager"]):
        calls = Calls(one, sets, case.device)
        calls.check(operator.check)
        turns.append(calls.turn(direction))
    moved = sum(
        share
        for part, share in zip(("forward", "backward"), operator.moved, strict=True)
        if direction in (part, "both")
    )
    time_calls(
        benchmark,
        case,
        turns,
        len(sets),
        moved,
        pace.of(name),
        images=case.batch * len(sets),
        suite=operator.suite,
        what=direction,
        contender=name,
        label=LABELS[name],
        ours=name == "fused",
        shape=operator.shape,
    )


def time_calls(
    benchmark: Any, case: Case, turns: Sequence[Turn], calls: int, moved: int, pace: Pace, **names: Any
) -> None:
    """Time rounds of `calls` calls, of the contender's and the baseline's turns, and describe them.

    A call moves `moved` bytes; `names` are those of `describe`.
    """
    contender, baseline = turns
    floor = Turn(floors.copy_of(moved, case.device, calls))
    sweep = floors.sweep(case.device)
    times = alternate(benchmark, contender, baseline, floor, pace, case.device, between=sweep)
    contender.prepare()
    if case.device == "cpu":  # a replayed graph allocates nothing
        names |= {"peak_memory_mb": peak_megabytes(contender.run, case.device)}
    describe(
        benchmark, case, times, unit="call", units=calls, floor="copy of as many bytes", moved=moved * calls, **names
    )


def _sets(operator: Operator, device: str) -> list[Tensors]:
    first = operator.inputs()
    wanted = floors.beyond_caches(device) // floors.tensor_bytes(*first)
    return [first, *(operator.inputs() for _ in range(min(MOST_SETS, max(FEWEST_SETS, wanted)) - 1))]
