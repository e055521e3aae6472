"""The card that goes with an exported model: what it is, what it was trained on and how, what it reached."""

from collections.abc import Mapping
from typing import Any

from vae_fast.catalogue import LICENCES
from vae_fast.observations import observe
from vae_fast.pixels import TREATMENTS
from vae_fast.run_directory import RunDirectory
from vae_fast.trained import Trained

UNKNOWN = "not known: the model came without its run"
RECIPE = ("epochs", "batch_size", "optimizer", "lr", "lr_schedule", "lr_warmup", "weight_decay", "clip", "beta", "seed")
FILES = {
    "safetensors": "`model.safetensors`: all parameters, float32; `vae_fast.load` of this directory gives the VAE",
    "pt2": "`encoder.pt2`, `decoder.pt2`: `torch.export.load(file).module()`, for any batch",
    "onnx": "`encoder.onnx`, `decoder.onnx`: for any batch",
}


def model_card(trained: Trained, formats: Mapping[str, float]) -> str:
    """Markdown. formats: those that were written, and how far each was off when it was read back."""
    model = trained.model
    parameters = sum(p.numel() for p in model.parameters())
    lines = [
        f"# VAE {model.widths}",
        "",
        f"A Variational Autoencoder with a Gaussian posterior of {model.latent} dimensions and Bernoulli pixels: "
        f"{parameters:,} parameters, {model.activation} between the layers.",
        "",
        "- encoder: pixels, float32 [B, " + ", ".join(map(str, model.input_shape)) + "] in [0, 1] -> mu, logvar, "
        f"[B, {model.latent}] each",
        f"- decoder: z, float32 [B, {model.latent}] -> logits, of the pixels' shape; their sigmoid is the image",
        "",
        "## Files",
        "",
        *(
            f"- {FILES[name]} (read back: off by at most {off:.1e} of the largest value)"
            for name, off in formats.items()
        ),
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


def _data(trained: Trained) -> list[str]:
    if trained.config is None:
        return [UNKNOWN]
    data = trained.config.data
    return [
        f"- images: {data}, {TREATMENTS[trained.config.binarize]}",
        f"- licence of the data: {LICENCES.get(data, 'not known; these are your own images')}",
    ]


def _recipe(trained: Trained) -> list[str]:
    if trained.config is None or trained.run is None:
        return [UNKNOWN]
    plan: dict[str, Any] = RunDirectory.of(trained.run).recorded.get("plan", {})
    settings = [f"- {name}: {value}" for name in RECIPE if (value := getattr(trained.config, name)) is not None]
    return [*settings, f"- precision: {plan.get('precision', 'not known')}"]


def _numbers(trained: Trained) -> list[str]:
    if trained.run is None:
        return [UNKNOWN]
    records = RunDirectory.of(trained.run).metrics()
    if not records:
        return ["none were recorded"]
    last = records[-1]
    names = ("train_loss", "train_nll", "train_kl", "test_loss", "test_nll", "test_kl")
    told = [f"- {name}: {last[name]:.2f}" for name in names if last.get(name) is not None]
    return [f"After epoch {last['epoch']}, nats per image ({observe(records)}):", "", *told]
