"""What tests of comparisons share: copies of runs, their records, and the CSV of a comparison."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

from vae_fast import compare


def copied(sweep: Path, to: Path) -> Path:
    return Path(shutil.copytree(sweep / "z2-lr0.001", to))


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def rewrite(run: Path, **values: Any) -> None:
    """Give all records of a run these values."""
    lines = [json.dumps({**record, **values}) for record in records(run)]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def as_csv(folder: Path, *arguments: str) -> list[dict[str, str]]:
    file = folder.parent / f"{folder.name}.csv"
    assert compare.main([str(folder), "--csv", str(file), *arguments]) == 0
    return rows(file.read_text())
