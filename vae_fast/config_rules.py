"""What settings must satisfy: ranges of each, and what they must be together."""

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vae_fast.errors import ConfigError

MOST_THREADS = 4096
LEARNED_SCALES = ("learned", "per-channel", "per-value")  # one for all values of an image, for each channel, for each
SCALED_LIKELIHOODS = ("gaussian", "discretized_logistic")
NETWORKS = ("mlp", "conv", "resnet")
OBJECTIVES = ("elbo", "iwae", "dreg")


def check_range(name: str, value: Any) -> None:
    for names, holds, expected in RANGES:
        if name in names and not holds(value):
            raise ConfigError(f"{name}: expected {expected}, got {value!r}")


def profile_window(steps: str) -> tuple[int, int]:
    """Return (A, B) of --profile-steps A:B; raise ConfigError unless 0 <= A < B."""
    match = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", steps)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if first >= last:
        raise ConfigError(f"profile_steps: expected A:B with 0 <= A < B, such as 20:40, got {steps!r}")
    return first, last


def scale_fault(likelihood: str, scale: object) -> str | None:
    """Return what is wrong with a likelihood's scale; None if nothing is."""
    if scale is None:
        return None
    if likelihood not in SCALED_LIKELIHOODS:
        return f"expected none with likelihood {likelihood!r}, got {scale!r}"
    is_number = isinstance(scale, float | int) and not isinstance(scale, bool) and 0 < scale < math.inf
    if is_number or scale in LEARNED_SCALES:
        return None
    return f"expected a finite number above 0 or one of {', '.join(LEARNED_SCALES)}, got {scale!r}"


def check_together(c: Any) -> None:
    if fault := scale_fault(c.likelihood, c.scale):
        raise ConfigError(f"scale: {fault}")
    if c.standardize and c.likelihood != "gaussian":
        raise ConfigError(f"standardize: expected it with likelihood 'gaussian' alone, got {c.likelihood!r}")
    if c.likelihood != "bernoulli" and c.binarize != "none":
        raise ConfigError(f"binarize: expected none with likelihood {c.likelihood!r}, got {c.binarize!r}")
    if c.network not in NETWORKS and not is_place(c.network):
        raise ConfigError(
            f"network: expected {', '.join(NETWORKS)}, FILE.py:function or package.module:function, got {c.network!r}"
        )
    if c.objective not in OBJECTIVES and not is_place(c.objective):
        raise ConfigError(
            f"objective: expected {', '.join(OBJECTIVES)}, FILE.py:function or package.module:function, "
            f"got {c.objective!r}"
        )
    if (c.objective != "elbo" or c.samples > 1) and c.free_bits > 0:
        raise ConfigError(f"free_bits: expected 0 unless the objective is elbo with one sample, got {c.free_bits!r}")
    if c.prior != "normal" and (c.free_bits > 0 or ":" in c.objective):
        what = "free bits" if c.free_bits > 0 else "an objective of your own"
        raise ConfigError(f"prior: expected normal with {what}, which has a KL in closed form, got {c.prior!r}")
    if c.prior == "vamp" and c.conditional:
        raise ConfigError("prior: expected normal or mixture with --conditional: pseudo-inputs have no labels")
    if ":" in c.objective and c.samples > 1:
        raise ConfigError(f"samples: expected 1 with an objective of your own, got {c.samples}")
    if c.network == "mlp" and c.network_options:
        raise ConfigError(f"network_options: expected none with the MLP, got {' '.join(c.network_options)}")
    for name, default in (("hidden", (400,)), ("activation", "relu")):
        if c.network != "mlp" and getattr(c, name) != default:
            raise ConfigError(f"{name}: belongs to the MLP, the network is {c.network}; it may have --network-options")
    if c.patience is not None and c.valid == 0:
        raise ConfigError(f"patience: expected --valid with it, the images to judge by, got {c.patience} alone")
    if c.weight_decay != 0 and c.optimizer != "adamw":
        raise ConfigError(f"weight_decay: expected 0 with optimizer 'adam' (use 'adamw'), got {c.weight_decay!r}")
    _check_milestones(c)
    if c.lr_warmup > c.epochs:
        raise ConfigError(f"lr_warmup: expected at most the {c.epochs} epochs of the run, got {c.lr_warmup!r}")
    if c.step == "fused" and c.amp_dtype == "fp16":
        raise ConfigError("step: expected auto or autograd with amp_dtype 'fp16': no fused step has that, got 'fused'")
    if c.profile_steps is not None:
        profile_window(c.profile_steps)
        if c.profile == "off":
            raise ConfigError(f"profile_steps: expected --profile with it, got {c.profile_steps!r} alone")


def _check_milestones(c: Any) -> None:
    shown = " ".join(map(str, c.lr_milestones))
    if c.lr_schedule != "multistep":
        for name, given in (("lr_milestones", shown), ("lr_gamma", "" if c.lr_gamma == 0.1 else c.lr_gamma)):
            if given:
                raise ConfigError(f"{name}: belongs to lr_schedule 'multistep', got {given} with {c.lr_schedule!r}")
    elif not c.lr_milestones or c.lr_milestones[-1] >= c.epochs:
        raise ConfigError(
            f"lr_milestones: expected epochs below the {c.epochs} of the run with lr_schedule 'multistep', got "
            f"{shown or 'none'}"
        )


def is_place(value: str) -> bool:
    """Return whether a setting names a function: FILE.py:function or package.module:function."""
    home, _, name = value.rpartition(":")
    return name.isidentifier() and (home.endswith(".py") or all(part.isidentifier() for part in home.split(".")))


def network_of_table(table: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the name and the options of a table [network]."""
    if "name" not in table:
        raise ConfigError('[network]: expected a name, such as name = "conv", and its options')
    return table["name"], {key: value for key, value in table.items() if key != "name"}


def options_as_text(options: Any) -> tuple[str, ...]:
    """Return options, a mapping or texts "key=value", as such texts in the order of their keys."""
    if isinstance(options, Mapping):
        options = [f"{key}={_text(key, value)}" for key, value in options.items()]
    if isinstance(options, str) or not isinstance(options, Iterable):
        raise ConfigError(f"network_options: expected key=value, or a mapping, got {options!r}")
    found: dict[str, str] = {}
    for option in options:
        key, equals, text = str(option).partition("=")
        if not (key.isidentifier() and equals):
            raise ConfigError(f"network_options: expected key=value, such as width=64, got {option!r}")
        if key in found:
            raise ConfigError(f"network_options: expected each once, got {key} twice")
        if key in ("name", "classes"):
            raise ConfigError(f"network_options: expected another name than {key}, which has a meaning of its own")
        found[key] = _text(key, _value(text))
    return tuple(f"{key}={found[key]}" for key in sorted(found))


def options_as_values(options: Iterable[str]) -> dict[str, Any]:
    """Return the values of texts "key=value": what TOML reads, else the text itself."""
    return {key: _value(text) for key, _, text in (option.partition("=") for option in options)}


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _text(key: str, value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    members = value if isinstance(value, list) else [value]
    if not all(isinstance(member, bool | int | float | str) for member in members):
        raise ConfigError(f"network_options: expected numbers, strings or a list of them for {key}, got {value!r}")
    return value if isinstance(value, str) and _value(value) == value else json.dumps(value)


RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("latent", "epochs", "batch_size", "samples", "components", "evaluate_every", "beta_cycles", "keep"),
        lambda v: v >= 1,
        "at least 1",
    ),
    (
        ("valid", "lr_warmup", "weight_decay", "beta", "free_bits"),
        lambda v: 0 <= v < math.inf,
        "a finite number, 0 or more",
    ),
    (("lr", "lr_gamma", "beta_warmup"), lambda v: 0 < v < math.inf, "a finite number above 0"),
    (("clip",), lambda v: v is None or 0 < v < math.inf, "a finite number above 0"),
    (("threads",), lambda v: v is None or 1 <= v <= MOST_THREADS, f"1 to {MOST_THREADS}"),
    (("image_size",), lambda v: v is None or (len(v) in (1, 2) and min(v) >= 1), "one or two positive sizes"),
    (("hidden",), lambda v: all(width >= 1 for width in v), "positive widths"),
    (
        ("lr_milestones",),
        lambda v: all(epoch >= 1 for epoch in v) and list(v) == sorted(set(v)),
        "rising numbers of epochs",
    ),
    (("test_fraction", "ema"), lambda v: 0 <= v < 1, "a number in [0, 1)"),
    (("patience",), lambda v: v is None or v >= 1, "at least 1"),
    (("seed",), lambda v: 0 <= v < 2**63, "0 <= seed < 2^63"),
)
