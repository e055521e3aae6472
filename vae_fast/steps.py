"""One training step on a batch, in two implementations that learn the same: by autograd, and as one operator.

Each is called with images [N, D], which of them make the batch (int64 [B], or None for all), the learning rate and
beta, all on the device. It changes model and optimizer in place and returns the step's terms for the ledger. Nothing
changes, and the terms say so, where the loss or the gradients' norm is not finite.
"""

from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from vae_fast.adam import Adam
from vae_fast.compiling import compiled
from vae_fast.config import Config
from vae_fast.distributed import World
from vae_fast.kernels import adam_, mlp_gradients, mlp_step_, mlp_workspace
from vae_fast.model import VAE
from vae_fast.objective import objective
from vae_fast.pixels import bernoulli_sample
from vae_fast.plan import DTYPES, Plan
from vae_fast.ranges import Mark, unmarked


class AutogradStep:
    """Forward, compiled if the plan says so, autograd's backward, and the optimizer.

    Args:
        model, config, plan: as the engine's.
        optimizer: of the model.
        seed, step: 0-d int64, of the noise; the step's number changes between calls.
        world: the processes whose batches together are the run's.
        mark: puts the ranges forward, backward and optimizer around what they say.
    """

    def __init__(
        self,
        model: VAE,
        config: Config,
        plan: Plan,
        optimizer: Adam,
        seed: Tensor,
        step: Tensor,
        world: World,
        mark: Mark = unmarked,
    ) -> None:
        self._model, self._config, self._plan = model, config, plan
        self._optimizer, self._seed, self._step = optimizer, seed, step
        self._world, share = world, world.share(config.batch_size)
        self._first_row, self._weight = share.start, (share.stop - share.start) / config.batch_size
        device = plan.torch_device
        self._parameters = list(model.parameters())
        self._none_skipped = torch.zeros((), device=device)
        self._one_skip = torch.tensor([0, 0, 0, 0, 1], dtype=torch.float64, device=device)
        self._forward = mark("forward", compiled(self._losses) if plan.compile else self._losses)
        self._backward, self._update = mark("backward", self._gradients), mark("optimizer", self._updated)
        self.break_off()

    def __call__(self, images: Tensor, rows: Tensor | None, rate: Tensor, beta: Tensor) -> Tensor:
        loss, terms = self._forward(images, rows, beta)
        gradients, terms = self._world.summed(self._backward(loss), terms)
        finite = self._update(gradients, rate)
        return torch.where(finite, terms, self._one_skip)

    def break_off(self) -> None:
        """Begin with a new scaler: one that was left in the middle of a step refuses the next."""
        self._scaler = torch.amp.GradScaler(self._none_skipped.device.type, enabled=self._plan.precision == "fp16")
        self._scaler.scale(self._none_skipped)  # which makes its tensors

    def scaler_state(self) -> dict[str, Any]:
        """Of the loss's scale under fp16; empty otherwise. Waits."""
        return self._scaler.state_dict()

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)

    def _losses(self, images: Tensor, rows: Tensor | None, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and its terms for the ledger."""
        x = images if rows is None else images.index_select(0, rows)  # [B, D]
        if self._config.binarize == "dynamic":
            x = bernoulli_sample(x, self._seed, self._step, self._first_row)
        with torch.autocast(x.device.type, DTYPES[self._plan.precision], enabled=self._plan.precision != "fp32"):
            loss, nll, kl = objective(
                self._model,
                x,
                self._seed,
                self._step,
                beta=beta,
                free_bits=self._config.free_bits,
                row_offset=self._first_row,
                batch_mean=partial(self._world.mean, weight=self._weight),
            )
        count = loss.new_full((), len(x))
        terms = (nll.detach().sum(dtype=torch.float64), kl.detach().sum(dtype=torch.float64))
        return loss, torch.stack((loss.detach() * count, *terms, count, self._none_skipped))

    def _gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Of the loss, scaled, for each parameter."""
        # 0 * inf is NaN: a loss that is not finite makes every gradient NaN, so that one test serves for both.
        start = self._weight + 0 * loss.detach()
        return torch.autograd.grad(self._scaler.scale(loss), self._parameters, start)

    def _updated(self, gradients: tuple[Tensor, ...], rate: Tensor) -> Tensor:
        """Change the model by gradients of all processes: whether these, and the loss, were finite, 0-d bool."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.param_groups[0]["lr"] = rate
        self._scaler.unscale_(self._optimizer)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return self._optimizer.norm.isfinite()


class FusedStep:
    """The MLP's forward and backward written out, with Adam, in one C++ operator: float32 on a CPU.

    Arguments as for `AutogradStep`; there is nothing to mark inside an operator.
    """

    def __init__(
        self,
        model: VAE,
        config: Config,
        plan: Plan,
        optimizer: Adam,
        seed: Tensor,
        step: Tensor,
        world: World,
        mark: Mark = unmarked,
    ) -> None:
        self._seed, self._step, self._world = seed, step, world
        self._binarize = config.binarize == "dynamic"
        self._parameters: list[Tensor] = list(model.parameters())
        self._optimizer = optimizer
        self._terms = torch.zeros(5, dtype=torch.float64)
        self._one_skip = torch.tensor([0, 0, 0, 0, 1], dtype=torch.float64)
        self._decay: dict[str, Any] = {
            "weight_decay": config.weight_decay,
            "max_norm": inf if config.clip is None else config.clip,
        }
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

    def __call__(self, images: Tensor, rows: Tensor | None, rate: Tensor, beta: Tensor) -> Tensor:
        if self._binarize:
            x = images if rows is None else images.index_select(0, rows)
            images, rows = bernoulli_sample(x, self._seed, self._step, self._settings["row_offset"]), None
        parameters, adam, seed, step = self._parameters, self._optimizer, self._seed, self._step
        if self._world.size == 1:
            means, squares, count, settings = adam.means, adam.squares, adam.count, {**self._settings, **self._decay}
            mlp_step_(parameters, means, squares, count, images, rows, seed, step, rate, beta, **settings)
            return self._terms
        mlp_gradients(parameters, self._gradients, images, rows, seed, step, beta, **self._settings)
        gradients, terms = self._world.summed(tuple(self._gradients), self._terms)
        norm = adam_(parameters, adam.means, adam.squares, adam.count, gradients, lr=rate, **self._decay)
        return torch.where(norm.isfinite(), terms, self._one_skip)

    def break_off(self) -> None:
        """Nothing is kept from step to step."""

    def scaler_state(self) -> dict[str, Any]:
        """Of no scaler."""
        return {}

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        pass
