"""Every call to the operating system that concerns a run's files fails once, with each error, in a run of its own."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.faults import judge, library
from tests.faults.campaign import Campaign, Case, Outcome, train
from tests.faults.commands import Commands, Done

KIND = "calls"
ERRORS = {
    "changes": ("ENOSPC", "EIO", "EPERM", "EINTR", library.KILL),
    "looks": ("EIO", "EACCES", "EINTR"),
}
FROM_THEN_ON = ("EROFS",)  # of a disk that the kernel makes read-only: every later change fails as well
# What cannot be removed stays until a later command sweeps it; a lock that is not to be had may be somebody else's.
HALF_REMOVED = r"left behind: .*/\.step-\d+\.old$"
MAY_STAY = ("unlink", "unlinkat", "rmdir", "flock", "open64 to write /run/.lock")


def cases(campaign: Campaign) -> list[Case]:
    if campaign.library is None:
        return []
    reference = campaign.folder / "no-call-fails"
    with campaign.alone() as commands:
        done = train(commands, reference)
    if wrong := [*judge.succeeded(done), *judge.leftovers(reference)]:
        raise RuntimeError(f"the run that nothing happens to: {wrong}")
    with campaign.alone() as commands, campaign.place() as folder:
        counts = train(commands, folder / "run", fail=[str(folder), "changes", 0, "EIO", False]).notes["calls"]
    if not all(counts.values()):
        raise RuntimeError(f"the preloaded library sees no calls: {counts}")
    pairs = [
        (scope, number, error, False)
        for scope, errors in ERRORS.items() for error in errors for number in range(1, counts[scope] + 1)
    ]  # fmt: skip
    pairs += [("changes", number, error, True) for error in FROM_THEN_ON for number in range(1, counts["changes"] + 1)]
    chosen = sorted(campaign.random(KIND).sample(pairs, min(len(pairs), campaign.size[KIND])))
    campaign.note(KIND, f"{len(chosen)} of {len(pairs)} (call, error) pairs; calls of a run: {counts}")
    return [lambda commands, pair=pair: _case(campaign, commands, reference, *pair) for pair in chosen]


def _case(
    campaign: Campaign, commands: Commands, reference: Path, scope: str, number: int, error: str, from_then_on: bool
) -> Iterator[Outcome]:
    with campaign.place() as folder:
        run = folder / "run"
        done = train(commands, run, fail=[str(folder), scope, number, error, from_then_on])
        failed = done.notes.get("failed", "").replace(str(folder), "")
        wrong = [*_wrong_end(done, folder, error)]
        if not (from_then_on or error == library.KILL or failed.startswith(MAY_STAY)):
            found = judge.leftovers(folder) if done.code else judge.differences(run, reference)
            wrong += [line for line in found if not re.search(HALF_REMOVED, line)]
        ended = {0: "goes on", 1: "error: and a path"}.get(done.code, "killed")
        again = train(commands, run)
        wrong += [f"resumed: {line}" for line in (*judge.succeeded(again), *judge.differences(run, reference))]
        name = f"call {number} that {scope}, {error}: {failed or 'killed'}"
        group = f"{error} from then on" if from_then_on else f"{error}, a call that {scope}"
        yield Outcome(KIND, name, group, f"{ended}; then the same run" if not wrong else "wrong", tuple(wrong))


def _wrong_end(done: Done, folder: Path, error: str) -> Iterator[str]:
    if error == library.KILL:
        yield from judge.interrupted(done)
    elif done.code == 0:
        yield from judge.succeeded(done)
    else:
        yield from judge.refused(done, folder)
