"""The command for a GPU, as far as it runs without one: what it puts together, and what it refuses."""

import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_run import uninstalled
from tests.benchmarks.sample_results import sample


def test_the_archive_holds_the_folder_without_the_tree(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "charts").mkdir(parents=True)
    (folder / "charts" / "one.png").write_bytes(b"picture")
    (folder / "summary.md").write_text("all")
    uninstalled.linked_tree(folder / "tree")
    archive = gpu.packed(folder)
    assert archive == tmp_path / "run.tar.gz"
    with tarfile.open(archive) as tar:
        assert {m.name for m in tar if m.isfile()} == {"run/charts/one.png", "run/summary.md"}
        picture = tar.extractfile("run/charts/one.png")
        assert picture is not None
        assert picture.read() == b"picture"


def test_result_files_are_merged(tmp_path: Path) -> None:
    def part(name: str, start: int, stop: int, **floors: Any) -> Path:
        content = sample()
        content["benchmarks"] = [one | {"fullname": one["name"]} for one in content["benchmarks"][start:stop]]
        content["benchmarks"].append({"fullname": "cut short", "extra_info": {}})
        content["floors"] = floors
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    rates = "products_gflop_per_second"
    files = [part("a", 0, 4, device="cuda", **{rates: {"128": 1}}), part("b", 3, 6, **{rates: {"128": 2, "8192": 3}})]
    (tmp_path / "c").write_text('{"benchmarks": [')  # killed while writing
    whole = gpu.merged([*files, tmp_path / "c", part("d", 0, 0)])
    assert whole is not None
    assert [one["name"] for one in whole["benchmarks"]] == [one["name"] for one in sample()["benchmarks"][:6]]
    assert whole["floors"] == {"device": "cuda", rates: {"128": 1, "8192": 3}}
    assert gpu.merged([tmp_path / "c"]) is None


def test_a_linked_tree_has_the_whole_package(tmp_path: Path) -> None:
    tree = uninstalled.linked_tree(tmp_path / "tree")
    for path in ("vae_fast/__init__.py", "vae_fast/kernels/__init__.py", "vae_fast/presets", "tests/conftest.py"):
        assert (tree / path).exists(), path


def test_missing_packages_are_reported_in_one_line_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(uninstalled.NEEDED, "no_such_module", "no-such-thing")
    assert gpu.main(["--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: not installed: no-such-thing. ")
    assert "pip download" in line
    assert not (tmp_path / "out" / "tree").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert "expected a folder that is new, empty or of an earlier run" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_without_time_every_stage_is_reported_as_not_started(tmp_path: Path) -> None:
    run = gpu.Run(tmp_path, tmp_path, [], time.monotonic(), minutes=0)
    gpu.on_a_gpu(run, "bf16")
    assert {outcome.status for outcome in run.outcomes} == {"no time left"}
    assert {"tests-kernels", "memcheck", "step-128", "loss", "epoch"} < {outcome.name for outcome in run.outcomes}
