"""What the engine asks of an implementation of the training step."""

from typing import Protocol

from torch import Tensor

from vae_fast.config import Config
from vae_fast.kernels import Rates
from vae_fast.models.vae import VAE
from vae_fast.runtime.distributed import ProcessGroup
from vae_fast.runtime.nvtx import Mark, unmarked
from vae_fast.runtime.plan import Plan
from vae_fast.training.loss_scale import LossScale
from vae_fast.training.optim import Adam
from vae_fast.training.step_metrics import StepMetrics


class Step(Protocol):
    """One or more training steps, as a program over static tensors.

    Model, optimizer and step metrics change in place, and nothing but the metrics where the loss or the gradients' norm
    is not finite. Another implementation is a class of this shape in `vae_fast.training.steps.IMPLEMENTATIONS`,
    and a name for it in the plan.

    Args:
        model, config, plan: as the engine's.
        schedule: float32 [steps_per_epoch, 2], learning rate and beta; its values change between epochs.
        seed: 0-d int64, of the noise.
        step_metrics: of the steps.
        group: the processes whose batches together are the run's.
        mark: puts the ranges forward and backward, or gradients where they are one, and optimizer around what they say.
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
    ) -> None: ...

    def __call__(self, images: Tensor, order: Tensor | None, steps: int) -> None:
        """Make `steps` steps.

        images: [N, D], from which `order`, int64 [steps_per_epoch, B], picks by the number of a step; with None for it
        the batches themselves, [steps, B, D].
        """

    def changed(self) -> list[Tensor]:
        """Return all tensors that a step changes."""

    def copy_weights(self) -> None:
        """Bring what the products read up to weights that were set from outside."""


def place(order: Tensor | None, schedule: Tensor, step: Tensor) -> tuple[Tensor | None, Rates]:
    """Which images step number `step` sees, int64 [B], and its rates; schedule: [steps_per_epoch, 2], lr and beta."""
    position = (step % len(schedule)).view(1)
    rates = Rates(*schedule.index_select(0, position).view(2).unbind())
    return None if order is None else order.index_select(0, position).view(-1), rates
