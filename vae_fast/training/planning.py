"""How a run executes and where its images come from: chosen when it begins, kept when it is resumed, and printed."""

import torch

from vae_fast.artifacts.directory import RunDirectory
from vae_fast.config import Config
from vae_fast.config_rules import OBJECTIVES
from vae_fast.data.dataset import DataSet
from vae_fast.data.placement import FeedName, choose_feed
from vae_fast.data.splits import copies_all
from vae_fast.errors import RunError
from vae_fast.models.sizes import network_memory
from vae_fast.models.vae import VAE
from vae_fast.objectives.own import OwnObjective
from vae_fast.runtime.memory import free_memory
from vae_fast.runtime.plan import SAME_SUMS, Plan, make_plan, recorded_plan
from vae_fast.runtime.printer import Printer


def choose_plan(config: Config, directory: RunDirectory, printer: Printer, processes: int) -> Plan:
    """Choose the plan and print each part with its reason; on a resume, take the plan that the run began with."""
    before = directory.recorded
    if "plan" in before and before.get("device") == config.device:
        plan = recorded_plan(before["plan"], config, processes)
        reasons = dict.fromkeys(plan.recorded(), "as the run began")
        loop = before["plan"].get("bf16_loop", "")
        if loop != plan.bf16_loop:
            same = {loop, plan.bf16_loop} <= set(SAME_SUMS)
            bits = "the bits of" if same else "not bit-exact with the start of the run:"
            reasons["bf16_loop"] = f"{bits} {loop}" + ("" if same else " cannot be used here")
    else:
        plan, reasons = make_plan(config, processes)
    for name, value in plan.recorded().items():
        if name == "feed" or value == "":
            continue  # the feed waits until the images are known; an empty value is not part of this plan
        shown = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
        printer.line(f"{name.replace('_', ' ')}: {shown} ({reasons[name]})")
    if config.objective in OBJECTIVES and (config.objective, config.samples) != ("elbo", 1):
        bound = "; the bound of one sample is the ELBO: --samples 8" if config.samples == 1 else ""
        printer.line(f"objective: {config.objective} ({config.samples} samples of z an image{bound})")
    return plan


def choose_images_feed(
    config: Config, plan: Plan, found: DataSet, directory: RunDirectory, printer: Printer
) -> FeedName:
    """Choose where the images come from and print the reason: as when the run began, unless the settings changed."""
    before = directory.recorded
    if "plan" in before and before.get("feed") == config.feed:
        feed: FeedName = before["plan"]["feed"]
        why = "as the run began"
    else:
        feed, why = choose_feed(
            config.feed,
            found.nbytes,
            plan.torch_device,
            beside=network_memory(config, found.image_shape, found.classes if config.conditional else 0),
            obstacle=copies_all(config) or found.obstacle,
        )
    printer.line(f"feed: {feed} ({why})")
    return feed


def require_memory(images: int, network: int, device: torch.device) -> None:
    """Raise RunError if `network` bytes for a network, its optimizer and one batch, and `images` bytes do not fit."""
    needed, free = images + network, free_memory(device)
    if needed > free:
        raise RunError(
            f"memory: {device} has {free / 2**30:.1f} GiB free, the run needs about {needed / 2**30:.1f} GiB; "
            f"take fewer images, a smaller network or a smaller --batch-size"
        )


def require_prior(model: VAE) -> None:
    """Raise RunError for pseudo-inputs in a network whose buffers they would change (batch normalisation)."""
    if model.prior.name == "vamp" and model.has_moving_buffers:
        raise RunError(
            f"prior: expected normal or mixture, got vamp: network {model.network} changes buffers (batch "
            f"normalisation?), which pseudo-inputs would change, too"
        )


def require_shareable(model: VAE, objective: OwnObjective | None, processes: int) -> None:
    """Raise RunError if several processes cannot train the model as one would."""
    if processes == 1:
        return
    network, differ = f"network: {model.network}", "which would differ from those of one process"
    obstacles = [
        (model.draws_random_numbers, f"{network} draws random numbers (dropout?), {differ}"),
        (
            model.has_moving_buffers,
            f"{network} changes buffers (batch normalisation?) by its own part of the batch alone",
        ),
    ]
    if objective is not None:
        obstacles += [
            (objective.draws, f"objective: {objective.place} draws random numbers, {differ}"),
            (
                objective.mixes,
                f"objective: {objective.place} compares the images of a batch, of which each process has a part",
            ),
        ]
    for is_there, obstacle in obstacles:
        if is_there:
            raise RunError(f"{obstacle}; expected one process, got {processes}")
