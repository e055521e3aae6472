"""Runs killed by SIGKILL at random moments of every phase, resumed and killed again until they are done."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.faults import judge
from tests.faults.campaign import Campaign, Case, Outcome
from tests.faults.commands import ROOT, Commands, Done, Timeline

KIND = "kills"
FLAGS = ("--data", "digits", "--hidden", "32", "--latent", "4", "--epochs", "6", "--batch-size", "64")
WAYS: dict[str, tuple[str, ...]] = {"fp32": (), "bf16": ("--amp-dtype", "bf16"), "autograd": ("--step", "autograd")}
PHASES = ("start-up", "epoch", "evaluation", "save")  # each run is killed in each of them, in a random order
MORE = (*PHASES, "pictures")  # and then up to twice in one of these
COLD_EVERY = 10  # each such run begins and ends as a separate process, killed during its imports too


class Whole(NamedTuple):
    """An undisturbed run, and how long its phases took, in seconds."""

    way: str
    flags: tuple[str, ...]
    directory: Path
    lengths: dict[str, float]


def cases(campaign: Campaign) -> list[Case]:
    with campaign.alone() as commands:
        whole = [whole_run(campaign, commands, way) for way in WAYS]
    return [
        lambda commands, n=n, one=one: killed(campaign, commands, n, one)
        for n in range(campaign.size[KIND])
        for one in [whole[n % len(whole)]]
    ]


def whole_run(campaign: Campaign, commands: Commands, way: str) -> Whole:
    directory, timeline = campaign.folder / f"whole-{way}", Timeline(campaign.folder / f"timeline-{way}")
    flags = (*FLAGS, *WAYS[way])
    done = commands.run("train", *flags, "--out", directory, announce=[str(timeline.file)])
    if wrong := [*judge.succeeded(done), *judge.leftovers(directory)]:
        raise RuntimeError(f"the undisturbed run: {wrong}")
    return Whole(way, flags, directory, _lengths([*timeline.entries(), ("", time.monotonic())]))


def killed(campaign: Campaign, commands: Commands, number: int, whole: Whole) -> Iterator[Outcome]:
    """Kill a run again and again; yield an outcome for each kill, and one for the final result."""
    choose, name, is_cold = campaign.random(KIND, number), f"run {number} ({whole.way})", number % COLD_EVERY == 0
    wanted = [*choose.sample(PHASES, len(PHASES)), *choose.choices(MORE, k=choose.randrange(3))]
    with campaign.place() as folder:
        run = folder / "run"
        if is_cold:
            done = _cold(run, whole.flags, after=choose.uniform(0, 4 * whole.lengths["start-up"] + 3))
            where = "start-up, own process" if not (run / "metrics.jsonl").exists() else "later, own process"
            yield Outcome(KIND, f"{name}, own process", "killed in", where, tuple(judge.interrupted(done)))
        for kill, phase in enumerate(wanted):
            done, where = _killed(commands, folder, phase, choose, whole)
            wrong = tuple(judge.interrupted(done) if where else judge.succeeded(done))
            yield Outcome(KIND, f"{name}, kill {kill}", "killed in", where or "none: done before", wrong)
        last = ("train", *whole.flags, "--resume", "auto", "--out", str(run))
        done = _cold(run, whole.flags) if is_cold else commands.run(*last)
        wrong = (*judge.succeeded(done), *judge.differences(run, whole.directory), *judge.leftovers(folder))
        yield Outcome(KIND, name, f"resumed, {whole.way}", "not the same run" if wrong else "the same run", wrong)


def _killed(commands: Commands, folder: Path, phase: str, choose: random.Random, whole: Whole) -> tuple[Done, str]:
    """Resume the run and kill it during a phase; return its end and the phase, "" if it was done before the kill."""
    timeline = Timeline(folder / "timeline")
    arguments = [*whole.flags, "--resume", "auto", "--out", folder / "run"]
    running = commands.start("train", *arguments, announce=[str(timeline.file)])
    times = choose.randint(1, 2) if phase in ("epoch", "evaluation", "save") else 1
    if timeline.wait_for(phase, times, running):
        time.sleep(choose.random() * whole.lengths[phase])
        running.kill()
    done = running.wait()
    return done, timeline.entries()[-1][0] if done.code < 0 else ""


def _cold(run: Path, flags: Sequence[str], after: float | None = None) -> Done:
    """Train in a separate process, killed after `after` seconds."""
    line = [sys.executable, "-m", "vae_fast.train", *flags, "--resume", "auto", "--out", str(run)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=ROOT, **pipes) as process:
        try:
            out, err = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
    return Done(process.returncode, out, err, {})


def _lengths(entries: list[tuple[str, float]]) -> dict[str, float]:
    """Return the longest duration of each phase, in seconds."""
    found: dict[str, float] = {}
    for (phase, entered), (_, left) in pairwise(entries):
        found[phase] = max(found.get(phase, 0.0), left - entered)
    return found
