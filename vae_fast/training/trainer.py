"""A run in progress: its epochs, evaluations and checkpoints, and how it reacts to signals."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from vae_fast.artifacts import checkpoint
from vae_fast.artifacts.directory import RunDirectory
from vae_fast.artifacts.trackers import tracking
from vae_fast.config import Config
from vae_fast.config_rules import OBJECTIVES
from vae_fast.data.images import Pixels
from vae_fast.data.prefetch import Prefetcher
from vae_fast.data.sampler import BatchSampler
from vae_fast.data.splits import Splits
from vae_fast.data.standardization import Standardization
from vae_fast.data.transforms import mean_entropy
from vae_fast.errors import RunError
from vae_fast.models.build import new_model
from vae_fast.models.sizes import network_memory
from vae_fast.objectives.own import OwnObjective
from vae_fast.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from vae_fast.runtime.environment import changes, environment
from vae_fast.runtime.nvtx import marks
from vae_fast.runtime.plan import Plan
from vae_fast.runtime.printer import Printer
from vae_fast.runtime.profiler import Profile
from vae_fast.runtime.signals import Interrupted, begun, collected_signals
from vae_fast.training.engine import Engine
from vae_fast.training.epoch_line import epoch_line
from vae_fast.training.held_out import HeldOut
from vae_fast.training.initialization import initialize, weights_from
from vae_fast.training.planning import require_memory, require_prior, require_shareable


class Trainer:
    """A run in progress: its parts, and what it has recorded so far."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        splits: Splits,
        directory: RunDirectory,
        printer: Printer,
        profile: Profile,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.config, self.plan, self.splits, self.directory, self.printer = config, plan, splits, directory, printer
        self.profile, self.group = profile, group
        self.tracking = group.on_all_ranks(tracking, config, directory.path, printer.line, group.is_rank0)
        self.mark = mark = marks(config.nvtx, profiler=config.profile in ("torch", "memory"))
        device = plan.torch_device
        resident = plan.feed == "device"
        is_copied = splits.standardization is not None or device.type == "cuda"  # else they are in memory already
        to_come = splits.nbytes if resident and is_copied else 0
        require_memory(to_come, network_memory(config, splits.image_shape, splits.classes), device)
        self.sampler = BatchSampler(len(splits.train), config.batch_size, config.seed, device if resident else "cpu")
        self.model = new_model(config, splits.image_shape, splits.classes)
        self.objective = None if config.objective in OBJECTIVES else OwnObjective(config.objective, self.model)
        require_prior(self.model)
        require_shareable(self.model, self.objective, group.size)
        self.model.to(device)
        place = partial(_placed, device=device if resident else None, standardization=splits.standardization)
        images = place(splits.train)
        initialize(self.model, config, images, splits.standardization)
        self.prefetcher = None if resident else Prefetcher(images, device, mark)
        self.labels = splits.labels if splits.classes else {}
        self.engine = Engine(
            self.model,
            images,
            config,
            plan,
            self.sampler.steps_per_epoch,
            labels=self.labels.get("train"),
            objective=self.objective,
            group=group,
            mark=mark,
        )
        parts = {"valid": splits.valid, "test": splits.test}
        held_out = {name: place(part) for name, part in parts.items() if part is not None}
        self.held_out = HeldOut(self.model, held_out, self.labels, config, group, printer)
        self.metrics: list[dict[str, Any]] = []
        self.epoch = 0  # the number of completed epochs
        self.best: dict[str, float] | None = None  # the lowest loss on held-out images, and its step
        self.entropy = _entropy(splits.train, config)
        self._describe()

    def rehearse(self) -> None:
        """Run one step and write nothing."""
        self._require_space()
        self._take_state()
        if self._is_done:
            return
        self.engine.warm_up()
        order = self.sampler.order(self.epoch + 1)
        self.engine.begin_epoch(order)
        place = self.engine.step_number % self.sampler.steps_per_epoch
        with self._batches(order[place : place + 1], [1]) as batches:
            self.engine.advance(1, next(batches))
        loss = self.engine.finish_epoch()["train_loss"]
        outcome = "not finite" if loss is None else f"{loss:.2f}"
        self.printer.line(f"dry run: one step done, loss {outcome}; the run would go to {self.directory.path}")

    def begin(self) -> None:
        """Load the state to resume from, if any, and compile; only then write config.toml."""
        self._require_space()
        self._take_state()
        if not self._is_done:
            self._warm_up()
        steps = self.config.epochs * self.sampler.steps_per_epoch
        self.group.on_rank0(self.profile.begin, self.engine.step_number, steps, max(self.engine.launches(steps)))
        self.metrics = self.group.on_rank0(self.directory.cut_metrics, self.epoch)
        if len(self.metrics) < self.epoch:
            lost = self.epoch - len(self.metrics)
            self.printer.line(f"warning: {self.directory.metrics_file} has lost the records of {lost} epochs")
        self.group.on_rank0(self._write_config)
        self.tracking.begin(self.epoch)

    def run(self) -> None:
        """Run the remaining epochs; after a signal, save the state at the next step boundary and raise Interrupted."""
        begun()
        with collected_signals() as received:
            while self.epoch < self.config.epochs and not self._is_out_of_patience:
                record = self._train_epoch(self.epoch + 1, received)
                record |= self.mark("evaluation", self._evaluate)(record["epoch"])
                self._close_epoch(record)
                if number := self.group.agreed_signal(received, now=True):
                    raise Interrupted(number, f"go on with --resume {self.directory.path}")
        if self.metrics and self._learned_nothing(self.metrics[-1]):
            raise RunError("training diverged: all steps of the last epoch were skipped. Try a lower --lr, or --clip 1")

        if self._is_out_of_patience:
            since = self.best["step"] // self.sampler.steps_per_epoch if self.best else 0
            self.printer.line(f"stopped: the validation loss has not fallen since epoch {since}")
        if self.engine.average is not None:
            self.engine.average.swap()  # the model that the caller gets

    @property
    def _is_done(self) -> bool:
        return self.engine.step_number == self.config.epochs * self.sampler.steps_per_epoch or self._is_out_of_patience

    @property
    def _is_out_of_patience(self) -> bool:
        """Return whether the validation loss has not fallen for --patience epochs."""
        if self.config.patience is None or self.best is None or self.epoch % self.config.evaluate_every:
            return False
        return self.epoch - self.best["step"] // self.sampler.steps_per_epoch >= self.config.patience

    def _require_space(self) -> None:
        copies = 3 if self.config.ema == 0 else 4  # with both of Adam's moments, and the average
        saved = copies * sum(t.nbytes for t in self.model.state_dict().values())
        self.group.on_rank0(self.directory.require_space, saved, self.config.epochs, self.config.keep)

    def _write_config(self) -> None:
        self.directory.begin(
            self.config,
            plan=self.engine.plan.recorded(),
            images=self.splits.fingerprint(),
            environment=self._environment(),
        )

    def _environment(self) -> dict[str, Any]:
        return {**environment(self.plan.torch_device, self.group.size), **self.sources}

    @property
    def sources(self) -> dict[str, str]:
        """Return the SHA-256 of the files of the user's whose functions the run calls."""
        network = {} if self.model.source is None else {"network_sha256": self.model.source}
        return network | ({} if self.objective is None else {"objective_sha256": self.objective.source})

    def _warm_up(self) -> None:
        """Compile and record what the plan asks for, and print how long it took, since no epoch's time includes it."""
        if self.plan.is_torch_compiled:
            self.printer.line("compiling the step: half a minute if it is new to this machine")
        began = time.perf_counter()
        self.engine.warm_up()
        self.held_out.record(is_wanted=self.engine.plan.cuda_graphs and self.prefetcher is None)
        done = ["compiled"] if self.plan.is_torch_compiled else []
        if self.engine.graphs_failed is not None:
            self.printer.line(f"cuda graphs: off (recording a step failed: {self.engine.graphs_failed})")
        elif self.plan.cuda_graphs:
            done.append(f"recorded {self.engine.plan.steps_per_graph} steps a graph")
        if done:
            self.printer.line(f"{', '.join(done)} in {time.perf_counter() - began:.1f} s")

    def _train_epoch(self, epoch: int, received: list[int]) -> dict[str, Any]:
        """Run the remaining steps of an epoch and return its record, without the part from the evaluation."""
        total = self.sampler.steps_per_epoch
        done = self.engine.step_number - (epoch - 1) * total
        began = time.perf_counter() - self.profile.seconds  # excludes the profiler's own time
        order = self.mark("data", self._begin_epoch)(epoch)
        launches, advance = self.engine.launches(total - done), self.mark("step", self.engine.advance)
        with (
            self._batches(order[done:], launches) as batches,
            self.printer.bar(f"epoch {epoch}", total, done) as show,
        ):
            for count, images in zip(self.profile.launches(launches, self.engine.step_number), batches, strict=False):
                if number := self.group.agreed_signal(received):
                    self._save(self.epoch)
                    raise Interrupted(number, f"go on with --resume {self.directory.path}")
                advance(count, images)
                show(self.engine.step_number - (epoch - 1) * total, self.engine.recent_loss)
        averages = self.engine.finish_epoch()  # waits for the device, so the clock is read after it
        seconds = time.perf_counter() - self.profile.seconds - began
        seen = (total - done) * self.config.batch_size
        return {
            "epoch": epoch,
            "step": self.engine.step_number,
            "seconds": seconds,
            "images_per_second": seen / seconds if seen else None,
            **averages,
            "lr": self.engine.learning_rate,
            "beta": self.engine.beta,
            "entropy": self.entropy,
        }

    def _begin_epoch(self, epoch: int) -> Tensor:
        order = self.sampler.order(epoch)
        self.engine.begin_epoch(order)
        return order

    def _batches(self, order: Tensor, sizes: list[int]) -> AbstractContextManager[Iterator[Tensor | None]]:
        """Return the batches for `Engine.advance`: None for each launch if the images are on the device."""
        if self.prefetcher is None:
            return nullcontext(repeat(None))
        share = self.group.shard(self.config.batch_size)
        return self.prefetcher.chunks(order[:, share].contiguous(), sizes)

    def _evaluate(self, epoch: int) -> dict[str, float | None]:
        """Evaluate the weights, or their average, where the settings want it, else return nothing but None."""
        if epoch % self.config.evaluate_every and epoch != self.config.epochs:
            return self.held_out.nothing()
        with self.engine.average.in_place() if self.engine.average is not None else nullcontext():
            return self.held_out.evaluate()

    def _close_epoch(self, record: dict[str, Any]) -> None:
        """Record the epoch, then save it, in this order so that a resume never lacks a record."""
        self.epoch = record["epoch"]
        self.metrics.append(record)
        self.group.on_rank0(self.directory.append_metrics, record)
        self.tracking.epoch(record)
        self.printer.line(epoch_line(record, self.config.epochs))
        self.engine.stop_if_diverged()
        # Only a good state is saved; after a divergence the earlier checkpoints serve.
        if self._learned_nothing(record) or self.engine.is_diverging:
            self.printer.line(f"warning: no checkpoint after epoch {self.epoch}: its steps were skipped, not finite")
            return
        judged = record.get("valid_loss", record["test_loss"])
        if judged is not None and (self.best is None or judged < self.best["loss"]):
            self.best = {"loss": judged, "step": self.engine.step_number}
        self._save(self.epoch)

    def _learned_nothing(self, record: dict[str, Any]) -> bool:
        return bool(record["skipped_steps"] == self.sampler.steps_per_epoch)

    def _save(self, epoch: int) -> None:
        parameters, optimizer, counters = self.engine.state()
        state = {**counters, "epoch": epoch, "best": self.best}
        save = self.mark("checkpoint", self.directory.save)
        self.group.on_rank0(save, self.model, parameters, optimizer, state, keep=self.config.keep)

    def _take_state(self) -> None:
        """Continue from the newest checkpoint of a resumed run, else begin from the weights of --init-from, if any."""
        found = self.group.on_rank0(self._checkpoint) if self.directory.recorded else None
        if found is not None:
            self._take_up(found)
        elif self.config.init_from is not None:
            found_weights = self.group.on_rank0(weights_from, self.config.init_from, self.model, self.printer.line)
            self.engine.begin_from(found_weights)

    def _checkpoint(self) -> checkpoint.Checkpoint | None:
        """Return the newest valid checkpoint after checking that the images are the run's; None to start afresh."""
        path = self.directory.path
        self.directory.require(self.splits.fingerprint())
        warnings: list[str] = []
        found = checkpoint.latest(self.directory.checkpoints, warnings.append)
        for warning in warnings:
            self.printer.line(f"warning: {warning}")
        if found is None:
            if self.config.resume != "auto" and (warnings or self.directory.metrics()):
                raise RunError(f"--resume: {path} holds no valid checkpoint; start anew in another --out")
            self.printer.line(f"{path} holds no valid checkpoint: starting from the beginning")
        return found

    def _take_up(self, found: checkpoint.Checkpoint) -> None:
        done, most = found.state["step"], self.config.epochs * self.sampler.steps_per_epoch
        if done > most:
            raise RunError(
                f"--epochs: {self.directory.path} has done {done} steps, {self.config.epochs} epochs have only {most}"
            )
        self.engine.load_state(found.parameters, found.optimizer, found.state)
        self.epoch, self.best = found.state["epoch"], found.state["best"]
        epochs = f"{self.epoch} epoch{'' if self.epoch == 1 else 's'}"
        self.printer.line(f"resumed from {found.path} (step {done}, {epochs} done)")
        if done == most:
            self.printer.line(f"nothing is left to do: all {self.config.epochs} epochs are done; --epochs adds some")
        if not self.config.dry_run:
            self.group.on_rank0(self.directory.complete_save, found.path, self.best, self.config.keep)
        scheduled = self.config.lr_schedule == "cosine" or self.config.beta_schedule == "cyclical"
        if scheduled and self.directory.recorded["epochs"] != self.config.epochs:
            self.printer.line(f"warning: schedules now span {self.config.epochs} epochs, unlike those already done")
        before = self.directory.recorded.get("environment", {})
        now = self._environment()
        if self.plan.step == "fused":  # its bits do not depend on threads
            before = {**before, "threads": now["threads"]}
        for change in changes(before, now):
            self.printer.line(f"warning: not bit-exact with the start of the run: {change}")

    def _describe(self) -> None:
        parameters = sum(p.numel() for p in self.model.parameters())
        self.printer.line(f"model: {self.model.title}, {parameters:,} parameters")
        left_out = f"; {self.sampler.left_out} images of each epoch are left out" if self.sampler.left_out else ""
        shared = f", shared by {self.group.size} processes" if self.group.size > 1 else ""
        self.printer.line(
            f"training: {self.sampler.steps_per_epoch} steps of {self.config.batch_size} an epoch{shared}{left_out}"
        )


def _entropy(images: Pixels, config: Config) -> float | None:
    """Return a lower bound of the loss in nats: 0 for discrete pixels, None for densities and objectives of a user's.

    That of the Bernoulli on grey pixels is their mean entropy, here of the first 1,000 images.
    """
    if config.objective not in OBJECTIVES or config.likelihood not in ("bernoulli", "discretized_logistic"):
        return None
    is_grey = config.likelihood == "bernoulli" and config.binarize == "none"
    return mean_entropy(images[:1000].flatten(1)) if is_grey else 0.0


def _placed(images: Pixels, device: torch.device | None, standardization: Standardization | None) -> Pixels:
    """Flatten [N, C, H, W] to [N, D], standardize a table, and move the images to the device if one is given."""
    flat = images.flatten(1)
    if standardization is not None:
        flat = standardization.apply(flat.to("cpu"))
    return flat if device is None else flat.to(device)
