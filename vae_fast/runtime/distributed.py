"""Runs of several processes, started by torchrun: the shard of a batch that each takes, and what they all agree on.

A batch of the run is the batch of all processes together: each takes a contiguous shard of its images and their noise,
which is a function of their position in the whole batch, and the gradients of the shards sum to the batch's. So the
processes see what a single one would see, and all hold the same parameters. Tensors travel by NCCL between GPUs and by
gloo between CPUs; what the hosts have to agree on always travels by gloo, so that no device has to wait for it.

Only the first process writes and prints. It does so through `ProcessGroup.on_rank0`, which gives the others the result
or the error, so that all processes continue or stop together.
"""

import atexit
import gc
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vae_fast.config import Config
from vae_fast.errors import ConfigError, ContactLost, RunError, UserError
from vae_fast.runtime.plan import Plan

P = ParamSpec("P")
R = TypeVar("R")

ENVIRONMENT = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}  # set by torchrun
TIMEOUT = timedelta(minutes=10)  # how long processes wait for the slowest, which may read data, compile or save
SECONDS_BETWEEN_AGREEMENTS = 0.1
MOST_LAUNCHES_BETWEEN_AGREEMENTS = 25  # a GPU queues launches at once, but may take seconds to run them


class ProcessGroup:
    """This process as one of those of a run; without torchrun it is the only one, and nothing needs to be sent.

    Attributes:
        rank: the number of this process; the first is 0.
        size: the number of processes.
        local_rank: the number of this process on its machine, and of its GPU there.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, group: "dist.ProcessGroup | None" = None):
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._hosts = self._devices = group
        self._can_destroy = True  # whether `destroy` need not wait for other processes
        self._launches_left = 0  # before the next agreement
        self._launches, self._since = 0, time.perf_counter()

    @property
    def is_rank0(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Return whether there are no other processes to communicate with."""
        return self._devices is None

    def shard(self, count: int) -> slice:
        """Return this process's shard of `count` items: contiguous, in rank order, all sizes within 1 of each other."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def check(self, config: Config) -> None:
        """Raise ConfigError for settings that several processes cannot share."""
        if self.size > config.batch_size:
            raise ConfigError(
                f"batch_size: expected an image for each of the {self.size} processes, got {config.batch_size}"
            )
        if self.size > 1 and re.fullmatch(r"cuda:\d+", config.device):
            raise ConfigError(
                f"device: expected cuda or auto, which give each of the {self.size} processes a GPU of its own, "
                f"got {config.device!r}"
            )

    def bind_device(self, plan: Plan) -> Plan:
        """Return the plan with this process's own device, and use its backend for tensors from now on.

        Raises RunError if there is no device for this process.
        """
        self._devices = self._hosts
        if self._hosts is None or plan.torch_device.type != "cuda":
            return plan
        device = torch.device("cuda", self.local_rank) if self.size > 1 else plan.torch_device
        self.on_all_ranks(self._require, device)
        torch.cuda.set_device(device)
        self._devices, self._can_destroy = dist.new_group(backend="nccl", timeout=TIMEOUT), False
        return replace(plan, device=str(device))

    def on_rank0(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` in the first process; return its result, or raise its error, in all processes."""
        if self._hosts is None:
            return function(*args, **kwargs)
        value, error = _attempt(function, *args, **kwargs) if self.is_rank0 else (None, None)
        sent = [(value, self._portable(error))]
        with _contact():
            dist.broadcast_object_list(sent, 0, self._hosts)
        result: R = _result(*((value, error) if self.is_rank0 else sent[0]))
        return result

    def on_all_ranks(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` in every process; if it raises in any, raise in all. It must not use this group itself."""
        if self._hosts is None:
            return function(*args, **kwargs)
        value, error = _attempt(function, *args, **kwargs)
        errors: list[BaseException | None] = [None] * self.size
        with _contact():
            dist.all_gather_object(errors, self._portable(error), self._hosts)
        result: R = _result(value, error or next((other for other in errors if other is not None), None))
        return result

    def require_equal(self, what: str, value: Any) -> None:
        """Raise RunError in every process unless all were given the same value."""
        first = self.on_rank0(lambda: value)

        def compare() -> None:
            if value != first:
                raise RunError(f"{what}: process {self.rank} was given others than the first: {value}, {first}")

        self.on_all_ranks(compare)

    def local_rank0_first(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do as `on_all_ranks`, but let one process per machine go first, so that the others can use its files."""
        if self.local_rank > 0:
            self.on_all_ranks(lambda: None)
            return self.on_all_ranks(function, *args, **kwargs)
        result = self.on_all_ranks(function, *args, **kwargs)
        self.on_all_ranks(lambda: None)
        return result

    def sum_(self, tensor: Tensor) -> None:
        """Sum a tensor over the processes in place, with identical bits in each."""
        if self._devices is not None:
            with _contact():
                dist.all_reduce(tensor, group=self._devices)

    def total(self, tensor: Tensor, compiled: bool = False) -> Tensor:
        """Return the sum of a tensor over the processes; with `compiled`, in a form that can be traced."""
        if not compiled:
            total = tensor.clone()
            self.sum_(total)
            return total
        from torch.distributed._functional_collectives import all_reduce, wait_tensor

        summed: Tensor = wait_tensor(all_reduce(tensor, "sum", self._devices))
        return summed

    def reduce_gradients(self, gradients: Sequence[Tensor], terms: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Sum gradients over the processes in float32 and gather their terms, float64 [T], in a single all-reduce.

        The terms are returned as float32 [R, T]; summing over R in float64 gives the sum over the processes. Each
        process has its own two rows, because a float64 is sent as two float32 of 24 bits each.
        """
        high = terms.float()
        places = high.new_zeros(self.size, 2, len(terms))
        places[self.rank] = torch.stack((high, (terms - high).float()))
        parts = [*gradients, places]
        flat = torch.cat([part.reshape(-1).float() for part in parts])
        self.sum_(flat)
        sizes = [part.numel() for part in parts]
        *sums, places = (new.view(part.shape) for new, part in zip(flat.split(sizes), parts, strict=True))
        return tuple(sums), places.flatten(0, 1)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Broadcast the first process's values to all, in place."""
        if self._devices is not None:
            with _contact():
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), 0, group=self._devices)

    def agreed_signal(self, received: Sequence[int], now: bool = False) -> int:
        """Return the number of a signal that any process has received, the same in all; 0 while there is none.

        All processes must call this before each launch. The hosts communicate ten times a second, or every 25 launches,
        or at once if `now`; once there is a signal, they also meet at a `barrier`.
        """
        own = max(received, default=0)
        if self._hosts is None:
            return own
        if self._launches_left and not now:
            self._launches_left -= 1
            self._launches += 1
            return 0
        pace = (self._launches + 1) / (time.perf_counter() - self._since)
        most = min(MOST_LAUNCHES_BETWEEN_AGREEMENTS, math.ceil(pace * SECONDS_BETWEEN_AGREEMENTS))
        met = torch.tensor([own, -most])
        with _contact():
            dist.all_reduce(met, dist.ReduceOp.MAX, self._hosts)
        number, fewest = met.tolist()
        self._launches_left = -fewest - 1
        self._launches, self._since = 0, time.perf_counter()
        if number:
            self.barrier()
        return int(number)

    def barrier(self) -> None:
        """Wait until all processes are here and their devices have finished; after that any of them may exit."""
        if self._hosts is not None:
            with _contact():
                if self._devices is not self._hosts:
                    torch.cuda.synchronize()
                dist.barrier(self._hosts)
            self._can_destroy = True

    def destroy(self) -> None:
        """Leave the group; must not be called while recorded CUDA graphs are still in use."""
        gc.collect()  # NCCL waits for graphs with its kernels to be destroyed
        if self._can_destroy:  # otherwise it could wait for processes that are gone; exiting the process does not
            dist.destroy_process_group()

    def _require(self, device: torch.device) -> None:
        if not dist.is_nccl_available():
            raise RunError("device: this PyTorch has no NCCL, by which processes with GPUs communicate")
        count = torch.cuda.device_count()
        if device.index >= count:
            raise RunError(
                f"device: process {self.rank} needs {device}, but torch sees {count} CUDA devices on its machine; "
                f"start as many processes on it"
            )

    def _portable(self, error: BaseException | None) -> BaseException | None:
        """Return the error in the form in which it is sent to the other processes."""
        if error is None or isinstance(error, UserError | SystemExit):
            return error
        return RunError(f"process {self.rank}: {type(error).__name__}: {error}")


SINGLE_PROCESS = ProcessGroup()


def is_launched() -> bool:
    """Return whether torchrun started this process."""
    return os.environ.keys() >= ENVIRONMENT


def is_printing() -> bool:
    """Return whether this process is the one that prints what all of them know."""
    return not is_launched() or os.environ["RANK"] == "0"


@cache
def join() -> ProcessGroup:
    """Join the group that torchrun started this process in, until the process ends; SINGLE_PROCESS without torchrun.

    Raises ContactLost if the other processes cannot be reached.
    """
    if not is_launched():
        return SINGLE_PROCESS
    from torch._C._distributed_c10d import PrefixStore  # not every PyTorch build has these
    from torch.distributed.rendezvous import rendezvous

    with _contact():
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        # After a restart torchrun's store still holds the addresses of the earlier processes, which no longer answer.
        attempt = PrefixStore(f"vae_fast/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("gloo", store=attempt, rank=rank, world_size=size, timeout=TIMEOUT)
    group = ProcessGroup(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]), dist.group.WORLD)
    atexit.register(group.destroy)
    return group


@contextmanager
def _contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        line = str(error).strip().splitlines()[0]
        cause = re.sub(r"^\[\S*\] ", "", line).partition(". ")[0]  # drop gloo's source location and advice
        rank = os.environ.get("RANK", "0")
        raise ContactLost(f"process {rank} has lost contact with the others: {cause}") from error


def _attempt(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[Any, BaseException | None]:
    try:
        return function(*args, **kwargs), None
    except (Exception, SystemExit) as error:
        return None, error


def _result(value: Any, error: BaseException | None) -> Any:
    if error is not None:
        raise error
    return value
