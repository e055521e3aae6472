"""What must hold after a fault: how a command may end, and that a resumed run equals an undisturbed one.

Each function yields a line for each thing that is wrong, and nothing if all is well.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.faults.commands import Done

TIMINGS = ("seconds", "images_per_second")
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def differences(run: Path, reference: Path, older: bool = True) -> Iterator[str]:
    """Compare a finished run with an undisturbed one; files left behind count as differences.

    older: whether the checkpoints that neither `latest` nor `best` names must exist as well.
    """
    named = [[_pointed(folder / "checkpoints" / link) for link in ("latest", "best")] for folder in (run, reference)]
    if named[0] != named[1]:
        yield f"latest and best are {named[0]}, expected {named[1]}"
    names = [sorted(path.name for path in (folder / "checkpoints").glob("step-*")) for folder in (run, reference)]
    if older and names[0] != names[1]:
        yield f"checkpoints {names[0]}, expected {names[1]}"
    for name in names[1] if older else sorted({*named[1]}):
        for file in FILES:
            if _content(run / "checkpoints" / name / file) != _content(reference / "checkpoints" / name / file):
                yield f"{name}/{file} differs"
    for file in ("reconstructions.png", "samples.png", "loss.png"):
        if _content(run / "pictures" / file) != _content(reference / "pictures" / file):
            yield f"{file} differs"
    if _settings(run) != _settings(reference):
        yield f"config.toml differs: {_settings(run)}, expected {_settings(reference)}"
    if _records(run) != _records(reference):
        yield f"metrics.jsonl differs: {_records(run)}, expected {_records(reference)}"
    yield from leftovers(run)


def leftovers(folder: Path) -> Iterator[str]:
    """Report what no command should leave behind: temporary files and locks."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix in (".tmp", ".link", ".old"):
            yield f"left behind: {path.relative_to(folder)}"


def succeeded(done: Done) -> Iterator[str]:
    """Check the end of a command that had to succeed; warnings are allowed."""
    if done.code != 0 or _lines(done):
        yield f"exit code {done.code}, {done.err.strip()!r}; expected 0 and no error"
    yield from _traceback(done)


def refused(done: Done, folder: Path | str, codes: tuple[int, ...] = (1,)) -> Iterator[str]:
    """Check the end of a command that had to give up: one line, which names a path under `folder`, and an exit code."""
    lines = _lines(done)
    if done.code not in codes:
        yield f"exit code {done.code}, {done.err.strip()!r}; expected {' or '.join(map(str, codes))}"
    if len(lines) != 1 or not re.match(rf"error: .*{re.escape(str(folder))}", lines[0]):
        yield f"stderr {done.err.strip()!r}; expected one line, error: and a path"
    yield from _traceback(done)


def interrupted(done: Done) -> Iterator[str]:
    """Check the end of a command that was killed, which prints nothing."""
    if done.code != -9 or done.err:
        yield f"exit code {done.code}, {done.err.strip()!r}; expected SIGKILL's and nothing said"


def _lines(done: Done) -> list[str]:
    return [line for line in done.err.splitlines() if not line.startswith("warning: ")]


def _traceback(done: Done) -> Iterator[str]:
    if "Traceback" in done.out + done.err:
        yield "a traceback"


def _pointed(link: Path) -> str:
    """Return what a link names, or a file that stands for a link where none could be made."""
    if link.is_symlink():
        return str(link.readlink())
    return link.read_text().strip() if link.is_file() else "nothing"


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _settings(run: Path) -> dict[str, object]:
    """Read the settings of the run without the environment: another process may see another number of threads."""
    try:
        found = tomllib.loads((_content(run / "config.toml") or b"").decode())
    except ValueError as error:
        return {"not TOML": str(error)}
    return {name: value for name, value in found.items() if name != "environment"}


def _records(run: Path) -> list[dict[str, object]]:
    lines = (_content(run / "metrics.jsonl") or b"").decode(errors="replace").splitlines()
    try:
        return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]
    except ValueError:
        return [{"not JSON": line} for line in lines]
