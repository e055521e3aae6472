"""What the folders of image files mean: parts of a data set, and classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vae_fast.errors import DataError

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
}


class Part(NamedTuple):
    """The indices of a part's image files, and the class of each; no classes if there are none."""

    indices: list[int]
    labels: list[str]


def arrange(names: Sequence[str], where: Path) -> dict[str, Part]:
    """Return the parts "train" and, if there is one, "test" of image files with these paths.

    `train/` and `test/` (or, without it, `val/`) are parts. Below them, or without them at the top, the first folder of
    a path is the class of the image. Folders that contain everything else mean nothing. Raises DataError if some images
    have a class and others none.
    """
    paths = [tuple(name.split("/")) for name in names]
    while len({path[0] for path in paths}) == 1 and min(map(len, paths)) > 2 and paths[0][0].lower() not in PARTS:
        paths = [path[1:] for path in paths]
    tops = {path[0].lower() for path in paths if len(path) > 1}
    kinds = {PARTS.get(top) for top in tops}
    if "train" in kinds and "test" in kinds and None in kinds:
        other = next(top for top in sorted(tops) if top not in PARTS)
        raise DataError(f"{where}: {other} is beside train and test, neither part nor class; move it elsewhere")
    if "train" not in kinds or None in kinds:
        return {"train": _part(range(len(paths)), paths, where)}
    loose = next((name for name, path in zip(names, paths, strict=True) if len(path) == 1), None)
    if loose is not None:
        raise DataError(f"{where}: {loose} is beside the folders train and test; expected every image in one of them")
    shown = {"train": "train", "test": "test" if "test" in kinds else "valid"}
    parts = {}
    for part, kind in shown.items():
        indices = [index for index, path in enumerate(paths) if PARTS[path[0].lower()] == kind]
        if indices:
            parts[part] = _part(indices, [path[1:] for path in paths], where)
    if len({bool(part.labels) for part in parts.values()}) > 1:
        raise DataError(f"{where}: the images of one part are in folders of classes, those of the other are not")
    return parts


def _part(indices: Sequence[int], paths: Sequence[tuple[str, ...]], where: Path) -> Part:
    classes = [paths[index][0] if len(paths[index]) > 1 else "" for index in indices]
    if not any(classes):
        return Part([*indices], [])
    if not all(classes):
        count = sum(not name for name in classes)
        raise DataError(
            f"{where}: {count} of {len(classes)} images are beside the folders of classes ({_few(classes)}); expected "
            f"all images in folders, or none"
        )
    return Part([*indices], classes)


def _few(classes: Sequence[str]) -> str:
    names = sorted({name for name in classes if name})
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
