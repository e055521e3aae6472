"""One training step: gather, forward, loss, backward, clip, update, count. And the evaluation beside it.

Nothing here waits for the device. What changes from step to step (step number, beta) and what is added up (losses,
skips) lives in device tensors; a step whose loss or gradient is not finite is skipped by the device itself.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vae_fast.adam import Adam
from vae_fast.config import Config
from vae_fast.errors import RunError
from vae_fast.kernels import streams
from vae_fast.model import VAE
from vae_fast.objective import beta_at, objective
from vae_fast.pixels import bernoulli_sample
from vae_fast.plan import DTYPES, Plan

Losses = Callable[[Tensor], tuple[Tensor, Tensor]]

EVALUATION_BATCH = 1000
MOST_SKIPS_IN_A_ROW = 100
CHECK_EVERY = 25  # steps: with the bound above, a diverged run stops at the latest 150 steps later
MOST_SCALER_SKIPS = 25  # in a row: what finding the scale of fp16 can take, with some to spare


class Engine:
    """The steps of one run over images resident on the device.

    Args:
        model: on the plan's device.
        images: [N, D], uint8 or float32, on the plan's device.
        config, plan: the run's.
        steps_per_epoch: for the schedules.
    """

    def __init__(self, model: VAE, images: Tensor, config: Config, plan: Plan, steps_per_epoch: int) -> None:
        self.model, self.images, self.config, self.plan = model, images, config, plan
        self.steps_per_epoch = steps_per_epoch
        self.step_number = 0  # updates attempted so far
        device = plan.torch_device
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._seed = torch.full((), config.seed, dtype=torch.int64, device=device)
        self._beta = torch.zeros((), device=device)
        # over the epoch: loss, nll, kl and number of the images trained on, and the steps skipped
        self._sums = torch.zeros(5, dtype=torch.float64, device=device)
        self._one_skip = torch.tensor([0, 0, 0, 0, 1], dtype=torch.float64, device=device)
        self._none_skipped = torch.zeros((), device=device)
        self._skips_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._watch = HostCopy(self._skips_in_a_row)
        self._parameters = list(model.parameters())
        self._forward = _compiled(self._losses) if plan.compile else self._losses
        self.optimizer = Adam(model.named_parameters(), config.lr, config.weight_decay, config.clip)
        self._scaler = torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16")

    @property
    def learning_rate(self) -> float:
        """Of the latest step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def beta(self) -> float:
        """Of the latest step."""
        return beta_at(max(self.step_number - 1, 0), self.config, self.steps_per_epoch)

    def warm_up(self) -> None:
        """Compile, and let libraries set themselves up, on one forward and backward pass that leaves no trace.

        RunError if torch.compile fails.
        """
        rows = torch.arange(min(self.config.batch_size, len(self.images)), device=self.images.device)
        try:
            loss, _ = self._forward(rows)
            loss.backward()
        except RuntimeError as error:
            if not self.plan.compile or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise RunError(f"--compile: torch.compile failed: {str(error).strip().splitlines()[0]}") from error
        self._drop_gradients()

    def step(self, rows: Tensor) -> None:
        """Train on the images whose indices `rows` (int64 [B]) holds."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step_number, self.config, self.steps_per_epoch)
        self._beta.fill_(beta_at(self.step_number, self.config, self.steps_per_epoch))
        loss, terms = self._forward(rows)
        finite = self._update(loss)
        self._sums += torch.where(finite, terms, self._one_skip)
        self._skips_in_a_row.add_(1).mul_(~finite)
        self._step += 1
        self.step_number += 1
        if self.step_number % CHECK_EVERY == 0:
            self.stop_if_diverged()

    def stop_if_diverged(self) -> None:
        """Raise RunError once the device has skipped too many steps in a row, going by its last counters to arrive."""
        skips = self._watch.latest()
        if skips is not None and skips >= MOST_SKIPS_IN_A_ROW:
            raise RunError(
                f"training diverged: the loss or gradient was not finite in {int(skips)} steps in a row, up to step "
                f"{self.step_number}; none of them changed the model. Try a lower --lr, or --clip 1"
            )
        self._watch.request()

    def finish_epoch(self) -> dict[str, float | int | None]:
        """The epoch's averages over the images it learned from, and its skipped steps; then count anew. Waits."""
        loss, nll, kl, images, skipped = self._sums.tolist()
        self._sums.zero_()
        sums = {"train_loss": loss, "train_nll": nll, "train_kl": kl}
        return {**{k: v / images if images else None for k, v in sums.items()}, "skipped_steps": int(skipped)}

    @property
    def is_diverging(self) -> bool:
        """Whether more of the latest steps were skipped than a scaler looking for its scale explains. Waits."""
        return bool(self._skips_in_a_row > MOST_SCALER_SKIPS)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Parameters, optimizer tensors and counters: with (config, data) all that a run's future depends on."""
        counters = {
            "step": self.step_number,
            "sums": self._sums.tolist(),
            "skips_in_a_row": self._skips_in_a_row.item(),
            "scaler": self._scaler.state_dict(),
        }
        return self.model.state_dict(), self.optimizer.tensors(), counters

    def load_state(self, parameters: dict[str, Tensor], optimizer: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(parameters)
        self.optimizer.load_tensors(optimizer)
        self.step_number = counters["step"]
        self._step.fill_(self.step_number)
        self._sums.copy_(torch.tensor(counters["sums"], dtype=torch.float64))
        self._skips_in_a_row.fill_(counters["skips_in_a_row"])
        self._scaler.load_state_dict(counters["scaler"])

    def _losses(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and what it adds to the epoch's sums."""
        x = self.images.index_select(0, rows)  # [B, D]
        if self.config.binarize == "dynamic":
            x = bernoulli_sample(x, self._seed, self._step)
        with torch.autocast(x.device.type, DTYPES[self.plan.precision], enabled=self.plan.precision != "fp32"):
            loss, nll, kl = objective(
                self.model, x, self._seed, self._step, beta=self._beta, free_bits=self.config.free_bits
            )
        count = loss.new_full((), len(x))
        terms = (nll.detach().sum(dtype=torch.float64), kl.detach().sum(dtype=torch.float64))
        return loss, torch.stack((loss.detach() * count, *terms, count, self._none_skipped))

    def _update(self, loss: Tensor) -> Tensor:
        """Backward and optimizer; 0-d bool, whether loss and gradients were finite, without which nothing changes."""
        self._drop_gradients()
        # 0 * inf is NaN: a loss that is not finite makes every gradient NaN, so that one test serves for both.
        self._scaler.scale(loss).backward(1 + 0 * loss.detach())
        self._scaler.unscale_(self.optimizer)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return self.optimizer.norm.isfinite()

    def _drop_gradients(self) -> None:
        for parameter in self._parameters:  # Optimizer.zero_grad does the same in ten times the time
            parameter.grad = None


class HostCopy:
    """A device tensor as the host last saw it. Asking never waits: copies are asynchronous, into pinned memory."""

    def __init__(self, source: Tensor) -> None:
        self._source = source
        self._copy = torch.empty_like(source, device="cpu", pin_memory=source.is_cuda)
        self._event = torch.cuda.Event() if source.is_cuda else None
        self._requested = False

    def request(self) -> None:
        """Start a copy, unless one is under way."""
        if self._requested:
            return
        self._copy.copy_(self._source, non_blocking=True)
        if self._event is not None:
            self._event.record()
        self._requested = True

    def latest(self) -> Tensor | None:
        """The requested copy once it has arrived, None before."""
        if not self._requested or (self._event is not None and not self._event.query()):
            return None
        self._requested = False
        return self._copy


def learning_rate_at(step: int, config: Config, steps_per_epoch: int) -> float:
    """The learning rate of a step (counted from 0): a linear warm-up, then constant or half a cosine down to 0."""
    warmup = round(config.lr_warmup * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.lr_schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def evaluate(model: VAE, images: Tensor, seed: int) -> dict[str, float]:
    """loss = nll + kl, nll and kl of every image, averaged exactly, in nats; float32 whatever the training's precision.

    `images` is [N, D] on the model's device. One sample of z an image, with the noise of its own index, so that the
    result does not depend on the batch.
    """
    sums = torch.zeros(2, dtype=torch.float64, device=images.device)
    for start in range(0, len(images), EVALUATION_BATCH):
        x = images[start : start + EVALUATION_BATCH]
        _, nll, kl = objective(model, x, seed, 0, row_offset=start, stream=streams.EVALUATION)
        sums += torch.stack((nll.double().sum(), kl.double().sum()))
    nll_mean, kl_mean = (sums / len(images)).tolist()
    return {"loss": nll_mean + kl_mean, "nll": nll_mean, "kl": kl_mean}


def _compiled(function: Losses) -> Losses:
    from torch._inductor import config  # slow to import, and only compiled runs need it

    # Inductor would run the program `openssl` to name its precompiled headers, and fail where it is not installed.
    setting = "cpp_cache_precompile_headers"
    options: dict[str, Any] = {setting: False} if hasattr(config, setting) else {}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)
