"""One training step on a batch, in two implementations that learn the same: by autograd, and as one operator.

Each is called with images and the epoch's order of them, from which, as from the epoch's schedule, the number of the
step picks: int64 [steps_per_epoch, B], or None for images [B, D] that are the batch. It changes model, optimizer and
ledger in place. Nothing but the ledger changes where the loss or the gradients' norm is not finite.
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
from vae_fast.kernels import Rates, Terms, adam_, enter_, finish_step_, mlp_gradients, mlp_step_, mlp_workspace
from vae_fast.ledger import COLUMNS, Ledger
from vae_fast.loss_scale import LossScale
from vae_fast.model import VAE
from vae_fast.objective import Noise, Pass, backward, forward
from vae_fast.pixels import bernoulli_sample
from vae_fast.plan import DTYPES, Plan
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
        inner = unmarked if plan.compile else mark  # no range is inside what is compiled
        self._forward, self._backward = inner("forward", self._activations), inner("backward", backward)
        self._learn = mark("gradients", compiled_with_backward(self._gradients)) if plan.compile else self._gradients
        self._update = mark("optimizer", self._finished)
        self._sends = plan.compile and config.free_bits > 0 and not world.is_alone  # from inside what is compiled
        self._has_run = False

    def __call__(self, images: Tensor, order: Tensor | None) -> None:
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
            total=None if self._world.is_alone else partial(self._world.total, compiled=self._plan.compile),
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
    """The MLP's forward and backward written out, with Adam, in one C++ operator: float32 on a CPU.

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
        self._binarize = config.binarize == "dynamic"
        self.optimizer = Adam(model.named_parameters(), config.weight_decay, config.clip)
        self.scale = LossScale(False, plan.torch_device)
        self._parameters = self.optimizer.state.parameters.views
        self._terms = torch.zeros(COLUMNS, dtype=torch.float64)
        self._one_skip = torch.tensor([0, 0, 0, 0, 1], dtype=torch.float64)
        share = world.share(config.batch_size)
        batch = share.stop - share.start
        self._settings: dict[str, Any] = {
            "activation": config.activation,
            "free_bits": config.free_bits,
            "row_offset": share.start,
            "weight": batch / config.batch_size,
            "workspace": mlp_workspace(self._parameters, batch, config.free_bits),
            "terms": self._terms,
        }
        self._gradients = [torch.empty_like(p) for p in self._parameters] if world.size > 1 else []

    def __call__(self, images: Tensor, order: Tensor | None) -> None:
        seed, step = self._seed, self._ledger.step
        rows, rates = place(order, self._schedule, step)
        if self._binarize:
            x = images if rows is None else images.index_select(0, rows)
            images, rows = bernoulli_sample(x, seed, step, self._settings["row_offset"]), None
        enter_(self._ledger.record, self._learn(images, rows, seed, step, rates))

    def changed(self) -> list[Tensor]:
        """All tensors that a step changes."""
        return [*self._parameters, *self.optimizer.tensors().values(), *self._ledger.record]

    def _learn(self, images: Tensor, rows: Tensor | None, seed: Tensor, step: Tensor, rates: Rates) -> Tensor:
        """Change the model; the step's terms."""
        adam, decay = self.optimizer.state, self.optimizer.settings
        parameters, means, squares, count = adam.parameters.views, adam.means.views, adam.squares.views, adam.taken
        lr, beta = rates
        if self._world.size == 1:
            settings = {**self._settings, **decay}
            mlp_step_(parameters, means, squares, count, images, rows, seed, step, lr, beta, **settings)
            return self._terms
        mlp_gradients(parameters, self._gradients, images, rows, seed, step, beta, **self._settings)
        gradients, parts = self._world.summed(self._gradients, self._terms)
        norm = adam_(parameters, means, squares, count, gradients, lr=lr, **decay)
        return torch.where(norm.isfinite(), parts.sum(0, dtype=torch.float64), self._one_skip)
