"""The card of an exported model: what it is, what it was trained on and how, and its results."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePath

from vae_fast.analysis.diagnosis import observe
from vae_fast.analysis.trained import Trained
from vae_fast.config import Config
from vae_fast.data.builtin import LICENCES
from vae_fast.data.transforms import pixel_kind
from vae_fast.models.vae import VAE

MOST_NAMES = 20  # of classes
UNKNOWN = "not known: the model came without its run"
RECIPE = ("epochs", "batch_size", "optimizer", "lr", "lr_schedule", "beta", "seed")  # REST only if not default
REST = (
    *(
        "lr_milestones",
        "lr_gamma",
        "lr_warmup",
        "ema",
        "weight_decay",
        "clip",
        "beta_schedule",
        "beta_warmup",
        "beta_cycles",
        "free_bits",
    ),
    *("objective", "samples", "prior", "components", "valid", "patience", "init_from"),
)


def model_card(trained: Trained, files: Sequence[str]) -> str:
    """Return the card in Markdown.

    files: a description of each exported file.
    """
    model = trained.model
    parameters = sum(p.numel() for p in model.parameters())
    lines = [
        f"# VAE {model.title}",
        "",
        f"A Variational Autoencoder with a Gaussian posterior of {model.latent} dimensions and "
        f"{model.likelihood.title} pixels: {parameters:,} parameters, {_network(model)}.",
        "",
        f"- encoder: pixels, float32 [B, {', '.join(map(str, model.input_shape))}] "
        f"{'in the units of the table' if model.is_standardized else 'in [0, 1]'} -> mu, logvar, "
        f"[B, {model.latent}] each",
        f"- decoder: z, float32 [B, {model.latent}] -> logits, of the pixels' shape; {model.likelihood.family.image}",
        f"- prior of z: {model.prior.title}",
        *([f"- both halves also take labels, int64 [B]: {_classes(trained)}"] if model.classes else []),
        "",
        "## Files",
        "",
        *(f"- {file}" for file in files),
        "",
        "## Data",
        "",
        *_data(trained),
        "",
        "## Recipe",
        "",
        *_recipe(trained),
        "",
        "## Numbers",
        "",
        *_numbers(trained),
        "",
    ]
    return "\n".join(lines)


def _classes(trained: Trained) -> str:
    names = trained.label_names
    shown = ", ".join(f"{label} `{name}`" for label, name in enumerate(names[:MOST_NAMES]))
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return shown + more if names else f"0 to {trained.model.classes - 1}"


def _network(model: VAE) -> str:
    options = "".join(f", {name} {value}" for name, value in model.options.items())
    inside = (
        f"{model.activation} between the layers"
        if model.network == "mlp"
        else f"network {PurePath(model.network).name}{options}"
    )
    return inside + (f"; encoder and decoder are given one of {model.classes} labels" if model.classes else "")


def _data(trained: Trained) -> list[str]:
    if trained.config is None:
        return [UNKNOWN]
    data = trained.config.data
    return [
        f"- images: {PurePath(data).name}, {pixel_kind(trained.config.treatment, trained.image_shape)}",
        f"- licence of the data: {LICENCES.get(data, 'not known; these are your own images')}",
    ]


def _recipe(trained: Trained) -> list[str]:
    if trained.config is None or trained.run is None:
        return [UNKNOWN]
    usual, ours = asdict(Config()), asdict(trained.config)
    ours["objective"] = PurePath(trained.config.objective).name  # a file's folder is nobody else's business
    ours["init_from"] = None if ours["init_from"] is None else PurePath(ours["init_from"]).name
    names = [*RECIPE, *(name for name in REST if ours[name] != usual[name])]
    precision = trained.recorded.get("plan", {}).get("precision", "not known")
    return [*(f"- {name}: {ours[name]}" for name in names), f"- precision: {precision}"]


def _numbers(trained: Trained) -> list[str]:
    if trained.run is None:
        return [UNKNOWN]
    records = trained.records()
    if not records or trained.config is None:
        return ["none were recorded"]
    evaluated = [record for record in records if record.get("test_loss") is not None]
    last = {"step": "not known", **(evaluated or records)[-1]}
    names = ("train_loss", "train_nll", "train_kl", "test_loss", "test_nll", "test_kl")
    losses = [f"- {name}: {last[name]:.2f}" for name in names if last.get(name) is not None]
    pixels = pixel_kind(trained.config.treatment, trained.image_shape)
    own = "" if ":" not in trained.config.objective else ", and `train_*` are its terms, in its own units"
    return [
        f"After epoch {last['epoch']}, step {last['step']} ({observe(records)}), nats per image, {pixels}; "
        f"`train_loss` is the objective that was minimised{own}:",
        "",
        *losses,
    ]
