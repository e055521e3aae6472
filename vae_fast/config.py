"""The settings of a run: one frozen, flat dataclass whose fields are the long flags and the TOML keys.

Sources of a value, each overriding those before it: the defaults below, a preset, a `--config` file, flags. The
defaults are the recipe of pytorch/examples.
"""

import os
import reprlib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from vae_fast.config_rules import check_range, check_together, network_of_table, options_as_text, options_as_values
from vae_fast.errors import ConfigError, RunError
from vae_fast.paths import expanded

PRESETS = Path(__file__).parent / "presets"
# Tables that a run adds to its config.toml; ignored when that file is read as a config.
RECORDED_TABLES = ("plan", "images", "environment")
CATALOGUE = ("digits", "mnist", "fashion-mnist")  # data sets that can be given by name
IN_MEMORY = "memory"  # stands for images that were passed to `vf.fit`
STANDARDIZED = "standardized"
NAMES = (*CATALOGUE, IN_MEMORY)  # values of `data` that are no paths
# Settings that hold a path, unless they name a data set or are "auto".
PATHS = ("data", "data_root", "labels", "init_from", "out", "resume")
# Settings that may hold the place of a function, FILE.py:function.
PLACES = ("network", "objective")
# Settings of one invocation, which do not define the run.
NOT_RECORDED = ("resume", "out", "dry_run", "profile", "profile_steps")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a Variational Autoencoder.

    Without --data, --preset, --config and --resume the preset `digits` trains on 1,000 embedded digits.
    """

    data: str = "digits"
    """digits, mnist, fashion-mnist, or a path: .npy, .npz, HDF5, IDX; image files in a folder, zip, tar or Parquet"""
    data_root: str | None = None
    """folder that is searched first for mnist and fashion-mnist"""
    valid: int = 0
    """hold out the last N training images to choose the best checkpoint on"""
    labels: str | None = None
    """file with a label for each image of a single array: .npy, IDX, or .txt and .csv with one a line"""
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    """order of an array's four axes: channels first or last; auto sees it by the shape"""
    image_size: tuple[int, ...] | None = None
    """H W, or one number for both: the size that image files are resized to (default: the size that all have)"""
    crop: Literal["none", "center"] = "none"
    """how image files of another shape are resized: none stretches them, center cuts out the middle"""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour image files (default: like the first one)"""
    test_fraction: float = 0.1
    """share held out at the end of a single array that has no test part; 0 for none"""
    binarize: Literal["none", "static", "threshold", "dynamic"] = "none"
    """none: unchanged pixels; static: one fixed Bernoulli sample; threshold: x >= 1/2; dynamic: a new one every step"""

    standardize: bool = False
    """of a table of any values: shift and scale each column to mean 0 and variance 1; for the likelihood gaussian"""

    likelihood: Literal["bernoulli", "continuous_bernoulli", "gaussian", "discretized_logistic"] = "bernoulli"
    """distribution of the pixels that the decoder's output describes"""
    scale: float | Literal["learned", "per-channel", "per-value"] | None = None
    """for gaussian its sigma, for discretized_logistic its scale: a number, or learned (default): one, or several"""

    network: str = "mlp"
    """mlp, conv, resnet, or a function that makes encoder and decoder: FILE.py:function or package.module:function"""
    network_options: tuple[str, ...] = ()
    """its options, key=value: conv and resnet have width and activation; the MLP has --hidden and --activation"""
    hidden: tuple[int, ...] = (400,)
    """widths of the MLP encoder's hidden layers; the decoder mirrors them"""
    latent: int = 20
    """number of latent dimensions"""
    activation: Literal["relu", "leaky_relu", "elu", "silu", "gelu", "softplus", "tanh"] = "relu"
    """activation between the layers of the MLP"""
    conditional: bool = False
    """give encoder and decoder the label of each image: the model is p(x | z, label)"""

    prior: Literal["normal", "mixture", "vamp"] = "normal"
    """distribution of z: N(0, I); a mixture of learned normals; vamp: of the posteriors of learned pseudo-inputs"""
    components: int = 500
    """number of normals in a mixture, or of pseudo-inputs"""

    objective: str = "elbo"
    """elbo, iwae, dreg (the importance-weighted bound, and its better gradients), or a function that returns nll and kl
    of each image: FILE.py:function or package.module:function"""
    samples: int = 1
    """samples of z for each image of a step"""
    epochs: int = 10
    """total number of epochs, including those before a resume"""
    patience: int | None = None
    """stop after this many epochs without a lower validation loss (default: never); needs --valid"""
    evaluate_every: int = 1
    """evaluate after every Nth epoch and the last"""
    batch_size: int = 128
    """images per step"""
    optimizer: Literal["adam", "adamw"] = "adam"
    """optimizer; both run in their fused form"""
    lr: float = 1e-3
    """learning rate, or its peak under a schedule"""
    lr_schedule: Literal["constant", "cosine", "multistep"] = "constant"
    """cosine: decays to 0 at the end of the last epoch; multistep: falls at each of --lr-milestones"""
    lr_milestones: tuple[int, ...] = ()
    """epochs after which a multistep schedule multiplies the learning rate by --lr-gamma"""
    lr_gamma: float = 0.1
    """factor of a multistep schedule"""
    lr_warmup: float = 0.0
    """epochs over which the learning rate rises linearly from 0"""
    weight_decay: float = 0.0
    """decoupled weight decay, for adamw"""
    clip: float | None = None
    """maximum global gradient norm"""
    ema: float = 0.0
    """decay per step, such as 0.999, of an average of the weights, which is then evaluated and saved; 0 for none"""
    beta: float = 1.0
    """weight of the KL term, or its peak under a schedule"""
    beta_schedule: Literal["constant", "linear", "cyclical"] = "constant"
    """linear: rises from 0 over --beta-warmup epochs; cyclical: --beta-cycles times from 0, flat in each second half"""
    beta_warmup: float = 1.0
    """length of the linear schedule in epochs"""
    beta_cycles: int = 4
    """number of cycles of the cyclical schedule (Fu et al. 2019)"""
    free_bits: float = 0.0
    """nats per latent dimension, averaged over the batch, below which its KL is not penalised (Kingma et al. 2016)"""

    amp: bool = False
    """mixed precision, with the dtype of --amp-dtype"""
    amp_dtype: Literal["auto", "bf16", "fp16"] = "auto"
    """auto: bf16 where it pays (on a CPU, by batch size), else fp16 on a GPU, else fp32; a named dtype implies --amp"""
    compile: bool = False
    """use a compiled step, the fastest: on a CPU the fused one where it is available, else one by torch.compile"""
    step: Literal["auto", "autograd", "fused"] = "auto"
    """fused: forward, backward and Adam as one C++ operator (CPU, fp32 or bf16); auto uses it if available"""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """capture steps in CUDA graphs"""
    feed: Literal["auto", "device", "host", "stream"] = "auto"
    """where training images are kept: all on the device, in host memory, or in their file, read as they are needed"""
    threads: int | None = None
    """CPU threads (default: PyTorch's number, one per core; the fused step uses fewer while cores are busy)"""
    flush_denormals: bool = False
    """have the CPU treat numbers below 1.2e-38 as zero: faster where there are many"""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N"""
    deterministic: bool = False
    """use only deterministic algorithms, also on a GPU"""
    seed: int = 0
    """seed of the initialisation, the noise and the shuffle"""

    init_from: str | None = None
    """a run, checkpoint, export or model.safetensors whose weights the run begins with; its optimizer begins anew"""
    out: str | None = None
    """the run directory (default: runs/<UTC time>-<data>)"""
    resume: str | None = None
    """a run directory to continue, or auto: continue the run in --out if it has a valid checkpoint, else start it"""
    keep: int = 3
    """number of checkpoints kept in addition to the best one"""
    log: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    """where records and pictures also go: to RUN/tensorboard/, Weights & Biases, or MLflow"""
    nvtx: bool = False
    """mark data, steps and their parts, evaluation and checkpoints as NVTX ranges for Nsight Systems"""
    profile: Literal["off", "nsys", "torch", "memory"] = "off"
    """profile some steps: bracket an Nsight capture, or write a torch.profiler or memory profile to RUN/profile/"""
    profile_steps: str | None = None
    """A:B, after A completed steps until B (default: 20 launches after the first 20; for memory, the first 20)"""
    dry_run: bool = False
    """check settings, data, memory and the output folder, run one step, and write nothing"""

    def __post_init__(self) -> None:
        if isinstance(self.network, Mapping):  # as config.toml has it
            name, options = network_of_table(self.network)
            object.__setattr__(self, "network", name)
            object.__setattr__(self, "network_options", options)
        object.__setattr__(self, "network_options", options_as_text(self.network_options))
        for name, hint in _hints().items():
            value = _expanded(name, _typed(name, getattr(self, name), hint))
            check_range(name, value)
            object.__setattr__(self, name, value)
        check_together(self)

    @classmethod
    def from_toml(cls, path: str | Path, **overrides: Any) -> "Config":
        """Return the settings of a TOML file, such as a run's config.toml, with any of them overridden."""
        return cls(**{**read_toml(path), **overrides})

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "Config":
        """Return the settings of a preset, with any of them overridden."""
        return cls.from_toml(preset_path(name), **overrides)

    def recorded(self) -> dict[str, Any]:
        """Return what config.toml holds: every setting that defines the run and is not None, with absolute paths."""
        settings = {k: v for k, v in asdict(self).items() if v is not None and k not in NOT_RECORDED}
        paths = {"data_root", "labels", "init_from"} | (set() if self.data in NAMES else {"data"})
        paths |= {name for name in PLACES if ".py:" in settings[name]}
        settings = {k: os.path.abspath(v) if k in paths else v for k, v in settings.items()}
        del settings["network_options"]
        if self.network != "mlp":
            del settings["hidden"], settings["activation"]
            settings["network"] = {"name": settings["network"], **self.options}
        return settings

    @property
    def treatment(self) -> str:
        """Return what happens to the values before training: one of `binarize`'s, or "standardized"."""
        return STANDARDIZED if self.standardize else self.binarize

    @property
    def options(self) -> dict[str, Any]:
        """Return `network_options` as keyword arguments."""
        return options_as_values(self.network_options)


def resumed_directory(resume: str, out: str | None) -> Path | None:
    """Return the run directory that `--resume` continues; None if `auto` finds no run there yet."""
    if resume != "auto":
        path = Path(expanded("--resume", resume))
        if not (path / "config.toml").is_file():
            what = "it holds no config.toml" if path.is_dir() else "there is no such directory"
            raise RunError(f"--resume: expected a run directory, got {resume}: {what}")
        return path
    if out is None:
        raise ConfigError("--resume auto: needs --out, the run directory to continue or start")
    path = Path(expanded("--out", out))
    return path if (path / "config.toml").is_file() else None


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset_path(name: str) -> Path:
    if name not in preset_names():
        raise ConfigError(f"preset: expected one of {', '.join(preset_names())}, got {name!r}")
    return PRESETS / f"{name}.toml"


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the settings in a TOML file, and raise ConfigError for unknown keys or invalid values."""
    path = expanded("config", path)
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from None
    settings = {key: value for key, value in table.items() if key not in RECORDED_TABLES}
    if isinstance(network := settings.get("network"), dict):
        settings["network"], settings["network_options"] = network_of_table(network)
    for key in settings:
        if key not in _hints():
            raise ConfigError(f"{path}: unknown key {key!r}{_suggestion(key)}")
    try:
        if "network_options" in settings:
            settings["network_options"] = options_as_text(settings["network_options"])
        for key, value in settings.items():
            settings[key] = _typed(key, value, _hints()[key])
            check_range(key, settings[key])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return settings


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Config)


def _suggestion(key: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(key, _hints(), n=1)
    return f"; perhaps {close[0]!r} is meant" if close else f"; the keys are {', '.join(_hints())}"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """Return the value if it has the field's type, after harmless conversions of a path, a list or an int."""
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, list | tuple):
        value = tuple(_plain(member) for member in value)
    value = _plain(value)
    if isinstance(value, int) and not isinstance(value, bool) and hint is float:
        value = float(value)
    members = value if isinstance(value, tuple) else (value,)
    try:
        if hint is not bool and any(isinstance(member, bool) for member in members):
            raise TypeCheckError("a bool is not accepted")
        return check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError:
        expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise ConfigError(f"{name}: expected {expected}, got {shown_value(value)}") from None


def _plain(value: Any) -> Any:
    """Return a NumPy or PyTorch number as a Python number, and any other value unchanged."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def shown_value(value: Any) -> str:
    """Return a short description of a value given for a setting; for images, with advice on how to pass them."""
    if (shape := getattr(value, "shape", None)) is not None:
        advice = "images are passed to fit: vf.fit(config, images=images)"
        return f"{type(value).__name__} {list(shape)} of {value.dtype}; {advice}"
    if callable(value):
        return f"{reprlib.repr(value)}; a function is named by its place, FILE.py:function or package.module:function"
    return reprlib.repr(value)


def _expanded(name: str, value: Any) -> Any:
    """Return the value, with ~ expanded if the setting is a path."""
    is_path = name in PATHS and value is not None and value not in NAMES and (name, value) != ("resume", "auto")
    is_path |= name in PLACES and ".py:" in value
    return expanded(name, value) if is_path else value
