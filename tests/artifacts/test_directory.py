"""A run's files: what may be written where, and which settings a resume may change."""

import errno
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

import vae_fast as vf
from vae_fast.artifacts.directory import PROBE, RunDirectory, require_writable
from vae_fast.errors import ConfigError, RunError

Small = Callable[..., vf.Config]


def begun(config: vf.Config) -> RunDirectory:
    """Return the directory of a run that has begun and whose process has ended."""
    with RunDirectory.open(config) as directory:
        directory.begin(config, plan={"device": "cpu"}, environment={"torch": "2"})
    return directory


@pytest.mark.parametrize("held", ["config.toml", "metrics.jsonl", "checkpoints"])
def test_a_run_is_never_overwritten(small: Small, held: str) -> None:
    path = Path(str(small().out))
    path.mkdir()
    (path / held).touch()
    with pytest.raises(RunError, match=f"--out: {path} already holds a run \\({held}\\); continue it with --resume"):
        RunDirectory.open(small())
    assert [p.name for p in path.iterdir()] == [held]


def test_a_run_that_does_not_begin_leaves_nothing(small: Small, tmp_path: Path) -> None:
    with RunDirectory.open(small(out=str(tmp_path / "deep" / "er" / "run"))) as directory:
        assert directory.path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_claims_nothing(small: Small) -> None:
    with RunDirectory.open(small(dry_run=True)) as directory:
        assert not directory.path.exists()


def test_out_must_not_lie_inside_a_file(small: Small, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"--out: .*file is a file, expected a directory"):
        RunDirectory.open(small(out=str(tmp_path / "file" / "run")))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can write")
def test_out_must_be_writable(small: Small) -> None:
    with pytest.raises(RunError, match=r"--out: nothing can be written in /proc \("):
        RunDirectory.open(small(out="/proc/run"))


def test_the_write_probe_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{PROBE}killed").mkdir()
    (tmp_path / f"{PROBE}file").touch()
    require_writable(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == [f"{PROBE}file"]


def test_the_default_is_a_new_folder_named_by_time_and_data(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = small(out=None, data="some/my faces.npz")
    with ExitStack() as stack:  # several starts in one second, none of which has written anything yet
        paths = [stack.enter_context(RunDirectory.open(config)).path for _ in range(3)]
    assert len(set(paths)) == 3
    assert {path.parent for path in paths} == {Path("runs")}
    assert paths[0].name.endswith("Z-my-faces")


def test_a_resume_may_change_only_settings_that_do_not_define_the_run(small: Small) -> None:
    path = str(begun(small()).path)
    with RunDirectory.open(small(out=None, resume=path, epochs=9, keep=1)) as resumed:
        pass
    assert (str(resumed.path), resumed.recorded["plan"]) == (path, {"device": "cpu"})
    with pytest.raises(ConfigError, match=r"latent: cannot change on a resume; .* has 4, got 5. Start anew .*--config"):
        RunDirectory.open(small(out=None, resume=path, latent=5))
    with pytest.raises(ConfigError, match=r"--out: a run resumed by its directory stays there, got '.*' as well"):
        RunDirectory.open(small(resume=path))
    with pytest.raises(ConfigError, match=r"clip: cannot change on a resume; .* has None, got 1.0"):
        RunDirectory.open(small(resume="auto", clip=1.0))


def test_resume_auto_starts_a_run_if_there_is_none(small: Small) -> None:
    with RunDirectory.open(small(resume="auto")) as directory:
        assert directory.recorded == {}


def test_metrics_are_appended_and_cut_back(small: Small) -> None:
    directory = begun(small())
    records = [{"epoch": n, "train_loss": 1 / n} for n in (1, 2, 3)]
    for record in records:
        directory.append_metrics(record)
    assert directory.metrics() == records
    with directory.metrics_file.open("a") as file:
        file.write('{"epoch": 4, "tr')  # a process killed while writing
    assert directory.metrics() == records
    assert directory.cut_metrics(2) == records[:2]
    assert [json.loads(line) for line in directory.metrics_file.read_text().splitlines()] == records[:2]
    directory.append_metrics({"epoch": 3, "train_loss": float("nan")})
    assert directory.metrics()[-1] == {"epoch": 3, "train_loss": None}


@pytest.mark.parametrize(
    "line",
    [b"{", b"\xff\xfe", b"\0" * 9, b"1", b"null", b"{}", b'{"epoch": "2"}', b'{"epoch": 2, "x": "1"}', b"[" * 10**5],
)
def test_lines_that_are_no_records_are_skipped(line: bytes, small: Small) -> None:
    directory = begun(small())
    first, second = b'{"epoch": 1, "train_loss": 2.5}\n', b'{"epoch": 2, "train_loss": null}\n'
    directory.metrics_file.write_bytes(line + b"\n" + first + first + line + b"\n" + second + line)
    assert directory.metrics() == [{"epoch": 1, "train_loss": 2.5}, {"epoch": 2, "train_loss": None}]


def test_a_resume_accepts_only_the_settings_that_the_run_wrote(small: Small) -> None:
    path = begun(small(seed=3)).path
    file = path / "config.toml"
    written = file.read_text()
    assert "seed = 3" in written

    def resumed(text: str) -> RunDirectory:
        file.write_text(text)
        with RunDirectory.open(vf.Config(**{**vf.Config.from_toml(file).recorded(), "resume": str(path)})) as directory:
            return directory

    for changed in (written.replace("seed = 3", "seed = 4"), written[:-1], f"{written}\n"):
        with pytest.raises(RunError, match=r"config.toml is not what the run wrote, by the SHA-256 in its first line"):
            resumed(changed)
    for cut in ("", written.partition("\n")[0], written.split("\n", 1)[1].partition("[plan]")[0]):
        with pytest.raises(RunError, match=r"config.toml is not whole: expected a \[plan\]|is not what the run wrote"):
            resumed(cut)
    assert resumed(written).recorded["seed"] == 3
    # Without its seal, a file counts as changed on purpose, or as one of an older version.
    assert resumed(written.replace("seed = 3", "seed = 4").split("\n", 1)[1]).recorded["seed"] == 4


def test_files_that_cannot_be_read_are_named(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = begun(small())
    directory.metrics_file.touch()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")  # as from a call on an open file

    for name in ("read_bytes", "read_text"):
        monkeypatch.setattr(Path, name, fail)
    with pytest.raises(OSError, match=r"'.*/run/metrics.jsonl'"):
        directory.metrics()
    with pytest.raises(OSError, match=r"'.*/run/config.toml'"):
        RunDirectory.of(directory.path)


def test_a_failed_save_names_the_checkpoint_that_remains(small: Small) -> None:
    directory = begun(small())
    no_space, damaged = OSError(errno.ENOSPC, "No space", "x"), OSError(errno.EIO, "Input/output error")
    with pytest.raises(
        RunError, match=r"^x: No space, [\d.]+ MiB free: it could not be saved; there is no checkpoint yet$"
    ), directory.saving("it"):  # fmt: skip
        raise no_space
    (directory.checkpoints / "step-00000007").mkdir(parents=True)
    with pytest.raises(
        RunError, match=f"^{directory.path}: Input/output error: it .*; step-00000007 is, continue from it with"
    ), directory.saving("it"):  # fmt: skip
        raise damaged


def test_a_disk_that_is_too_small_is_reported_before_the_work(small: Small) -> None:
    message = r"the disk has .* free, the run needs 52428802.0 MiB: up to 5 checkpoints of 10485760.0 MiB.*--keep 3"
    with pytest.raises(RunError, match=message):
        begun(small()).require_space(10 << 40, epochs=10, keep=3)


def test_a_dangling_link_is_refused(small: Small, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "unmounted")
    for out in ("run", "run/inside"):
        with pytest.raises(RunError, match=r"--out: .*run is a link to .*unmounted, which is not there; make it"):
            RunDirectory.open(small(out=str(tmp_path / out)))
