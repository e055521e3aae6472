"""The training step with autograd: any network, any precision, compiled or not, on any device."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vae_fast.config import Config
from vae_fast.data.transforms import bernoulli_sample
from vae_fast.errors import ContactLost
from vae_fast.kernels import Rates, Terms, finish_step_
from vae_fast.kernels.reference import SKIPPED
from vae_fast.models.prior import Prior
from vae_fast.models.sizes import parts_of
from vae_fast.models.vae import VAE
from vae_fast.objectives import elbo, multisample
from vae_fast.objectives.elbo import Backward, Learned, Noise
from vae_fast.objectives.own import OwnObjective
from vae_fast.runtime.compile import compiled_with_backward
from vae_fast.runtime.distributed import ProcessGroup
from vae_fast.runtime.nvtx import Mark, unmarked
from vae_fast.runtime.plan import DTYPES, Plan
from vae_fast.training.loss_scale import LossScale
from vae_fast.training.optim import Adam
from vae_fast.training.step_metrics import StepMetrics
from vae_fast.training.steps.base import Labels, place


class AutogradStep:
    """A forward pass, autograd's backward pass, compiled with it if the plan says so, and `finish_step_`.

    In mixed precision a twin of an MLP computes the network; its weights are the model's in the dtype of the products.
    `finish_step_` writes both, so that no step has to cast them. Other networks have layers, such as normalisations,
    that belong in float32: there autocast casts what products read, which costs little beside them. Arguments as for
    `Step`.
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
        self._config, self._plan, self._group = config, plan, group
        self._schedule, self._seed, self._step_metrics = schedule, seed, step_metrics
        share = group.shard(config.batch_size)
        self._row_offset, self._labels = share.start, labels
        has_twin = plan.precision != "fp32" and model.network == "mlp"
        self.network = deepcopy(model).to(DTYPES[plan.precision]) if has_twin else model
        self._has_moving_buffers = model.has_moving_buffers
        self._likelihood = model.likelihood  # in float32: its copy in the twin is not used
        self.optimizer = Adam(
            model.named_parameters(),
            config.weight_decay,
            config.clip,
            copies=list(self.network.parameters()) if has_twin else None,
            flat=plan.optimizer == "triton",
        )
        self.scale = LossScale(plan.precision == "fp16", plan.torch_device)
        compiled = plan.is_torch_compiled
        inner = unmarked if compiled else mark  # compiled code cannot contain ranges
        self._parts = parts_of(model, share.stop - share.start, config.samples)
        total = None if group.is_alone else partial(group.total, compiled=compiled)
        through, back = _passes(config, objective, model.prior, total)
        self._through = through
        self._forward, self._backward = inner("forward", self._activations), inner("backward", back)
        self._learn = mark("gradients", compiled_with_backward(self._gradients)) if compiled else self._gradients
        self._update = mark("optimizer", self._finished)
        # Whether the compiled code itself talks to other processes.
        self._communicates = compiled and config.free_bits > 0 and not group.is_alone
        self._has_run = False

    def __call__(self, images: Tensor, order: Tensor | None, steps: int) -> None:
        for i in range(steps):
            self._step(images[i] if order is None else images, order)

    def copy_weights(self) -> None:
        """Update what the products read after the weights were set from outside."""
        self.optimizer.copy_weights()

    def _step(self, images: Tensor, order: Tensor | None) -> None:
        step = self._step_metrics.step
        before = [b.clone() for b in self.network.buffers()] if self._has_moving_buffers else []
        given = images, order, self._labels, self._schedule, step, self._seed, self.scale.factor
        try:
            learned = self._learn(*given)
        except RuntimeError as error:
            if not (self._communicates and self._has_run):  # otherwise it has worked before, so a peer must be gone
                raise
            raise ContactLost("a compiled step has lost contact with the other processes") from error
        self._has_run = True
        self._update(*learned)
        self._undo_if_skipped(before)

    def _undo_if_skipped(self, before: list[Tensor]) -> None:
        """Restore the buffers, on the device, if the step was skipped: those of batch normalisation may be NaN."""
        if before:
            step, _, ring = self._step_metrics.record
            skipped = ring.index_select(0, ((step - 1) % len(ring)).view(1))[0, SKIPPED] > 0
            for buffer, value in zip(self.network.buffers(), before, strict=True):
                buffer.copy_(torch.where(skipped, value, buffer))

    def changed(self) -> list[Tensor]:
        """Return all tensors that a step changes."""
        copies, scale = self.optimizer.state.copies, self.scale.moved
        return [
            *self.optimizer.state.parameters.views,
            *self.optimizer.tensors().values(),
            *(copies.views if copies is not None else ()),
            *(scale or ()),
            *self.network.buffers(),
            *self._step_metrics.record,
        ]

    def _gradients(
        self,
        images: Tensor,
        order: Tensor | None,
        labels: Labels | None,
        schedule: Tensor,
        step: Tensor,
        seed: Tensor,
        scale: Tensor,
    ) -> tuple[Terms, Rates, tuple[Tensor, ...]]:
        """Return the terms, the rates, and the gradients of the loss times the scale.

        What changes between steps is passed as arguments, because a compiler sees everything else only once.
        """
        rows, rates, y = place(order, schedule, step, labels)
        x = images if rows is None else images.index_select(0, rows)  # [B, D]
        if self._config.binarize == "dynamic":
            x = bernoulli_sample(x, seed, step, self._row_offset)
        found = [
            self._of_part(x[part], None if y is None else y[part], part.start, rates, seed, step, scale)
            for part in self._parts
        ]
        terms, gradients = found[0] if len(found) == 1 else _together(found)
        return terms, rates, gradients

    def _of_part(
        self, x: Tensor, labels: Tensor | None, first: int, rates: Rates, seed: Tensor, step: Tensor, scale: Tensor
    ) -> Learned:
        """Return the terms over some images of the batch, from number `first` on, and their share of the gradients."""
        noise = Noise(seed, step, self._row_offset + first)
        done = self._forward(x, labels, noise)
        given = self.network, self._likelihood, x, noise, done, rates, scale
        return self._backward(*given, images=self._config.batch_size)

    def _activations(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Any:
        dtype = DTYPES[self._plan.precision]
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
            return self._through(self.network, x, noise, labels)

    def _finished(self, terms: Terms, rates: Rates, gradients: tuple[Tensor, ...]) -> None:
        """Update the model with the gradients of all processes."""
        if not self._group.is_alone:
            gradients, parts = self._group.reduce_gradients(
                gradients, torch.stack([t.double().sum() for t in terms[:2]])
            )
            terms = terms._replace(nll=parts[:, 0].contiguous(), kl=parts[:, 1].contiguous())
        finish_step_(
            self.optimizer.state,
            gradients,
            terms,
            rates,
            self._step_metrics.record,
            self.scale.moved,
            images=self._config.batch_size,
            **self.optimizer.settings,
        )


def _passes(
    config: Config, own: OwnObjective | None, prior: Prior, total: Callable[[Tensor], Tensor] | None
) -> tuple[Callable[..., Any], Backward]:
    """Return the forward and the backward pass of the objective; the first returns what the second needs."""
    if own is not None:
        return elbo.forward, own.backward
    if config.objective == "elbo" and config.samples == 1 and prior.is_normal:
        return elbo.forward, partial(elbo.backward, free_bits=config.free_bits, total=total)
    forward = partial(multisample.forward, samples=config.samples, prior=prior)
    return forward, partial(multisample.backward, objective=config.objective, prior=prior)


def _together(found: Sequence[Learned]) -> Learned:
    """Return the terms of all parts, one after another, and the sums of their gradients."""
    terms, gradients = zip(*found, strict=True)
    nll, kl = (torch.cat([getattr(each, name) for each in terms]) for name in ("nll", "kl"))
    return Terms(nll, kl), tuple(torch.stack(parts).sum(0) for parts in zip(*gradients, strict=True))
