"""Train a VAE: data, epochs, evaluation, checkpoints, signals. `python -m vae_fast.train --help`

The path of a batch: `splits` reads the images, `sampler` chooses those of a step, `engine` gathers, trains and counts;
`trainer` runs the epochs and writes the files of the run.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vae_fast.artifacts.directory import RunDirectory
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.flags import parse
from vae_fast.config import IN_MEMORY, Config, shown_value
from vae_fast.data import transforms
from vae_fast.data.dataset import DataSet
from vae_fast.data.splits import prepare
from vae_fast.errors import ConfigError
from vae_fast.models.vae import VAE
from vae_fast.reporting import pictures
from vae_fast.reporting.summary import summary
from vae_fast.runtime import pytorch_state
from vae_fast.runtime.distributed import ProcessGroup, join
from vae_fast.runtime.environment import busy
from vae_fast.runtime.plan import process_settings
from vae_fast.runtime.printer import Printer
from vae_fast.runtime.profiler import Profile
from vae_fast.runtime.threads import chooses_threads
from vae_fast.training.planning import choose_images_feed, choose_plan
from vae_fast.training.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """The result of `fit`: the run directory, the trained model, and the records of metrics.jsonl, one per epoch."""

    directory: Path
    model: VAE = field(repr=False)
    metrics: list[dict[str, Any]] = field(repr=False)


@pytorch_state.as_it_starts()
def fit(
    config: Config, *, images: Any = None, labels: Any = None, test_images: Any = None, test_labels: Any = None
) -> Run:
    """Train with the settings of `config` and print progress; under torchrun, its processes train together.

    Args:
        config: the settings; `data` and `data_root` say where the images are, unless they are given here.
        images, test_images: images in memory, as in a file: arrays or tensors [N, H, W], [N, C, H, W], [N, H, W, C] or
            [N, D], or data sets and iterables of images or of pairs (image, label), which are read once. Without
            test images the last `config.test_fraction` of the images are held out.
        labels, test_labels: a label for each image, an integer or a string, unless they come in pairs.

    config.toml names images in memory "memory"; to resume such a run, pass the same ones again.

    Raises:
        ConfigError, DataError, RunError: for what the user can fix; the message says how.
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    if not isinstance(config, Config):
        raise ConfigError(f"fit: expected a Config, got {shown_value(config)}")
    given = {"images": images, "labels": labels, "test_images": test_images, "test_labels": test_labels}
    is_in_memory = any(value is not None for value in given.values())
    if is_in_memory:
        if config.data not in (Config.data, IN_MEMORY):
            raise ConfigError(f"data: expected none beside images in memory, got {config.data!r}")
        if config.labels is not None:
            raise ConfigError(f"labels: expected none beside images in memory, got {config.labels!r}")
        config = replace(config, data=IN_MEMORY)
    group = join()
    group.check(config)
    printer = Printer(quiet=not group.is_rank0)
    with group.on_rank0(RunDirectory.open, config) as directory:
        if directory.claim is not None and directory.claim.warning is not None:
            printer.line(f"warning: {directory.claim.warning}")
        open_ = partial(DataSet.of, config, printer)
        if is_in_memory:
            open_ = partial(DataSet.in_memory, given, config.layout, printer)
        trainer = _trained(config, open_, directory, printer, group)
    return Run(directory.path, trainer.model, trainer.metrics)


def _trained(
    config: Config, open_: Callable[[], DataSet], directory: RunDirectory, printer: Printer, group: ProcessGroup
) -> Trainer:
    plan = group.bind_device(group.on_rank0(choose_plan, config, directory, printer, group.size))
    with process_settings(plan, config):
        if (warning := busy(plan.torch_device, chooses_threads(config, plan, group.size))) is not None:
            printer.line(f"warning: {warning}")
        found = group.local_rank0_first(open_)
        feed = group.on_rank0(choose_images_feed, config, plan, found, directory, printer)
        splits = group.on_all_ranks(prepare, config, found, feed, printer.line)
        if config.data == IN_MEMORY:
            group.require_equal("images", splits.fingerprint())
        plan = replace(plan, feed=feed)
        with Profile(config, plan.torch_device, directory.path / "profile", printer.line, group) as profile:
            trainer = group.on_all_ranks(Trainer, config, plan, splits, directory, printer, profile, group)
            group.require_equal("network or objective", trainer.sources)
            # Each step then seeds PyTorch's generators, which are a caller's.
            draws = trainer.engine.draws_random_numbers
            with torch.random.fork_rng() if draws else nullcontext():
                if config.dry_run:
                    trainer.rehearse()
                else:
                    with trainer.tracking:
                        trainer.begin()
                        trainer.run()
                        group.on_rank0(_finish, trainer)
        group.barrier()
    return trainer


def _finish(trainer: Trainer) -> None:
    """Draw the run's pictures, and print its results and where everything is."""
    config, splits, directory = trainer.config, trainer.splits, trainer.directory
    trainer.model.eval()
    shown = "train" if splits.test is None else "test"
    images = splits.train if splits.test is None else splits.test
    labels = splits.labels.get(shown) if splits.classes else None
    treatment = transforms.pixel_kind(config.treatment, splits.image_shape)
    with directory.saving("the pictures"):
        files = pictures.save_all(
            trainer.model, images, config.seed, trainer.metrics, treatment, directory.pictures, labels
        )
    trainer.tracking.pictures(files, trainer.epoch)
    for line in summary(config, trainer.metrics, splits.test, directory, trainer.model.likelihood):
        trainer.printer.line(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, as listed in `exit_codes`."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: fit(join().on_rank0(parse, given)), quiet_before="training")


if __name__ == "__main__":
    sys.exit(main())
