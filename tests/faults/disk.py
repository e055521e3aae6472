"""A full disk at every write: a small file system with room for a few pages or files, then with enough room."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.faults import judge
from tests.faults.campaign import Campaign, Case, Outcome, train
from tests.faults.commands import Commands, Done
from tests.faults.forks import PAGE

KIND = "disk"
SMALL_DISK, LARGE_DISK = "size=4m,nr_inodes=1000", "size=64m,nr_inodes=1000"
# Commands that read a trained model and write something: the arguments, with RUN for the run, the result in the run,
# and the step in free pages from one case to the next.
READERS: dict[str, tuple[tuple[str, ...], str, int]] = {
    "evaluate": (("evaluate", "RUN", "--iw", "2"), "evaluations", 1),
    "sample": (("sample", "RUN"), "pictures/step-00000012", 4),
    "report": (("report", "RUN"), "report.html", 16),
    "export": (("export", "RUN"), "export", 16),
    "export to ONNX": (("export", "RUN", "--out", "RUN/onnx", "--formats", "onnx"), "onnx", 24),
}


def cases(campaign: Campaign) -> list[Case]:
    reference, trained = campaign.folder / "room-for-all" / "run", campaign.folder / "looked-at" / "run"
    reference.parent.mkdir()
    with campaign.alone() as commands:
        ends = [train(commands, reference)]
        shutil.copytree(reference, trained, symlinks=True)
        ends += [_look(commands, name, trained) for name in _readers()]
    if wrong := [line for end in ends for line in judge.succeeded(end)]:
        raise RuntimeError(f"the undisturbed commands: {wrong}")
    if not campaign.can_mount:
        campaign.note(KIND, "no tmpfs, which only root can mount: RLIMIT_FSIZE lets no file grow, in its place")
        return _limited_cases(campaign, reference)
    rooms = [(_probed, step) for step in range(1, 17)]
    rooms += [(_filled, pages) for pages in range(_pages(reference) + 12)]
    rooms += [(few_files, files) for files in range(1, 24)]
    found: list[Case] = [lambda c, act=act, room=room: act(campaign, c, reference, room) for act, room in rooms]
    found += [
        lambda c, name=name, pages=pages: _reader(campaign, c, reference, trained, name, pages)
        for name, (_, result, step) in _readers().items()
        for pages in range(0, _pages(trained / result) + 2 * step + 4, step)
    ]
    return found


def can_mount(folder: Path) -> bool:
    """Return whether this process may mount a tmpfs."""
    place = folder / "mount"
    place.mkdir()
    try:
        _mount(place, SMALL_DISK)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", place], check=True)
    return True


def _probed(campaign: Campaign, commands: Commands, reference: Path, step: int) -> Iterator[Outcome]:
    """Train on a disk that is too small from the start, which must be reported before the work."""
    with _disk(campaign, f"size={step * 256}k") as folder:
        done = train(commands, folder / "run")
        yield _outcome(commands, folder, reference, done, "too small at the start", step * 64)


def _filled(campaign: Campaign, commands: Commands, reference: Path, pages: int) -> Iterator[Outcome]:
    """Train on a disk that others fill once the run has checked how much room there is."""
    with _disk(campaign, SMALL_DISK) as folder:
        done = train(commands, folder / "run", fill_behind_the_probe=[str(folder), pages])
        yield _outcome(commands, folder, reference, done, "filled during the run", pages)


def few_files(campaign: Campaign, commands: Commands, reference: Path, files: int) -> Iterator[Outcome]:
    """Train on a disk with room for `files` files, folders and links."""
    with _disk(campaign, f"size=64m,nr_inodes={files + 1}") as folder:  # one is the root itself
        done = train(commands, folder / "run")
        yield _outcome(commands, folder, reference, done, "too few files", files)


def _limited_cases(campaign: Campaign, reference: Path) -> list[Case]:
    """Return cases with file sizes from one page upwards, because a command's output is limited too."""
    largest = max(file.stat().st_size for file in reference.rglob("*") if file.is_file())
    sizes = range(PAGE, largest + PAGE, PAGE // 2)
    return [lambda commands, size=size: limited(campaign, commands, reference, size) for size in sizes]


def limited(campaign: Campaign, commands: Commands, reference: Path, size: int) -> Iterator[Outcome]:
    """Train where no file may become larger than `size` bytes."""
    with campaign.place() as folder:
        done = train(commands, folder / "run", limit=[size])
        yield _outcome(commands, folder, reference, done, "no file larger than", size)


def _outcome(commands: Commands, folder: Path, reference: Path, done: Done, group: str, room: int) -> Outcome:
    """Check a run, and the same run again once there is room."""
    run = folder / "run"
    wrong = [*(judge.refused(done, folder) if done.code else judge.succeeded(done)), *judge.leftovers(folder)]
    if folder.is_mount():
        _mount(folder, f"remount,{LARGE_DISK}")
    wrong += [f"resumed: {line}" for line in judge.succeeded(train(commands, run))]
    wrong += [f"resumed: {line}" for line in judge.differences(run, reference)]
    ended = "wrong" if wrong else "error: and a path; then the same run" if done.code else "it fits"
    return Outcome(KIND, f"train, {group}, {room}", f"train, {group}", ended, tuple(wrong))


def _readers() -> dict[str, tuple[tuple[str, ...], str, int]]:
    """Return the readers whose packages are installed."""
    return {name: reader for name, reader in READERS.items() if "onnx" not in reader[0] or find_spec("onnxscript")}


def _look(commands: Commands, name: str, run: Path, **before: object) -> Done:
    command, *arguments = (word.replace("RUN", str(run)) for word in READERS[name][0])
    return commands.run(command, *arguments, **before)


def _reader(
    campaign: Campaign, commands: Commands, reference: Path, trained: Path, name: str, pages: int
) -> Iterator[Outcome]:
    """Run a command that reads a run on a full disk: its result is complete or absent, and the run stays as it is."""
    result = READERS[name][1]
    with _disk(campaign, SMALL_DISK) as folder:
        run = folder / "run"
        shutil.copytree(reference, run, symlinks=True)
        done = _look(commands, name, run, fill=[str(folder), pages])
        wrong = [*(judge.refused(done, folder) if done.code else judge.succeeded(done))]
        wrong += judge.differences(run, reference)
        _mount(folder, f"remount,{LARGE_DISK}")
        if done.code:
            wrong += [f"again: {line}" for line in judge.succeeded(_look(commands, name, run))]
        wrong += [f"in the end: {line}" for line in _unlike(run / result, trained / result)]
        wrong += [f"in the end: {line}" for line in judge.differences(run, reference)]
    ended = "wrong" if wrong else "error: and a path; then its result" if done.code else "it fits"
    yield Outcome(KIND, f"{name}, {pages} pages", f"{name}, filled before", ended, tuple(wrong))


def _unlike(ours: Path, theirs: Path) -> Iterator[str]:
    """Report the differences between two results, files or folders, ignoring the times that they took."""
    names = [sorted(p.name for p in (place.iterdir() if place.is_dir() else [place])) for place in (ours, theirs)]
    if names[0] != names[1]:
        yield f"{ours.name} holds {names[0]}, expected {names[1]}"
        return
    for name in names[0] if ours.is_dir() else [""]:
        if _result(ours / name) != _result(theirs / name):
            yield f"{ours.name}/{name} differs"


def _result(file: Path) -> object:
    if file.suffix in (".pt2", ".onnx"):  # these contain where and when they were made
        return None
    if file.parent.name != "evaluations":
        return file.read_bytes()
    found = json.loads(file.read_text())
    for name in judge.TIMINGS:
        found.get("importance_weighted", {}).pop(name, None)
    return found


def _pages(place: Path) -> int:
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return sum(-(-file.stat().st_size // PAGE) for file in files)


@contextmanager
def _disk(campaign: Campaign, options: str) -> Iterator[Path]:
    with campaign.place() as folder:
        _mount(folder, options)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True, capture_output=True)
