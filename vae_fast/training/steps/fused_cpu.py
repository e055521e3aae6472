"""The training step as one C++ operator on a CPU."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from vae_fast.config import Config
from vae_fast.kernels import FLOAT32, adam_, enter_, mlp_copies, mlp_copy_, mlp_gradients, mlp_steps_, mlp_workspace
from vae_fast.kernels.reference import COLUMNS, SKIPPED
from vae_fast.models.vae import VAE
from vae_fast.objectives.own import OwnObjective
from vae_fast.runtime.distributed import ProcessGroup
from vae_fast.runtime.nvtx import Mark, unmarked
from vae_fast.runtime.plan import Plan, require_loop
from vae_fast.runtime.threads import ThreadCount, chooses_threads
from vae_fast.training.loss_scale import LossScale
from vae_fast.training.optim import Adam
from vae_fast.training.step_metrics import StepMetrics
from vae_fast.training.steps.base import Labels, place


class FusedStep:
    """The forward and backward passes of the MLP and Adam in one C++ operator on a CPU, in float32 or bfloat16.

    Arguments as for `Step`; `mark` is unused because an operator cannot contain ranges, and there are neither labels
    nor objectives of the user's.
    """

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
    ) -> None:
        self._schedule, self._seed, self._step_metrics, self._group = schedule, seed, step_metrics, group
        self.optimizer = Adam(model.named_parameters(), config.weight_decay, config.clip)
        self.scale = LossScale(False, plan.torch_device)
        self._parameters = self.optimizer.state.parameters.views
        require_loop(plan)
        self._copies = mlp_copies(self._parameters) if plan.bf16_loop else None
        self._terms = torch.zeros(COLUMNS, dtype=torch.float64)
        self._one_skip = torch.zeros_like(self._terms)
        self._one_skip[SKIPPED] = 1
        share = group.shard(config.batch_size)
        batch = share.stop - share.start
        products = plan.bf16_loop or FLOAT32
        self._settings: dict[str, Any] = {
            "activation": config.activation,
            "free_bits": config.free_bits,
            "binarize": config.binarize == "dynamic",
            "row_offset": share.start,
            "weight": batch / config.batch_size,
            "workspace": mlp_workspace(self._parameters, batch, config.free_bits, products, config.samples),
            "objective": config.objective,
            "samples": config.samples,
            "products": products,
            "likelihood": model.likelihood.name,
            "log_scale": model.likelihood.fixed_log_scale,
        }
        self._threads = ThreadCount() if chooses_threads(config, plan, group.size) else None
        self._gradients = [torch.empty_like(p) for p in self._parameters] if group.size > 1 else []

    def __call__(self, images: Tensor, order: Tensor | None, steps: int) -> None:
        if self._group.size > 1:
            for i in range(steps):
                self._shared_step(images[i] if order is None else images, order)
        elif self._threads is None:
            self._steps(images, order, steps)
        else:
            self._threads.run(partial(self._steps, images, order, steps), steps)

    def changed(self) -> list[Tensor]:
        """Return all tensors that a step changes."""
        copies = [] if self._copies is None else [self._copies]
        return [*self._parameters, *copies, *self.optimizer.tensors().values(), *self._step_metrics.record]

    def copy_weights(self) -> None:
        """Update what the products read after the weights were set from outside."""
        if self._copies is not None:
            mlp_copy_(self._parameters, self._copies)

    def _steps(self, images: Tensor, order: Tensor | None, steps: int) -> None:
        if order is None:
            images = images.flatten(0, 1)
        adam = self.optimizer.state
        mlp_steps_(
            self._parameters,
            adam.means.views,
            adam.squares.views,
            adam.taken,
            self._copies,
            images,
            order,
            self._schedule,
            self._seed,
            self._step_metrics.record,
            steps=steps,
            **self._settings,
            **self.optimizer.settings,
        )

    def _shared_step(self, images: Tensor, order: Tensor | None) -> None:
        """Run one step on this process's part of a batch."""
        adam, seed, step = self.optimizer.state, self._seed, self._step_metrics.step
        rows, (lr, beta), _ = place(order, self._schedule, step)
        given = self._copies, images, rows, seed, step, beta
        mlp_gradients(self._parameters, self._gradients, *given, terms=self._terms, **self._settings)
        gradients, parts = self._group.reduce_gradients(self._gradients, self._terms)
        moments = adam.means.views, adam.squares.views, adam.taken
        norm = adam_(self._parameters, *moments, gradients, lr=lr, **self.optimizer.settings)
        self.copy_weights()
        enter_(
            self._step_metrics.record, torch.where(norm.isfinite(), parts.sum(0, dtype=torch.float64), self._one_skip)
        )
