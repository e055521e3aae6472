"""Parquet files of images as Hugging Face writes them: a column of encoded images, and perhaps one of labels."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vae_fast.data.image_files.containers import Entry
from vae_fast.errors import DataError, RunError

MAGIC = b"PAR1"
LABELS = ("label", "labels", "fine_label", "class")
_PART = re.compile(r"(train|test|validation|valid|val)(?![a-z])")


class Parquet:
    """A Parquet file, or a folder of them, of which those named test... or validation... are the test part.

    Images are a column of bytes, or of records with the field `bytes`; labels a column of integers or strings with one
    of the names in `LABELS`. Files are read a group of rows at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]

    def entries(self) -> list[Entry]:
        return sorted(entry for number, file in enumerate(self._files) for entry in self._entries_of(number, file))

    def read(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes | str]]:
        index_of = {entry.place: index for index, entry in enumerate(entries)}
        for number, group in sorted({place[:2] for place in index_of}):
            table = _opened(self._files[number])
            column, _ = _columns(self._files[number], table.schema_arrow)
            images = _row_group(self._files[number], table, group, column)
            for row in range(len(images)):
                if (index := index_of.get((number, group, row))) is not None:
                    value = images[row].as_py()
                    yield index, (value.get("bytes") if isinstance(value, dict) else value) or b""

    def _entries_of(self, number: int, path: Path) -> Iterator[Entry]:
        """Yield an entry for each row, with a name like that of a file in a folder of its part and class."""
        table = _opened(path)
        _, labels = _columns(path, table.schema_arrow)
        names = _class_names(table.schema_arrow, labels)
        about = path.stat()
        stamp, found = f"{about.st_size} {about.st_mtime_ns}", _PART.match(path.name)
        part = f"{found[1]}/" if found else ""
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            values = _row_group(path, table, group, labels).to_pylist() if labels else [None] * count
            for row, value in enumerate(values):
                if labels and value is None:
                    raise DataError(f"{path}: row {row} of group {group} has no {labels}; expected one for each image")
                if names and isinstance(value, int) and not 0 <= value < len(names):
                    raise DataError(
                        f"{path}: row {row} of group {group}: expected {labels} of 0 to {len(names) - 1}, got {value}"
                    )
                label = "" if value is None else names[value] if names else str(value)
                folder = f"{part}{label.replace('/', '_')}/" if label else part
                yield Entry(f"{folder}{path.stem}, group {group:05}, row {row:06}", stamp, (number, group, row))


def _opened(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise RunError(f"{path}: Parquet needs pyarrow: pip install --no-build-isolation '.[parquet]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these types
        raise DataError(f"{path}: damaged: {str(error).partition(chr(10))[0]}") from error


def _row_group(path: Path, table: Any, group: int, column: str) -> Any:
    """Return a column of one of the table's groups of rows."""
    try:
        return table.read_row_group(group, columns=[column]).column(0)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {str(error).partition(chr(10))[0]}") from error


def _columns(path: Path, schema: Any) -> tuple[str, str | None]:
    """Return the names of the columns of images and of labels, None without the latter."""
    import pyarrow.types as types

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
        return _is_binary(kind)

    images = [field.name for field in schema if holds_images(field.type)]
    if not images:
        held = ", ".join(f"{field.name} ({field.type})"[:60] for field in list(schema)[:8]) or "none"
        raise DataError(f"{path}: expected a column of images, bytes or records with bytes; its columns are {held}")
    labels = next((name for name in LABELS if name in schema.names), None)
    if labels is not None:
        kind = schema.field(labels).type
        if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
            raise DataError(f"{path}: expected labels that are integers or strings, got {labels} of {kind}")
    return images[0], labels


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _class_names(schema: Any, labels: str | None) -> list[str]:
    """Return the names of the classes, if Hugging Face's metadata have them."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[labels]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
