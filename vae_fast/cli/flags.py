"""The command line of `train`: a Config from defaults, a preset, a TOML file and flags, each overriding the last."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from vae_fast.config import Config, preset_names, preset_path, read_toml, resumed_directory
from vae_fast.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources of the starting values of the command line."""

    preset: str | None = None
    """a recipe that ships with vae_fast, see above"""
    config: str | None = None
    """a TOML file with any of these settings; a run's config.toml repeats that run"""


@dataclass(frozen=True, kw_only=True)
class _FirstLook(Sources):
    data: str | None = None
    network: str | None = None
    resume: str | None = None
    out: str | None = None


@dataclass(frozen=True, kw_only=True)
class _CommandLine(Config, Sources):
    __doc__ = Config.__doc__

    def __post_init__(self) -> None:
        """Check nothing: the resulting Config checks the settings once all sources have been read."""


def parse(arguments: Sequence[str]) -> Config:
    """Return the command line's settings; raise ConfigError for wrong ones; exit with 2 if a flag cannot be parsed."""
    import tyro

    prog = "python -m vae_fast.train"
    _refuse_values_of_switches(arguments)
    # The settings' starting values are known only after a first look at these few flags.
    look, _ = tyro.cli(_FirstLook, args=arguments, prog=prog, add_help=False, return_unknown_args=True)
    start = _CommandLine(**_starting_values(look))
    notes = f"The defaults below are those that the flags given so far lead to. Presets: {', '.join(preset_names())}."
    description = f"{inspect.cleandoc(Config.__doc__ or '')}\n\n{notes}"
    line = tyro.cli(_CommandLine, args=arguments, prog=prog, default=start, description=description)
    if {"--no-amp", "--no_amp"} & set(arguments) and line.amp_dtype != "auto":
        raise ConfigError(f"--no-amp: contradicts amp_dtype = {line.amp_dtype!r}, which implies --amp")
    return Config(**{f.name: getattr(line, f.name) for f in fields(Config)})


def _starting_values(look: _FirstLook) -> dict[str, Any]:
    directory = resumed_directory(look.resume, look.out) if look.resume is not None else None
    if directory is not None:
        if look.preset or look.config:
            raise ConfigError("--resume: takes its settings from the run's config.toml, not from --preset or --config")
        return read_toml(directory / "config.toml")
    nothing_chosen = not (look.data or look.preset or look.config or look.resume)
    preset = "digits" if nothing_chosen else look.preset
    values = read_toml(preset_path(preset)) if preset else {}
    if look.network not in (None, "mlp"):  # a preset's MLP gives way to the network that is asked for
        values = {name: value for name, value in values.items() if name not in ("hidden", "activation")}
    return values | (read_toml(look.config) if look.config else {})


def _refuse_values_of_switches(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a value written after a switch, and for the precision that no flag turns on."""
    hints = {"amp": "; the dtype is --amp-dtype"}
    switches = {field.name for field in fields(Config) if field.type in (bool, "bool")}
    words = [
        word for argument in arguments for word in (argument.split("=", 1) if argument[:2] == "--" else [argument])
    ]
    for flag, value in pairwise(words):
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in switches and not value.startswith("-"):
            turn_off = f"--no-{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag}: a switch, which takes no value ({turn_off} turns it off), got {value!r}{hints.get(name, '')}"
            )
        if name == "amp_dtype" and value == "fp32":
            raise ConfigError(
                "--amp-dtype: expected auto, bf16 or fp16, got 'fp32'; float32 is what a run without --amp has"
            )
