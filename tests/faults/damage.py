"""Damaged runs: flipped bits, truncated files, dangling links; each run is nevertheless evaluated and resumed."""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults import judge
from tests.faults.campaign import SMALL, Campaign, Case, Outcome, train
from tests.faults.commands import Commands, Done

KIND = "damage"
OLDER, NEWEST = "step-00000004", "step-00000008"
FILES = judge.FILES
REPORT_EVERY = 3  # a report takes longer than evaluating and resuming together
LOST = r"warning: .*metrics\.jsonl"  # the one thing that no checkpoint can restore: it may differ if a warning says so
ANOTHER_NAME = "with another name for"  # still a valid record


class Damage(NamedTuple):
    """Damage done to a run of two epochs before it is resumed for a third."""

    group: str
    name: str
    harm: Callable[[Path], object]


class Whole(NamedTuple):
    """Undisturbed runs: one of two epochs, the same with a third, and what `evaluate` returns for the first."""

    begun: Path
    done: Path
    evaluated: list[object]


def cases(campaign: Campaign) -> list[Case]:
    with campaign.alone() as commands:
        whole = whole_runs(campaign, commands)
    return [
        lambda commands, damage=damage, page=number % REPORT_EVERY == 0: damaged(
            campaign, commands, whole, damage, page
        )
        for number, damage in enumerate(damages(campaign, whole.begun))
    ]


def whole_runs(campaign: Campaign, commands: Commands) -> Whole:
    whole = Whole(campaign.folder / "two-epochs" / "run", campaign.folder / "three-epochs" / "run", [])
    for run, epochs in ((whole.begun, 2), (whole.done, 3)):
        run.parent.mkdir()
        if wrong := [*judge.succeeded(train(commands, run, epochs=epochs, keep=3)), *judge.leftovers(run)]:
            raise RuntimeError(f"the undisturbed run: {wrong}")
    for step in (OLDER, NEWEST):
        whole.evaluated.append(_evaluated(commands.run("evaluate", whole.begun / "checkpoints" / step, "--json")))
    shutil.rmtree(whole.begun / "evaluations")
    return whole


def damaged(campaign: Campaign, commands: Commands, whole: Whole, damage: Damage, page: bool) -> Iterator[Outcome]:
    """Damage a run, then evaluate it, write a report page if `page`, and resume it."""
    with campaign.place() as folder:
        run = folder / "run"
        shutil.copytree(whole.begun, run, symlinks=True)
        damage.harm(run)
        found = commands.run("evaluate", run, "--json")
        yield _outcome(damage, "evaluate", found, folder, _unlike(found, whole, damage) if not found.code else ())
        if page:
            yield _outcome(damage, "report", commands.run("report", run), folder, ())
        yield from _resumed(commands, folder, whole.done, damage)


def _resumed(commands: Commands, folder: Path, reference: Path, damage: Damage) -> Iterator[Outcome]:
    """Resume with the original flags and, if the settings are damaged, also with the directory alone."""
    ways = [("--resume", "auto", "--out", str(folder / "run"))]
    if damage.group == "config.toml":
        shutil.copytree(folder / "run", folder / "again" / "run", symlinks=True)
        ways.append(("--resume", str(folder / "again" / "run")))
    for way in ways:
        run, flags = Path(way[-1]), () if way[1] != "auto" else SMALL
        done = commands.run("train", *flags, "--epochs", "3", *way, sketch=[])
        differences = list(judge.differences(run, reference, older=False)) if not done.code else []
        if re.search(LOST, done.out) or ANOTHER_NAME in damage.name:
            differences = [line for line in differences if not line.startswith("metrics.jsonl")]
        yield _outcome(damage, f"resume {'' if flags else 'by name'}".strip(), done, folder, differences)


def _outcome(damage: Damage, command: str, done: Done, folder: Path, differences: Iterable[str]) -> Outcome:
    wrong = [*differences]
    if done.code:
        named = "" if damage.group == "config.toml" else folder  # damaged settings may name anything
        wrong += judge.refused(done, named, codes=(1, 2))
    else:
        wrong += judge.succeeded(done)
    warned = "warning: " in done.out + done.err
    ended = "wrong" if wrong else "refused in one line" if done.code else f"done{', with a warning' * warned}"
    return Outcome(KIND, f"{damage.group}, {damage.name}, {command}", f"{damage.group}: {command}", ended, tuple(wrong))


def _unlike(done: Done, whole: Whole, damage: Damage) -> Iterator[str]:
    """Report results that match no checkpoint of the run; damaged settings may lead to others."""
    if damage.group != "config.toml" and _evaluated(done) not in whole.evaluated:
        yield f"evaluate gives {done.out[:200]!r}, which is no checkpoint's"


def _evaluated(done: Done) -> object:
    found = json.loads(done.out)
    return {name: value for name, value in found.items() if name != "model"}


def damages(campaign: Campaign, begun: Path) -> Iterator[Damage]:
    """Yield every kind of damage; `begun` is an undamaged run."""
    for file in FILES:
        for name, data in _damaged((begun / "checkpoints" / NEWEST / file).read_bytes(), campaign, file):
            yield Damage("a checkpoint's files", f"{file} {name}", _writing(f"checkpoints/{NEWEST}/{file}", data))
        for name, harm in STRUCTURAL.items():
            yield Damage("a checkpoint's files", f"{file} {name}", _on(f"checkpoints/{NEWEST}/{file}", harm))
    for link in ("latest", "best"):
        for name, harm in STRUCTURAL.items() | LINKS.items():
            yield Damage("links", f"{link} {name}", _on(f"checkpoints/{link}", harm))
    for name, harm in FOLDERS.items():
        yield Damage("folders", name, harm)
    metrics = (begun / "metrics.jsonl").read_bytes()
    for name, data in _damaged_lines(metrics):
        yield Damage("metrics.jsonl", name, _writing("metrics.jsonl", data))
    settings = (begun / "config.toml").read_bytes()
    for name, data in _damaged(settings, campaign, "config.toml", middles=16):
        yield Damage("config.toml", name, _writing("config.toml", data))
    for before, after in CHANGED:
        assert before in settings, f"config.toml has no {before!r}"
        yield Damage(
            "config.toml",
            f"{after.decode().strip()} in place of {before.decode().strip()}",
            _writing("config.toml", settings.replace(before, after)),
        )
    for file in ("config.toml", "metrics.jsonl"):
        for name, harm in STRUCTURAL.items():
            yield Damage(file, name, _on(file, harm))


def _damaged(data: bytes, campaign: Campaign, name: str, middles: int = 4) -> Iterator[tuple[str, bytes]]:
    """Flip bits and cut at every kind of offset: in safetensors the length, the header, and the first data byte."""
    choose = campaign.random(KIND, name)
    header = int.from_bytes(data[:8], "little") if name.endswith(".safetensors") else len(data) // 2
    edges = {0, 1, 7, 8, 9, 8 + header // 2, 7 + header, 8 + header, len(data) - 1}
    for at in sorted(
        {offset for offset in edges if offset < len(data)} | set(choose.sample(range(len(data)), middles))
    ):
        flipped = bytearray(data)
        flipped[at] ^= 1 << choose.randrange(8)
        yield f"with a bit flipped in byte {at}", bytes(flipped)
    for size in sorted({0, 1, 7, 8, 8 + header, len(data) // 2, len(data) - 1}):
        yield f"cut to {size} bytes", data[:size]
    yield "with a byte more", data + b"\0"
    yield "all zeros", bytes(len(data))


def _damaged_lines(metrics: bytes) -> Iterator[tuple[str, bytes]]:
    """Cut the last line of metrics.jsonl, and insert lines that are no records."""
    first, last = metrics.splitlines(keepends=True)
    for size in (0, 1, len(last) // 2, len(last) - 2, len(last) - 1):
        yield f"with {size} bytes of its last line", first + last[:size]
    for line in (b"{\n", b"\0" * 64, b"\xff\xfe\n", b"1\n", b"null\n", b"{}\n", b'{"epoch": "2"}\n', b"[" * 100_000):
        yield f"with {line[:20]!r} as its last line", first + line
        yield f"with {line[:20]!r} as its first line", line + last
        yield f"with {line[:20]!r} after its last line", metrics + line
    yield "with its first line twice", first + metrics
    for key in (b"step", b"seconds", b"train_loss", b"test_nll"):
        yield f"{ANOTHER_NAME} {key.decode()}", metrics.replace(key, key.upper())


def _writing(file: str, data: bytes) -> Callable[[Path], object]:
    return lambda run: (run / file).write_bytes(data)


def _on(file: str, harm: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return a function that removes a file or link and puts something else in its place."""

    def act(run: Path) -> None:
        (run / file).unlink()
        harm(run / file)

    return act


STRUCTURAL: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
LINKS: dict[str, Callable[[Path], object]] = {
    "an empty file": lambda path: path.touch(),
    "garbage": lambda path: path.write_bytes(b"\xff\0garbage\n"),
    "much garbage": lambda path: path.write_bytes(b"step-" * 1000),
    "a file that names nothing": lambda path: path.write_text("step-00000099\n"),
    "a file that names the older": lambda path: path.write_text(f"{OLDER}\n"),
    "a link to the older": lambda path: path.symlink_to(OLDER),
    "a link out of the run": lambda path: path.symlink_to("/"),
    "a link to a file": lambda path: path.symlink_to(f"{NEWEST}/state.json"),
}
FOLDERS: dict[str, Callable[[Path], object]] = {
    "the newest missing": lambda run: shutil.rmtree(run / "checkpoints" / NEWEST),
    "the newest a file": lambda run: (
        shutil.rmtree(run / "checkpoints" / NEWEST), (run / "checkpoints" / NEWEST).touch()
    ),
    "the older missing": lambda run: shutil.rmtree(run / "checkpoints" / OLDER),
    "the older empty": lambda run: (
        shutil.rmtree(run / "checkpoints" / OLDER), (run / "checkpoints" / OLDER).mkdir()
    ),
    "all missing": lambda run: shutil.rmtree(run / "checkpoints"),
    "all a file": lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").touch()),
    "an empty one of a later step": lambda run: (run / "checkpoints" / "step-00000099").mkdir(),
    "a file of a later step": lambda run: (run / "checkpoints" / "step-00000099").touch(),
    "one without a number": lambda run: (run / "checkpoints" / "step-last").mkdir(),
    "the newest by another number": lambda run: (
        (run / "checkpoints" / NEWEST).rename(run / "checkpoints" / "step-00000010")
    ),
    "half-written ones": lambda run: (
        shutil.copytree(run / "checkpoints" / OLDER, run / "checkpoints" / ".step-00000012.tmp"),
        shutil.copytree(run / "checkpoints" / OLDER, run / "checkpoints" / ".step-00000008.old"),
        (run / "checkpoints" / ".step-00000004.tmp").touch(),
        (run / "checkpoints" / ".latest.link").symlink_to("nothing"),
    ),
    "a folder in the place of a temporary link": lambda run: (run / "checkpoints" / ".latest.link").mkdir(),
    "a lock that nobody holds": lambda run: (run / ".lock").write_text("process 1"),
    "pictures a file": lambda run: (shutil.rmtree(run / "pictures"), (run / "pictures").touch()),
    "half-written pictures": lambda run: (run / "pictures" / ".samples.png.01234567.vae_fast.tmp").touch(),
}  # fmt: skip
CHANGED = (  # settings and parts of the plan that remain valid
    (b"\nseed = 0\n", b"\nseed = 1\n"),
    (b"\nlr = 0.001\n", b"\nlr = 0.002\n"),
    (b'"fused"', b'"autograd"'),
    (b'precision = "fp32"', b'precision = "bf16"'),
)
