"""Arrays that image files were decoded into, kept in the user's cache under a name that says what made them.

An array is plain `.npy`, so the images can be read from it piece by piece like any other file. A directory appears
complete or not at all: an unfinished one, left by a process that was killed, is removed by the next.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL

from vae_fast.data.arrays import readers
from vae_fast.data.arrays.readers import Source
from vae_fast.data.image_files.arrangement import Part, arrange
from vae_fast.data.image_files.containers import Container, Entry
from vae_fast.data.image_files.convert import HEADER, Job, Outcome, convert, write_header
from vae_fast.data.image_files.decode import OTHER_SIZE, How, size_and_channels
from vae_fast.errors import DataError
from vae_fast.runtime.folder_lock import locked
from vae_fast.runtime.printer import Printer

VERSION = 2  # of the conversion: raised whenever it gives other pixels
MOST_BROKEN = 0.01  # the share of files that may be left out
SHOWN = 3  # broken files that are named
TRIED = 100  # files among which the first intact one gives size and channels


class Wish(NamedTuple):
    """The settings of the conversion. size: (H, W), or None for that of all images. channels: None for the files'."""

    size: tuple[int, int] | None = None
    crop: Literal["none", "center"] = "none"
    channels: int | None = None


def read(container: Container, wish: Wish, printer: Printer) -> tuple[dict[str, Source], list[str]]:
    """Return the arrays of a container's images, named as `readers.read` names them, and notes for the user.

    The arrays are maps of files in the cache, converted unless that has been done before.
    """
    entries = container.entries()
    if not entries:
        kinds = "image files (PNG, JPEG, WebP, GIF, TIFF, BMP)"
        if container.path.is_dir():
            held = ", ".join(sorted(entry.name for entry in container.path.iterdir())[:8]) or "nothing"
            raise DataError(f"{container.path}: neither {kinds} nor IDX files with MNIST's names; it holds {held}")
        raise DataError(f"{container.path}: no {kinds} in it")
    folder = _folder(container, entries, wish)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder.parent}: {error.strerror}; XDG_CACHE_HOME moves the cache") from error
    with locked(folder.parent, "decodes images"):
        if not folder.is_dir():
            _build(container, entries, wish, folder, printer)
    notes = json.loads((folder / "made.json").read_text(encoding="utf-8"))["notes"]
    found = {path.stem: readers.read_array(path, readers.TEXT) for path in sorted(folder.glob("*.npy"))}
    return {name: source._replace(where=f"{container.path} ({name})") for name, source in found.items()}, notes


def _folder(container: Container, entries: Sequence[Entry], wish: Wish) -> Path:
    from platformdirs import user_cache_path

    digest = hashlib.sha256()
    for line in (VERSION, PIL.__version__, os.path.realpath(container.path), *wish):
        digest.update(f"{line}\n".encode())
    for entry in entries:
        digest.update(f"{entry.name}\0{entry.stamp}\n".encode("utf-8", "surrogateescape"))
    return user_cache_path("vae_fast") / "images" / f"{container.path.stem[:40]}-{digest.hexdigest()[:16]}"


def _build(container: Container, entries: Sequence[Entry], wish: Wish, folder: Path, printer: Printer) -> None:
    names = [entry.name for entry in entries]
    parts = arrange(names, container.path)
    parts["train"] = _mixed(parts["train"], names)
    how, notes = _how(container, entries, wish)
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        _require_space(unfinished, how, parts)
        notes += _convert(container, entries, parts, how, unfinished, printer)
        made = {"from": str(container.path), "how": how._asdict(), "notes": notes}
        (unfinished / "made.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
        unfinished.rename(folder)
    except OSError as error:
        raise DataError(f"{error.filename or unfinished}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _mixed(part: Part, names: Sequence[str]) -> Part:
    """Return a part with classes in the order of its names' hashes: images held out at its end are then of all."""
    if not part.labels:
        return part
    hashes = [hashlib.sha256(names[index].encode("utf-8", "surrogateescape")).digest() for index in part.indices]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    return Part([part.indices[i] for i in order], [part.labels[i] for i in order])


def _how(container: Container, entries: Sequence[Entry], wish: Wish) -> tuple[How, list[str]]:
    """Return what becomes of every image; what the settings leave open, the first intact image decides."""
    if wish.size is not None and wish.channels is not None:
        return How(*wish.size, True, wish.crop == "center", wish.channels), []
    reason = "no image"
    for entry in entries[:TRIED]:
        try:
            ((_, content),) = container.read([entry])
            height, width, channels = size_and_channels(content)
        except Exception as error:  # any of Pillow's on a damaged file
            reason = f"{entry.name}: {error}"
            continue
        notes = [] if wish.channels else [f"{'grey' if channels == 1 else 'colour'} like {entry.name}"]
        size = wish.size or (height, width)
        return How(*size, wish.size is not None, wish.crop == "center", wish.channels or channels), notes
    raise DataError(f"{container.path}: none of its first {min(TRIED, len(entries))} files is an image: {reason}")


def _convert(
    container: Container, entries: Sequence[Entry], parts: dict[str, Part], how: How, folder: Path, printer: Printer
) -> list[str]:
    """Write the arrays of all parts, without the files that are broken, and return notes."""
    paths = [folder / f"{part}.npy" for part in parts]
    for path, part in zip(paths, parts.values(), strict=True):
        with path.open("wb") as file:
            file.truncate(HEADER + len(part.indices) * how.height * how.width * how.channels)
    place = {
        index: (number, row) for number, part in enumerate(parts.values()) for row, index in enumerate(part.indices)
    }
    chosen = sorted(place)
    jobs = (
        Job(*place[chosen[index]], content) for index, content in container.read([entries[index] for index in chosen])
    )
    with printer.bar(f"decoding {container.path.name}", len(chosen), unit="images") as show:
        outcome = convert(jobs, paths, how, show)
    is_numbered = all(label.isdecimal() for part in parts.values() for label in part.labels)
    notes = _notes(outcome, container, entries, [part.indices for part in parts.values()], len(chosen))
    for number, (path, part) in enumerate(zip(paths, parts.values(), strict=True)):
        rows = {row for array, row, _ in outcome.broken if array == number}
        kept = [row for row in range(len(part.indices)) if row not in rows]
        _close_gaps(path, kept, how)
        if part.labels:
            labels = np.array([part.labels[row] for row in kept])
            np.save(folder / f"{path.stem}_labels.npy", labels.astype(np.int64) if is_numbered else labels)
    return notes


def _notes(
    outcome: Outcome, container: Container, entries: Sequence[Entry], indices: list[list[int]], count: int
) -> list[str]:
    notes = []
    other = next((each for each in outcome.broken if each[2].startswith(OTHER_SIZE)), None)
    if other is not None:
        name = entries[indices[other[0]][other[1]]].name
        raise DataError(f"{container.path}: {name} has {other[2]}; --image-size H W resizes all images")
    if outcome.broken:
        named = [f"{entries[indices[array][row]].name} ({reason})" for array, row, reason in outcome.broken[:SHOWN]]
        more = f", and {len(outcome.broken) - SHOWN} more" if len(outcome.broken) > SHOWN else ""
        shown = f"{'; '.join(named)}{more}"
        if len(outcome.broken) > MOST_BROKEN * count:
            raise DataError(
                f"{container.path}: {len(outcome.broken)} of {count:,} image files are broken, more than "
                f"{MOST_BROKEN:.0%}: {shown}"
            )
        notes.append(f"left out {len(outcome.broken)} of {count:,} files, which are broken: {shown}")
    if outcome.had_alpha:
        notes.append(f"{outcome.had_alpha:,} images had transparent pixels, which are now on white")
    if outcome.was_turned:
        notes.append(f"{outcome.was_turned:,} images were turned upright, as their EXIF says")
    return notes


def _close_gaps(path: Path, kept: Sequence[int], how: How) -> None:
    """Move the rows of broken files out of an array's file, and write its header."""
    if not kept:
        raise DataError(f"{path.stem}: none of its images could be decoded")
    size = how.height * how.width * how.channels
    with path.open("r+b") as file:
        for to, row in enumerate(kept):
            if to != row:
                file.seek(HEADER + row * size)
                pixels = file.read(size)
                file.seek(HEADER + to * size)
                file.write(pixels)
        file.truncate(HEADER + len(kept) * size)
    write_header(path, (len(kept), how.channels, how.height, how.width))


def _require_space(folder: Path, how: How, parts: dict[str, Part]) -> None:
    needed = how.height * how.width * how.channels * sum(len(part.indices) for part in parts.values())
    free = shutil.disk_usage(folder).free
    if needed > 0.9 * free:
        raise DataError(
            f"{folder}: the decoded images need {needed / 2**20:,.0f} MiB there, {free / 2**20:,.0f} MiB are free; "
            f"take a smaller --image-size, or another cache by XDG_CACHE_HOME"
        )
