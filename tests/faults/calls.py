"""Failing system calls: each call on a run's files fails once, with each error, in a separate run."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults import judge, library
from tests.faults.campaign import Campaign, Case, Outcome, train
from tests.faults.commands import Commands, Done

KIND = "calls"
ERRORS = {
    "changes": ("ENOSPC", "EIO", "EPERM", "EINTR", library.KILL),
    "looks": ("EIO", "EACCES", "EINTR"),
}
FROM_THEN_ON = ("EROFS",)  # as when the kernel makes a disk read-only: every later change fails as well
# What cannot be removed stays until a later command sweeps it; so does a lock that may be another process's.
HALF_REMOVED = r"left behind: .*/\.step-\d+\.old$"
MAY_STAY = ("unlink", "unlinkat", "rmdir", "open64 to write /run/.lock")
LOCKING = ("flock", "fstat64", "stat64 /run/.lock")


class Pair(NamedTuple):
    """A call, by its number within its scope, and the error with which it fails, in a new or a resumed run."""

    part: str
    scope: str
    number: int
    error: str
    from_then_on: bool


def cases(campaign: Campaign) -> list[Case]:
    if campaign.library is None:
        return []
    reference, begun = campaign.folder / "no-call-fails", campaign.folder / "begun"
    with campaign.alone() as commands:
        for run, epochs in ((reference, 3), (begun, 2)):
            if wrong := [*judge.succeeded(train(commands, run, epochs=epochs)), *judge.leftovers(run)]:
                raise RuntimeError(f"the undisturbed run: {wrong}")
    parts = {"a run that begins": None, "a run that goes on": begun}
    pairs = [pair for part, start in parts.items() for pair in _pairs(campaign, part, start)]
    chosen = sorted(campaign.random(KIND).sample(pairs, min(len(pairs), campaign.size[KIND])))
    campaign.note(KIND, f"{len(chosen)} of {len(pairs)} pairs of a call and an error")
    return [
        lambda commands, pair=pair: failing(campaign, commands, reference, parts[pair.part], pair) for pair in chosen
    ]


def _pairs(campaign: Campaign, part: str, start: Path | None) -> Iterator[Pair]:
    with campaign.alone() as commands, campaign.place() as folder:
        counts = _faulty(commands, folder, start, Pair(part, "changes", 0, "EIO", False)).notes["calls"]
    if not all(counts.values()):
        raise RuntimeError(f"the preloaded library sees no calls: {counts}")
    campaign.note(KIND, f"{part} makes {' and '.join(f'{counts[scope]} calls that {scope[:-1]}' for scope in counts)}")
    for scope, errors in ERRORS.items():
        for number in range(1, counts[scope] + 1):
            yield from (Pair(part, scope, number, error, False) for error in errors)
    for number in range(1, counts["changes"] + 1):
        yield from (Pair(part, "changes", number, error, True) for error in FROM_THEN_ON)


def failing(
    campaign: Campaign, commands: Commands, reference: Path, start: Path | None, pair: Pair
) -> Iterator[Outcome]:
    """Run with the failing call, and once more without it."""
    with campaign.place() as folder:
        done = _faulty(commands, folder, start, pair)
        failed = done.notes.get("failed", "").replace(str(folder), "")
        wrong = [*_wrong_end(done, folder, pair.error)]
        if not (pair.from_then_on or pair.error == library.KILL or failed.startswith(MAY_STAY)):
            found = judge.leftovers(folder)
            if not done.code:  # older checkpoints that could not be listed may remain
                found = judge.differences(folder / "run", reference, older=pair.error != "EACCES")
            may_stay = f"{HALF_REMOVED}|/.lock$" if failed.startswith(LOCKING) else HALF_REMOVED
            wrong += [line for line in found if not re.search(may_stay, line)]
        ended = {0: "goes on", 1: "error: and a path"}.get(done.code, "killed")
        again = train(commands, folder / "run")
        found = [*judge.succeeded(again), *judge.differences(folder / "run", reference)]
        found += judge.leftovers(folder if not failed.startswith("rmdir") else folder / "run")
        wrong += [f"resumed: {line}" for line in found]
    name = f"{pair.part}: call {pair.number} that {pair.scope}, {pair.error}: {failed or 'killed'}"
    group = f"{pair.error}{' from then on' * pair.from_then_on}, a call that {pair.scope}, {pair.part}"
    yield Outcome(KIND, name, group, f"{ended}; then the same run" if not wrong else "wrong", tuple(wrong))


def _faulty(commands: Commands, folder: Path, start: Path | None, pair: Pair) -> Done:
    """Train in a folder, from the beginning or from a copy of `start`, with a failing call; number 0 means none."""
    if start is not None:
        shutil.copytree(start, folder / "run", symlinks=True)
    fail = [str(folder), pair.scope, pair.number, pair.error, pair.from_then_on]
    return train(commands, folder / "run", fail=fail)


def _wrong_end(done: Done, folder: Path, error: str) -> Iterator[str]:
    if error == library.KILL:
        yield from judge.interrupted(done)
    elif done.code == 0:
        yield from judge.succeeded(done)
    else:
        yield from judge.refused(done, folder)
