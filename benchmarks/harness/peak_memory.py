"""The most memory that PyTorch holds at once while a piece of work runs, beyond what it held before."""

from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness.rounds import Call


def peak_megabytes(run: Call, device: str) -> float:
    """Return the peak of a separate run, because counting slows it down; other libraries' memory does not count."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = cast(Any, recorded.profiler).kineto_results.events()
    moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, change in moves:
        held += change
        most = max(most, held)
    return most / 1e6
