"""One training step on a batch, in two implementations that learn the same: by autograd, and as one operator.

Each is called with images [N, D], which of them make the batch (int64 [B], or None for all), the learning rate and
beta, all on the device. It changes model and optimizer in place and returns the step's terms for the ledger. Nothing
changes, and the terms say so, where the loss or the gradients' norm is not finite.
"""

from math import inf
from typing import Any

import torch
from torch import Tensor

from vae_fast.adam import Adam
from vae_fast.compiling import compiled
from vae_fast.config import Config
from vae_fast.kernels import mlp_step_, mlp_workspace
from vae_fast.model import VAE
from vae_fast.objective import objective
from vae_fast.pixels import bernoulli_sample
from vae_fast.plan import DTYPES, Plan


class AutogradStep:
    """Forward, compiled if the plan says so, autograd's backward, and the optimizer.

    Args:
        model, config, plan: as the engine's.
        optimizer: of the model.
        seed, step: 0-d int64, of the noise; the step's number changes between calls.
    """

    def __init__(self, model: VAE, config: Config, plan: Plan, optimizer: Adam, seed: Tensor, step: Tensor) -> None:
        self._model, self._config, self._plan = model, config, plan
        self._optimizer, self._seed, self._step = optimizer, seed, step
        device = plan.torch_device
        self._parameters = list(model.parameters())
        self._none_skipped = torch.zeros((), device=device)
        self._one_skip = torch.tensor([0, 0, 0, 0, 1], dtype=torch.float64, device=device)
        self._forward = compiled(self._losses) if plan.compile else self._losses
        self._scaler = torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16")
        self._scaler.scale(self._none_skipped)  # which makes its tensors

    def __call__(self, images: Tensor, rows: Tensor | None, rate: Tensor, beta: Tensor) -> Tensor:
        loss, terms = self._forward(images, rows, beta)
        return torch.where(self._update(loss, rate), terms, self._one_skip)

    def scaler_state(self) -> dict[str, Any]:
        """Of the loss's scale under fp16; empty otherwise. Waits."""
        return self._scaler.state_dict()

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)

    def _losses(self, images: Tensor, rows: Tensor | None, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and its terms for the ledger."""
        x = images if rows is None else images.index_select(0, rows)  # [B, D]
        if self._config.binarize == "dynamic":
            x = bernoulli_sample(x, self._seed, self._step)
        with torch.autocast(x.device.type, DTYPES[self._plan.precision], enabled=self._plan.precision != "fp32"):
            loss, nll, kl = objective(
                self._model, x, self._seed, self._step, beta=beta, free_bits=self._config.free_bits
            )
        count = loss.new_full((), len(x))
        terms = (nll.detach().sum(dtype=torch.float64), kl.detach().sum(dtype=torch.float64))
        return loss, torch.stack((loss.detach() * count, *terms, count, self._none_skipped))

    def _update(self, loss: Tensor, rate: Tensor) -> Tensor:
        """Backward and optimizer; 0-d bool, whether loss and gradients were finite, without which nothing changes."""
        # 0 * inf is NaN: a loss that is not finite makes every gradient NaN, so that one test serves for both.
        start = 1 + 0 * loss.detach()
        gradients = torch.autograd.grad(self._scaler.scale(loss), self._parameters, start)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.param_groups[0]["lr"] = rate
        self._scaler.unscale_(self._optimizer)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return self._optimizer.norm.isfinite()


class FusedStep:
    """The MLP's forward and backward written out, with Adam, in one C++ operator: float32 on a CPU.

    Arguments as for `AutogradStep`.
    """

    def __init__(self, model: VAE, config: Config, plan: Plan, optimizer: Adam, seed: Tensor, step: Tensor) -> None:
        self._seed, self._step = seed, step
        self._binarize = config.binarize == "dynamic"
        self._parameters, self._optimizer = list(model.parameters()), optimizer
        self._terms = torch.zeros(5, dtype=torch.float64)
        self._settings: dict[str, Any] = {
            "activation": config.activation,
            "weight_decay": config.weight_decay,
            "max_norm": inf if config.clip is None else config.clip,
            "free_bits": config.free_bits,
            "workspace": mlp_workspace(self._parameters, config.batch_size, config.free_bits),
            "terms": self._terms,
        }

    def __call__(self, images: Tensor, rows: Tensor | None, rate: Tensor, beta: Tensor) -> Tensor:
        if self._binarize:
            images = bernoulli_sample(images if rows is None else images.index_select(0, rows), self._seed, self._step)
            rows = None
        adam = self._optimizer
        state = (self._parameters, adam.means, adam.squares, adam.count)
        mlp_step_(*state, images, rows, self._seed, self._step, rate, beta, **self._settings)
        return self._terms

    def scaler_state(self) -> dict[str, Any]:
        """Of no scaler."""
        return {}

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        pass
