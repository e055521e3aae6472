"""The work given to a GPU, checked on a null GPU: graph nodes, waits, calls that a capture forbids, and memory."""

import ctypes
import threading
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import Any

import pytest
import torch

from benchmarks.nullgpu import log
from benchmarks.nullgpu.log import WAITS, Call

pytestmark = [
    pytest.mark.null_gpu,
    pytest.mark.skipif(not log.is_present(), reason="this is not the null GPU: make nullgpu"),
]

if log.is_present():
    from benchmarks import graph_nodes
    from benchmarks.contenders.network import D
    from vae_fast.data.prefetch import Prefetcher
    from vae_fast.data.sampler import BatchSampler
    from vae_fast.runtime.plan import process_settings
    from vae_fast.training import cuda_graphs
    from vae_fast.training.engine import Engine
    from vae_fast.training.validation import Validation

    SETTINGS, EVALUATIONS = graph_nodes.SETTINGS, graph_nodes.EVALUATIONS
else:
    SETTINGS, EVALUATIONS = {}, {}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_has_few_nodes_on_one_stream_and_no_call_that_a_capture_forbids(name: str) -> None:
    found = graph_nodes.step_calls(SETTINGS[name].settings)
    (nodes,) = log.graphs(found)
    assert len(nodes) <= (SETTINGS[name].most or len(nodes))
    recorded = graph_nodes.counts_of(torch.__version__).get(name, len(nodes))
    assert len(nodes) == recorded, "the table is not today's: python -m benchmarks.graph_nodes"
    assert len({node.stream for node in nodes}) == 1
    assert [call for call in found if call.unsafe] == []
    assert not [call for call in found if call.captured and call.kind in {"host-allocation", *WAITS}]


@pytest.mark.parametrize("settings", [{"compile": True, "amp_dtype": "bf16"}, {"binarize": "dynamic"}])
def test_a_step_of_convolutions_makes_no_call_that_a_capture_forbids(settings: dict[str, Any]) -> None:
    """Use PyTorch's own convolutions: cuDNN begins only with a real driver. So their nodes mean nothing."""
    with torch.backends.cudnn.flags(enabled=False):
        found = graph_nodes.step_calls({"network": "conv", "batch_size": 8, **settings})
    (nodes,) = log.graphs(found)
    assert len({node.stream for node in nodes}) == 1
    assert [call for call in found if call.unsafe] == []
    assert not [call for call in found if call.captured and call.kind in {"host-allocation", *WAITS}]


def test_an_evaluations_graph_does_not_grow_with_the_images() -> None:
    few, many = (graph_nodes.evaluation_calls(EVALUATIONS[name][0]) for name in list(EVALUATIONS)[1:])
    (nodes,), (more,) = log.graphs(few), log.graphs(many)
    assert len(nodes) == len(more) <= 40
    assert len({node.stream for node in nodes}) == 1
    assert [call for call in few if call.unsafe] == []


def batches(e: "Engine", sampler: "BatchSampler", epoch: int) -> AbstractContextManager[Any]:
    order = sampler.order(epoch)
    e.begin_epoch(order)
    if e.plan.feed == "device":
        return nullcontext(repeat(None))
    images = torch.zeros(graph_nodes.IMAGES, D, dtype=torch.uint8)
    return Prefetcher(images, torch.device("cuda")).chunks(order, e.launches(len(order)))


@pytest.mark.parametrize("name", SETTINGS)
def test_no_step_of_an_epoch_waits(name: str) -> None:
    """Check the thread that launches; the one that gathers does wait for its own copies."""
    e = graph_nodes.engine(SETTINGS[name].settings, together=8)
    with process_settings(e.plan, e.config):
        watch_an_epoch(e)


def watch_an_epoch(e: "Engine") -> None:
    e.warm_up()
    e.step_metrics.ring.copy_(torch.zeros(e.step_metrics.ring.shape))  # no kernel writes, so it could hold anything
    sampler = BatchSampler(graph_nodes.IMAGES, e.config.batch_size, 0, "cuda" if e.plan.feed == "device" else "cpu")
    with batches(e, sampler, 1) as images:
        launches = e.launches(sampler.steps_per_epoch)
        e.advance(launches[0], next(images))
        with log.calls() as found:
            for count, given in zip(launches[1:], images, strict=False):
                e.advance(count, given)
    launched = [call for call in found if call.kind == "graph"]
    assert len(launched) == len(launches) - 1
    mine = threading.get_native_id()
    assert [call for call in found if call.kind in WAITS and call.thread == mine] == []


def test_an_evaluation_waits_once() -> None:
    e = graph_nodes.engine({"compile": True})
    evaluation = Validation(e.model, torch.zeros(10_000, D, dtype=torch.uint8, device="cuda"), 0, cuda_graphs.capture)
    with log.calls() as found:
        evaluation()
    assert sum(call.kind == "sync" for call in found) == 1
    assert sum(call.kind == "graph" for call in found) == 10


def test_memory_stays_flat_over_ten_thousand_replays() -> None:
    e = graph_nodes.engine({"compile": True, "amp_dtype": "bf16"}, together=2)
    e.warm_up()
    e.advance(2)
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(10_000):
        e._graphs[2].replay()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def copy_and_wait() -> None:
    """Copy and wait as C++ may do; PyTorch itself refuses to in a capture."""
    there, here = torch.zeros(3, device="cuda"), torch.zeros(3)
    ctypes.CDLL(None).cudaMemcpy(*map(ctypes.c_void_p, (here.data_ptr(), there.data_ptr(), 12)), 2)


PLANTED = {
    "sync": lambda: torch.cuda.current_stream().synchronize(),
    "query": lambda: torch.cuda.current_stream().query(),
    "blocking-copy": copy_and_wait,
}


def kinds(found: list[Call]) -> list[str]:
    return [call.kind for call in found]


@pytest.mark.parametrize("kind", PLANTED)
def test_a_wait_is_detected_inside_a_capture_and_outside(kind: str) -> None:
    PLANTED[kind]()  # initialises libraries
    with log.calls() as found:
        PLANTED[kind]()
    assert kind in kinds(found)
    assert not any(call.unsafe for call in found)

    with log.calls() as found:
        cuda_graphs.capture(PLANTED[kind])
    (seen,) = [call for call in found if call.unsafe and call.kind == kind]
    assert seen.thread == threading.get_native_id()


def test_another_thread_may_wait_during_a_capture() -> None:
    def program() -> None:
        other = threading.Thread(target=torch.cuda.synchronize)
        other.start()
        other.join()

    with log.calls() as found:
        cuda_graphs.capture(program)
    assert not any(call.unsafe for call in found)
    others = [call for call in found if call.kind == "sync" and call.thread != threading.get_native_id()]
    assert len(others) == cuda_graphs.WARM_UP_RUNS + 1
