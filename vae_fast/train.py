"""Train a VAE: data, epochs, evaluation, checkpoints, signals. `python -m vae_fast.train --help`

One batch's way: `splits` reads the images, `feed` says which of them a step sees, `engine` gathers, trains and counts;
`trainer` strings the epochs together and writes what the run leaves behind.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vae_fast import pytorch_state
from vae_fast.config import Config, described
from vae_fast.data import DataSet
from vae_fast.distributed import World, join
from vae_fast.environment import busy
from vae_fast.errors import ConfigError
from vae_fast.exits import exit_code
from vae_fast.flags import parse
from vae_fast.model import VAE
from vae_fast.plan import process_settings
from vae_fast.planning import choose_images_feed, choose_plan
from vae_fast.profiling import Profile
from vae_fast.progress import Printer
from vae_fast.run_directory import RunDirectory
from vae_fast.splits import prepare
from vae_fast.trainer import Training


@dataclass(frozen=True)
class Run:
    """What `fit` returns: the run directory, the trained model, and the records of metrics.jsonl, one per epoch."""

    directory: Path
    model: VAE = field(repr=False)
    metrics: list[dict[str, Any]] = field(repr=False)


@pytorch_state.as_it_starts()
def fit(config: Config) -> Run:
    """Train as `config` says, printing progress; in the processes that torchrun started, if it did, all at once.

    Raises:
        ConfigError, DataError, RunError: what the user can mend; the message says how.
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    if not isinstance(config, Config):
        raise ConfigError(f"fit: expected a Config, got {described(config)}")
    world = join()
    world.check(config)
    printer = Printer(quiet=not world.is_first)
    with world.first(RunDirectory.open, config) as directory:
        if directory.claim is not None and directory.claim.warning is not None:
            printer.line(f"warning: {directory.claim.warning}")
        training = _trained(config, directory, printer, world)
    return Run(directory.path, training.model, training.metrics)


def _trained(config: Config, directory: RunDirectory, printer: Printer, world: World) -> Training:
    plan = world.placed(world.first(choose_plan, config, directory, printer, world.size))
    with process_settings(plan, config):
        if (warning := busy(plan.torch_device)) is not None:
            printer.line(f"warning: {warning}")
        found = world.first_on_each_machine(DataSet.open, config.data, config.data_root)
        feed = world.first(choose_images_feed, config, plan, found, directory, printer)
        splits = world.together(prepare, config, found, feed, printer.line)
        plan = replace(plan, feed=feed)
        with Profile(config, plan.torch_device, directory.path / "profile", printer.line, world) as profile:
            training = world.together(Training, config, plan, splits, directory, printer, profile, world)
            if config.dry_run:
                training.rehearse()
            else:
                training.begin()
                training.run()
                world.first(training.finish)
        world.settle()
    return training


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code is that of `exits`."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: fit(join().first(parse, given)), quiet_before="training")


if __name__ == "__main__":
    sys.exit(main())
