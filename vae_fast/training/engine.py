"""Training steps: gather, forward, loss, backward, clip, update, count.

A step is a program over static tensors. What changes from one step to the next lives on the device: the step number,
the epoch's order of images and its schedules, both indexed by that number, and the metrics of the steps. So nothing
waits for the device, and the same program runs eagerly or is recorded as a CUDA graph and replayed. The device itself
skips a step whose loss or gradient is not finite.
"""

import hashlib
import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vae_fast.config import Config
from vae_fast.data.images import Pixels
from vae_fast.errors import ContactLost, RunError, first_line
from vae_fast.models.vae import VAE
from vae_fast.objectives.own import OwnObjective
from vae_fast.runtime.compile import compile_errors
from vae_fast.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from vae_fast.runtime.nvtx import Mark, unmarked
from vae_fast.runtime.plan import Plan
from vae_fast.training import cuda_graphs
from vae_fast.training.averaging import EVERY, SUFFIX, Average
from vae_fast.training.schedules import beta_at, epoch_schedule, is_constant, learning_rate_at
from vae_fast.training.step_metrics import StepMetrics
from vae_fast.training.steps import IMPLEMENTATIONS
from vae_fast.training.steps.base import Labels

MOST_SKIPS_IN_A_ROW = 100
CHECK_EVERY = 25  # steps: with the bound above, a diverged run stops within 150 steps
SLOT_BYTES = 1 << 26  # of images passed in per launch; larger batches mean fewer steps a launch, but longer ones
CALL_SECONDS = 10e-3  # of work per operator call: Python's overhead is negligible, and a signal waits no longer
TIMED_CALLS = 3
MOST_SCALER_SKIPS = 25  # in a row: enough for finding fp16's scale, with some to spare


class Engine:
    """The steps of one run.

    Args:
        model: on the plan's device.
        images: [N, D], uint8 or float32. With the feed "device" they are on the device; with other feeds `advance` is
            given the batches, and only the shape and dtype of `images` matter.
        config, plan: those of the run.
        steps_per_epoch: the number of batches of config.batch_size images.
        labels: int64 [N], if the model has classes.
        objective: the user's, instead of the ELBO.
        capture: records a program if the plan has CUDA graphs.
        group: the processes that share each batch; this one takes its part of it.
        mark: puts profiler ranges around the parts of a step.

    An epoch is `begin_epoch`, then `advance` for each of `launches`, then `finish_epoch`.
    """

    def __init__(
        self,
        model: VAE,
        images: Pixels,
        config: Config,
        plan: Plan,
        steps_per_epoch: int,
        *,
        labels: Tensor | None = None,
        objective: OwnObjective | None = None,
        capture: cuda_graphs.Capture = cuda_graphs.capture,
        group: ProcessGroup = SINGLE_PROCESS,
        mark: Mark = unmarked,
    ) -> None:
        self.model, self.config, self.plan = model, config, plan
        self.steps_per_epoch = steps_per_epoch
        self.step_number = 0  # updates attempted so far
        self.recent_loss: float | None = None  # from the last report that reached the host
        device = plan.torch_device
        self.step_metrics = StepMetrics(device)
        seed = torch.full((), config.seed, dtype=torch.int64, device=device)
        self.draws_random_numbers = model.draws_random_numbers or (objective is not None and objective.draws)
        self._group, self._share = group, group.shard(config.batch_size)
        self._makes_many_steps_a_call = plan.step == "fused" and group.size == 1
        batch = self._share.stop - self._share.start
        self._images: Tensor | None = None
        if plan.feed == "device" or labels is not None:
            self._order = torch.zeros(steps_per_epoch, batch, dtype=torch.int64, device=device)
        self._labels = None if labels is None else Labels(labels.to(device), self._order)
        if plan.feed == "device":
            assert isinstance(images, Tensor)
            self._images = images
        else:
            calls = CHECK_EVERY if self._makes_many_steps_a_call else 1
            most = plan.steps_per_graph or (cuda_graphs.MOST_STEPS if plan.cuda_graphs else calls)
            fitting = max(1, SLOT_BYTES // (batch * images.shape[1] * images.dtype.itemsize))
            slots = min(most, fitting)
            self._slots = torch.zeros(slots, batch, images.shape[1], dtype=images.dtype, device=device)
        self._schedule, self._is_scheduled = torch.zeros(steps_per_epoch, 2, device=device), False
        step = IMPLEMENTATIONS[plan.step]
        given = self._schedule, seed, self.step_metrics, group, mark, self._labels, objective
        self._train = step(model, config, plan, *given)
        self.optimizer = self._train.optimizer
        self.average = Average(model, config.ema) if config.ema > 0 else None
        self._capture = capture
        self._graphs: dict[int, cuda_graphs.Graph] = {}  # by their number of steps
        self._steps_per_launch = 1  # steps in one launch
        self.graphs_failed: str | None = None  # why recording failed, if the plan asked for graphs

    @property
    def learning_rate(self) -> float:
        """Return the learning rate of the latest step."""
        return learning_rate_at(max(self.step_number - 1, 0), self.config, self.steps_per_epoch)

    @property
    def beta(self) -> float:
        """Return beta of the latest step."""
        return beta_at(max(self.step_number - 1, 0), self.config, self.steps_per_epoch)

    def warm_up(self) -> None:
        """Compile and record what the plan asks for, and initialise libraries, on steps whose effects are undone.

        Completes the plan: the number of steps in a graph, if still undecided, follows from the time that one step
        takes. Raises RunError if torch.compile fails, or a recording that was explicitly requested; if recording was
        not requested and fails, the plan continues without graphs.
        """
        self._group.broadcast([*self.model.parameters(), *self.model.buffers()])
        self._train.copy_weights()
        with cuda_graphs.preserved(self._train.changed()), compile_errors():
            self._program(1)
            if self._makes_many_steps_a_call:
                self._steps_per_launch = self._fitting(self._steps_worth_a_call())
        if self.plan.cuda_graphs:
            self._record()

    def begin_epoch(self, order: Tensor) -> None:
        """Begin or continue an epoch in which step i sees the images order[i]; order: int64 [steps_per_epoch, B]."""
        epoch = self.step_number // self.steps_per_epoch
        self._train.copy_weights()  # the model may have been changed from outside
        if self._images is not None or self._labels is not None:
            self._order.copy_(order[:, self._share])
        if not (self._is_scheduled and is_constant(self.config)):
            self._schedule.copy_(epoch_schedule(epoch, self.config, self.steps_per_epoch))
            self._is_scheduled = True

    def launches(self, steps: int) -> list[int]:
        """Return how many steps each of the next calls of `advance` has to make, for a total of `steps`."""
        size = self._steps_per_launch
        first = (
            0 if self.average is None else min(steps, -self.step_number % size)
        )  # so that launches end where it moves
        whole, rest = divmod(steps - first, size)
        ends = [[1] * n if self._graphs else [n] if n else [] for n in (first, rest)]  # graphs have one step or `size`
        return [*ends[0], *[size] * whole, *ends[1]]

    def advance(self, count: int, batches: Tensor | None = None) -> None:
        """Run `count` steps of the epoch, in one launch if they were recorded together.

        batches: the images of this process's share, [count, B, D] on the device; None with the feed "device".
        """
        if batches is not None:
            self._slots[:count].copy_(batches)
        if self.draws_random_numbers:
            torch.manual_seed(seed_of_step(self.config.seed, self.step_number))
        if count in self._graphs:
            self._graphs[count].replay()
        else:
            self._program(count)
        before, self.step_number = self.step_number, self.step_number + count
        if self.average is not None:
            self.average.after(self.step_number)
        if before // CHECK_EVERY < self.step_number // CHECK_EVERY:
            self.stop_if_diverged()

    def stop_if_diverged(self) -> None:
        """Raise RunError if the last report from the device shows too many skipped steps in a row."""
        recent = self.step_metrics.arrived(wait=self._group.size > 1)  # wait: all ranks see it at the same step
        if recent is not None:
            self.recent_loss = recent.loss
            if recent.skips_in_a_row >= MOST_SKIPS_IN_A_ROW:
                raise RunError(
                    f"training diverged: the loss or gradient was not finite in {recent.skips_in_a_row} steps in a "
                    f"row, up to step {self.step_number}; none of them changed the model. Try a lower --lr, or --clip 1"
                )
        self.step_metrics.request(self.step_number)

    def finish_epoch(self) -> dict[str, float | int | None]:
        """Return the epoch's averages over the images it learned from and its skipped steps; reset the sums. Waits."""
        return self.step_metrics.finish_epoch()

    @property
    def is_diverging(self) -> bool:
        """Return whether more of the latest steps were skipped than a search for fp16's scale explains. Waits."""
        return self.step_metrics.recent(self.step_number).skips_in_a_row > MOST_SCALER_SKIPS

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Return parameters, optimizer tensors and counters: with config and data, all that the run depends on.

        The parameters are the averages if there are any; then those of the next step are among the optimizer's tensors.
        """
        counters = {
            "step": self.step_number,
            "sums": self.step_metrics.sums.tolist(),
            "skips_in_a_row": self.step_metrics.recent(self.step_number).skips_in_a_row if self.step_number else 0,
            "scaler": self._train.scale.state(),
        }
        parameters, tensors = self.model.state_dict(), self.optimizer.tensors()
        if self.average is not None:
            return parameters | self.average.tensors(), tensors | self.average.trained(), counters
        return parameters, tensors, counters

    def begin_from(self, parameters: dict[str, Tensor]) -> None:
        """Begin the run with these parameters, as `state` returns them."""
        self.model.load_state_dict(parameters)
        if self.average is not None:
            self.average.load(dict(self.model.named_parameters()))

    def load_state(self, parameters: dict[str, Tensor], optimizer: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.model.load_state_dict({name: optimizer.get(f"{name}{SUFFIX}", p) for name, p in parameters.items()})
        if self.average is not None:
            self.average.load(parameters)
        self.optimizer.load_tensors(optimizer)
        self._train.copy_weights()
        self.step_number = counters["step"]
        self.step_metrics.load(self.step_number, counters["sums"], counters["skips_in_a_row"])
        self._train.scale.load(counters["scaler"])

    @property
    def _max_steps_per_launch(self) -> int:
        if self.draws_random_numbers:
            return 1  # the generators are seeded anew for each step
        most = self.steps_per_epoch if self._images is not None else min(self.steps_per_epoch, len(self._slots))
        return most if self.average is None else min(most, EVERY)

    def _fitting(self, steps: int) -> int:
        """Return the number of steps in a launch, at most `steps`."""
        most = min(steps, self._max_steps_per_launch)
        return most if self.average is None else 1 << (most.bit_length() - 1)  # which divides EVERY

    def _steps_worth_a_call(self) -> int:
        """Return how many steps in one operator call take CALL_SECONDS, judging by the fastest of a few timed calls."""
        fastest = float("inf")
        for _ in range(TIMED_CALLS):
            began = time.perf_counter()
            self._program(1)
            fastest = min(fastest, time.perf_counter() - began)
            if fastest > CALL_SECONDS:
                break
        return min(CHECK_EVERY, max(1, round(CALL_SECONDS / fastest)))

    def _record(self) -> None:
        try:
            with cuda_graphs.preserved(self._train.changed()):
                self._graphs = self._recorded()
        except ContactLost:
            raise
        except RuntimeError as error:
            cause = first_line(error)
            if self.config.cuda_graphs == "on":
                raise RunError(f"--cuda-graphs on: recording a step failed: {cause}") from error
            self.plan = replace(self.plan, cuda_graphs=False, steps_per_graph=0)
            self.graphs_failed = cause
        else:
            self._steps_per_launch = max(self._graphs)
            self.plan = replace(self.plan, steps_per_graph=self._steps_per_launch)

    def _recorded(self) -> dict[int, cuda_graphs.Graph]:
        """Return the graphs of the plan: one of a single step, for the end of an epoch, and one of several steps."""
        one = self._group.on_all_ranks(self._capture, partial(self._program, 1))
        worth = self.plan.steps_per_graph or cuda_graphs.steps_worth_a_graph(one)
        together = self._fitting(self._group.on_rank0(lambda: worth))
        if together == 1:
            return {1: one}
        return {1: one, together: self._group.on_all_ranks(self._capture, partial(self._program, together))}

    def _program(self, count: int) -> None:
        """Run `count` steps on static tensors alone; no Python value that they use changes between steps."""
        if self._images is None:
            self._train(self._slots[:count], None, count)
        else:
            self._train(self._images, self._order, count)


def seed_of_step(seed: int, step: int) -> int:
    """Return the seed of torch's generators in a step, so that what it draws does not depend on the steps before."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:7], "little")
