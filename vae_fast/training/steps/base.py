"""The interface that the engine requires of an implementation of the training step."""

from typing import NamedTuple, Protocol

from torch import Tensor

from vae_fast.config import Config
from vae_fast.kernels import Rates
from vae_fast.models.vae import VAE
from vae_fast.objectives.own import OwnObjective
from vae_fast.runtime.distributed import ProcessGroup
from vae_fast.runtime.nvtx import Mark, unmarked
from vae_fast.runtime.plan import Plan
from vae_fast.training.loss_scale import LossScale
from vae_fast.training.optim import Adam
from vae_fast.training.step_metrics import StepMetrics


class Labels(NamedTuple):
    """The labels of the training images: int64 [N], and the images of each step, int64 [steps_per_epoch, B]."""

    values: Tensor
    order: Tensor


class Step(Protocol):
    """One or more training steps, as a program over static tensors.

    Model, optimizer and step metrics change in place; only the metrics change if the loss or the norm of the gradients
    is not finite. To add an implementation, add a class with this interface to
    `vae_fast.training.steps.IMPLEMENTATIONS`, and a name for it to the plan.

    Args:
        model, config, plan: those of the engine.
        schedule: float32 [steps_per_epoch, 2], learning rate and beta; its values change between epochs.
        seed: 0-d int64, the seed of the noise.
        step_metrics: where the steps record their metrics.
        group: the processes whose batches together form the run's batch.
        mark: puts the profiler ranges forward and backward, or gradients where both are one, and optimizer around those
            parts.
        labels: those of the images if the model has classes, whose order changes between epochs, else None.
        objective: the user's, instead of the ELBO.
    """

    optimizer: Adam
    scale: LossScale

    def __init__(
        self,
        model: VAE,
        config: Config,
        plan: Plan,
        schedule: Tensor,
        seed: Tensor,
        step_metrics: StepMetrics,
        group: ProcessGroup,
        mark: Mark = unmarked,
        labels: Labels | None = None,
        objective: OwnObjective | None = None,
    ) -> None: ...

    def __call__(self, images: Tensor, order: Tensor | None, steps: int) -> None:
        """Run `steps` steps.

        images: [N, D], from which `order`, int64 [steps_per_epoch, B], selects by step number; if `order` is None, the
        batches themselves, [steps, B, D].
        """

    def changed(self) -> list[Tensor]:
        """Return all tensors that a step changes."""

    def copy_weights(self) -> None:
        """Update what the products read after the weights were set from outside."""


class Place(NamedTuple):
    """What a step is to see: the indices of its images, int64 [B], its rates, and its labels, int64 [B], or None."""

    rows: Tensor | None
    rates: Rates
    labels: Tensor | None


def place(order: Tensor | None, schedule: Tensor, step: Tensor, labels: Labels | None = None) -> Place:
    """Return what step number `step` sees, by its row of `order`, `schedule` and `labels`."""
    position = (step % len(schedule)).view(1)
    rates = Rates(*schedule.index_select(0, position).view(2).unbind())
    rows = None if order is None else order.index_select(0, position).view(-1)
    if labels is None:
        return Place(rows, rates, None)
    labelled = labels.order.index_select(0, position).view(-1) if rows is None else rows
    return Place(rows, rates, labels.values.index_select(0, labelled))
