"""Training steps, in two implementations that learn the same: by autograd, and as one operator.

Each is called with images, the epoch's order of them and the number of steps to make. From the order, int64
[steps_per_epoch, B], as from the epoch's schedule, the number of a step picks; with None for it the images are the
batches, [steps, B, D]. Model, optimizer and ledger change in place. Nothing but the ledger changes where the loss or
the gradients' norm is not finite.
"""

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vae_fast.adam import Adam
from vae_fast.compiling import compiled_with_backward
from vae_fast.config import Config
from vae_fast.distributed import World
from vae_fast.errors import ContactLost
from vae_fast.kernels import (
    FLOAT32,
    Rates,
    Terms,
    adam_,
    enter_,
    finish_step_,
    mlp_copies,
    mlp_copy_,
    mlp_gradients,
    mlp_steps_,
    mlp_workspace,
)
from vae_fast.ledger import COLUMNS, Ledger
from vae_fast.loss_scale import LossScale
from vae_fast.model import VAE
from vae_fast.objective import Noise, Pass, backward, forward
from vae_fast.pixels import bernoulli_sample
from vae_fast.plan import DTYPES, Plan, require_loop
from vae_fast.ranges import Mark, unmarked


def place(order: Tensor | None, schedule: Tensor, step: Tensor) -> tuple[Tensor | None, Rates]:
    """Which images step number `step` sees, int64 [B], and its rates; schedule: [steps_per_epoch, 2], lr and beta."""
    position = (step % len(schedule)).view(1)
    rates = Rates(*schedule.index_select(0, position).view(2).unbind())
    return None if order is None else order.index_select(0, position).view(-1), rates


class AutogradStep:
    """Forward and autograd's backward, compiled as one function if the plan says so, and `finish_step_`.

    In mixed precision the network is computed in a twin of the model, whose weights are the model's in the products'
    dtype: `finish_step_` writes both, so that no step has to cast them.

    Args:
        model, config, plan: as the engine's.
        schedule: float32 [steps_per_epoch, 2], learning rate and beta; its values change between epochs.
        seed: 0-d int64, of the noise.
        ledger: of the steps.
        world: the processes whose batches together are the run's.
        mark: puts the ranges forward and backward, or gradients where they are one, and optimizer around what they say.
    """

    def __init__(
        self,
        model: VAE,
        config: Config,
        plan: Plan,
        schedule: Tensor,
        seed: Tensor,
        ledger: Ledger,
        world: World,
        mark: Mark = unmarked,
    ) -> None:
        self._config, self._plan, self._world = config, plan, world
        self._schedule, self._seed, self._ledger = schedule, seed, ledger
        self._row_offset = world.share(config.batch_size).start
        mixed = plan.precision != "fp32"
        self.network = deepcopy(model).to(DTYPES[plan.precision]) if mixed else model
        self.optimizer = Adam(
            model.named_parameters(),
            config.weight_decay,
            config.clip,
            copies=list(self.network.parameters()) if mixed else None,
            flat=plan.optimizer == "triton",
        )
        self.scale = LossScale(plan.precision == "fp16", plan.torch_device)
        compiled = plan.is_torch_compiled
        inner = unmarked if compiled else mark  # no range is inside what is compiled
        self._forward, self._backward = inner("forward", self._activations), inner("backward", backward)
        self._learn = mark("gradients", compiled_with_backward(self._gradients)) if compiled else self._gradients
        self._update = mark("optimizer", self._finished)
        self._sends = compiled and config.free_bits > 0 and not world.is_alone  # from inside what is compiled
        self._has_run = False

    def __call__(self, images: Tensor, order: Tensor | None, steps: int) -> None:
        for i in range(steps):
            self._step(images[i] if order is None else images, order)

    def copy_weights(self) -> None:
        """Bring what the products read up to weights that were set from outside."""
        self.optimizer.copy_weights()

    def _step(self, images: Tensor, order: Tensor | None) -> None:
        given = images, order, self._schedule, self._ledger.step, self._seed, self.scale.factor
        try:
            learned = self._learn(*given)
        except RuntimeError as error:
            if not (self._sends and self._has_run):  # else it was compiled and has worked: whom it sends to is gone
                raise
            raise ContactLost("a compiled step has lost contact with the other processes") from error
        self._has_run = True
        self._update(*learned)

    def changed(self) -> list[Tensor]:
        """All tensors that a step changes."""
        copies, scale = self.optimizer.state.copies, self.scale.moved
        return [
            *self.optimizer.state.parameters.views,
            *self.optimizer.tensors().values(),
            *(copies.views if copies is not None else ()),
            *(scale or ()),
            *self._ledger.record,
        ]

    def _gradients(
        self, images: Tensor, order: Tensor | None, schedule: Tensor, step: Tensor, seed: Tensor, scale: Tensor
    ) -> tuple[Terms, Rates, tuple[Tensor, ...]]:
        """Of the loss times the scale. What changes between steps are arguments: a compiler sees all else once."""
        rows, rates = place(order, schedule, step)
        x = images if rows is None else images.index_select(0, rows)  # [B, D]
        if self._config.binarize == "dynamic":
            x = bernoulli_sample(x, seed, step, self._row_offset)
        noise = Noise(seed, step, self._row_offset)
        done = self._forward(x, noise)
        terms, gradients = self._backward(
            self.network,
            x,
            noise,
            done,
            rates,
            scale,
            images=self._config.batch_size,
            free_bits=self._config.free_bits,
            total=None if self._world.is_alone else partial(self._world.total, compiled=self._plan.is_torch_compiled),
        )
        return terms, rates, gradients

    def _activations(self, x: Tensor, noise: Noise) -> Pass:
        dtype = DTYPES[self._plan.precision]
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
            return forward(self.network, x, noise)

    def _finished(self, terms: Terms, rates: Rates, gradients: tuple[Tensor, ...]) -> None:
        """Change the model by the gradients of all processes."""
        if not self._world.is_alone:
            gradients, parts = self._world.summed(gradients, torch.stack([t.double().sum() for t in terms[:2]]))
            terms = terms._replace(nll=parts[:, 0].contiguous(), kl=parts[:, 1].contiguous())
        finish_step_(
            self.optimizer.state,
            gradients,
            terms,
            rates,
            self._ledger.record,
            self.scale.moved,
            images=self._config.batch_size,
            **self.optimizer.settings,
        )


class FusedStep:
    """The MLP's forward and backward written out, with Adam, in one C++ operator on a CPU: float32 or bfloat16.

    Arguments as for `AutogradStep`; there is nothing to mark inside an operator.
    """

    def __init__(
        self,
        model: VAE,
        config: Config,
        plan: Plan,
        schedule: Tensor,
        seed: Tensor,
        ledger: Ledger,
        world: World,
        mark: Mark = unmarked,
    ) -> None:
        self._schedule, self._seed, self._ledger, self._world = schedule, seed, ledger, world
        self.optimizer = Adam(model.named_parameters(), config.weight_decay, config.clip)
        self.scale = LossScale(False, plan.torch_device)
        self._parameters = self.optimizer.state.parameters.views
        require_loop(plan)
        self._copies = mlp_copies(self._parameters) if plan.bf16_loop else None
        self._terms = torch.zeros(COLUMNS, dtype=torch.float64)
        self._one_skip = torch.tensor([0, 0, 0, 0, 1], dtype=torch.float64)
        share = world.share(config.batch_size)
        batch = share.stop - share.start
        products = plan.bf16_loop or FLOAT32
        self._settings: dict[str, Any] = {
            "activation": config.activation,
            "free_bits": config.free_bits,
            "binarize": config.binarize == "dynamic",
            "row_offset": share.start,
            "weight": batch / config.batch_size,
            "workspace": mlp_workspace(self._parameters, batch, config.free_bits, products),
            "products": products,
        }
        self._gradients = [torch.empty_like(p) for p in self._parameters] if world.size > 1 else []

    def __call__(self, images: Tensor, order: Tensor | None, steps: int) -> None:
        if self._world.size == 1:
            self._steps(images.flatten(0, 1) if order is None else images, order, steps)
        else:
            for i in range(steps):
                self._shared_step(images[i] if order is None else images, order)

    def changed(self) -> list[Tensor]:
        """All tensors that a step changes."""
        copies = [] if self._copies is None else [self._copies]
        return [*self._parameters, *copies, *self.optimizer.tensors().values(), *self._ledger.record]

    def copy_weights(self) -> None:
        """Bring what the products read up to weights that were set from outside."""
        if self._copies is not None:
            mlp_copy_(self._parameters, self._copies)

    def _steps(self, images: Tensor, order: Tensor | None, steps: int) -> None:
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
            self._ledger.record,
            steps=steps,
            **self._settings,
            **self.optimizer.settings,
        )

    def _shared_step(self, images: Tensor, order: Tensor | None) -> None:
        """One step on this process's part of a batch."""
        adam, seed, step = self.optimizer.state, self._seed, self._ledger.step
        rows, (lr, beta) = place(order, self._schedule, step)
        given = self._copies, images, rows, seed, step, beta
        mlp_gradients(self._parameters, self._gradients, *given, terms=self._terms, **self._settings)
        gradients, parts = self._world.summed(self._gradients, self._terms)
        moments = adam.means.views, adam.squares.views, adam.taken
        norm = adam_(self._parameters, *moments, gradients, lr=lr, **self.optimizer.settings)
        self.copy_weights()
        enter_(self._ledger.record, torch.where(norm.isfinite(), parts.sum(0, dtype=torch.float64), self._one_skip))
