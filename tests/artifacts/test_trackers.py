"""Records and pictures in TensorBoard, Weights & Biases and MLflow, each read back by its own reader or format."""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vae_fast as vf
from vae_fast.artifacts import trackers
from vae_fast.errors import RunError
from vae_fast.runtime.signals import Interrupted
from vae_fast.training.trainer import Trainer

Small = Callable[..., vf.Config]
PICTURES = {"loss", "reconstructions", "samples"}


@pytest.fixture(autouse=True)
def fresh_wandb() -> Iterator[None]:
    """Stop what wandb keeps of a test's environment for the rest of the process."""
    yield
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()


def resumed(small: Small, log: str) -> tuple[Path, dict[str, dict[int, float]]]:
    """Return a run of two epochs and a resumed one, and the values of metrics.jsonl by name and epoch."""
    run = vf.fit(small(log=log)).directory
    vf.fit(small(log=log, epochs=3, resume=str(run), out=None))
    return run, recorded(run)


def recorded(run: Path) -> dict[str, dict[int, float]]:
    records: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    return {name: {r["epoch"]: r[name] for r in records if r[name] is not None} for name in records[0]}


def test_tensorboard_has_every_record_also_after_a_resume(small: Small) -> None:
    pytest.importorskip("tensorboard", reason="vae_fast[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, records = resumed(small, "tensorboard")
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["images"]) == PICTURES
    scalars = {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}
    assert scalars["loss/train"] == pytest.approx(records["train_loss"])
    assert scalars["kl/test"] == pytest.approx(records["test_kl"])
    assert scalars["lr"] == pytest.approx(records["lr"])


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield the records of an offline run, whose file has LevelDB's format: chunks in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, content = file.read_bytes(), 7, b""
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        content += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(content)
            content = b""
            yield record


def test_an_offline_run_of_wandb_has_every_record_and_the_settings(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="vae_fast[wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    run, records = resumed(small, "wandb")
    found: dict[str, dict[int, Any]] = {}
    runs, settings, exits = [], {}, []
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                runs.append((record.run.run_id, record.run.project, record.run.display_name))
            if kind == "config":
                settings |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
            if kind == "exit":
                exits.append(record.exit.exit_code)
            if kind == "history":
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                for name in row:
                    found.setdefault(name, {})[row["epoch"]] = row[name]
    assert {name: values for name, values in found.items() if name in records} == records
    assert set(found) >= PICTURES | records.keys()
    assert {(project, name) for _, project, name in runs} == {("vae_fast", "run")}
    assert {each for each, _, _ in runs} == {json.loads((run / "trackers.json").read_text())["wandb"]}
    assert exits == [0, 0]
    assert (settings["epochs"], settings["latent"], settings["hidden"]) == (3, 4, [16])


@pytest.mark.parametrize("store", ["file", "sqlite"])
@pytest.mark.filterwarnings("default")  # MLflow's own
def test_mlflow_has_every_record_and_the_settings(
    store: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="vae_fast[mlflow] is not installed")
    monkeypatch.chdir(tmp_path)  # artifacts of a database go to the working directory
    uri = f"file://{tmp_path}/store" if store == "file" else f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    run, records = resumed(small, "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("vae_fast").experiment_id
    (found,) = client.search_runs([experiment])
    assert found.info.run_id == json.loads((run / "trackers.json").read_text())["mlflow"]
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    del records["epoch"]
    assert found.data.metrics.keys() == records.keys()
    for name, values in records.items():
        history = {each.step: each.value for each in client.get_metric_history(found.info.run_id, name)}
        assert history == pytest.approx(values), name
    assert (found.data.params["epochs"], found.data.params["hidden"]) == ("2", "(16,)")
    assert found.data.tags["resumed.epochs"] == "3"
    assert {file.path for file in client.list_artifacts(found.info.run_id, "pictures")} == {
        f"pictures/{name}.png" for name in PICTURES
    }


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_mlflow_begins_another_run_if_the_first_is_not_in_its_store(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="vae_fast[mlflow] is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/one.db")
    run = vf.fit(small(log="mlflow", epochs=1)).directory
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/two.db")
    vf.fit(small(log="mlflow", epochs=2, resume=str(run), out=None))
    client = mlflow.MlflowClient()
    known = json.loads((run / "trackers.json").read_text())["mlflow"]
    assert [each.step for each in client.get_metric_history(known, "train_loss")] == [2]
    client.delete_run(known)
    vf.fit(small(log="mlflow", epochs=3, resume=str(run), out=None))
    known = json.loads((run / "trackers.json").read_text())["mlflow"]
    assert [each.step for each in client.get_metric_history(known, "train_loss")] == [3]


@pytest.mark.parametrize("log", ["wandb", "mlflow"])
def test_a_run_goes_on_without_a_tracker_that_cannot_be_reached(
    log: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(log, reason=f"vae_fast[{log}] is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))  # no key to log in with
    for name, value in {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert len(vf.fit(small(log=log)).metrics) == 2
    printed = capsys.readouterr().out
    assert f"warning: --log {log}: the run could not be logged: " in printed
    assert printed.count("warning: ") == 2
    assert f"warning: --log {log}: the run goes on without it; metrics.jsonl has all records" in printed


class Fake:
    """A tracker that notes what it is told, and fails at some of it."""

    def __init__(self, *failing: Any) -> None:
        self.told: list[Any] = []
        self._failing = failing

    def _note(self, what: Any) -> None:
        self.told.append(what)
        if what in self._failing:
            raise OSError(f"no {what}\nand more of it")

    def begin(self, epoch: int) -> str:
        self._note(("begin", epoch))
        return "there"

    def epoch(self, record: Mapping[str, float]) -> None:
        assert None not in record.values()
        self._note(record["epoch"])

    def pictures(self, files: Any, epoch: int) -> None:
        self._note({file.stem for file in files})

    def end(self, error: type[BaseException] | None) -> None:
        self._note(error)


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    """Return a function that puts a fake in the place of TensorBoard."""

    def put(*failing: Any) -> Fake:
        fake = Fake(*failing)
        monkeypatch.setitem(trackers.TRACKERS, "tensorboard", lambda folder, settings: fake)
        monkeypatch.setattr(trackers, "find_spec", lambda name: SimpleNamespace(origin="somewhere"))
        return fake

    return put


@pytest.mark.parametrize(
    ("failing", "told", "warnings"),
    [
        ((), [("begin", 0), 1, 2, 3, 4, 5, PICTURES, None], []),
        ((("begin", 0),), [("begin", 0)], ["the run could not be logged: no ('begin', 0)", "goes on"]),
        (
            (2, 4, PICTURES),  # each success counts again from none
            [("begin", 0), 1, 2, 3, 4, 5, PICTURES, None],
            ["epoch 2 could not be logged: no 2", "epoch 4 could not", "the pictures could not be logged: no {"],
        ),
        ((1, 2, 3), [("begin", 0), 1, 2, 3], [*(f"epoch {n} could not be logged" for n in (1, 2, 3)), "goes on"]),
        ((None,), [("begin", 0), 1, 2, 3, 4, 5, PICTURES, None], ["the end of the run could not be logged: no None"]),
    ],
)
def test_what_a_tracker_raises_becomes_warnings(
    failing: tuple[Any, ...],
    told: list[Any],
    warnings: list[str],
    tracked: Callable[..., Fake],
    small: Small,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = tracked(*failing)
    run = vf.fit(small(log="tensorboard", epochs=5))
    assert fake.told == told
    assert len(run.metrics) == 5
    lines = [line for line in capsys.readouterr().out.splitlines() if "--log" in line]
    assert len(lines) == len(warnings)
    for line, part in zip(lines, warnings, strict=True):
        assert line.startswith("warning: --log tensorboard: ")
        assert part in line
        assert "and more of it" not in line


def test_a_tracker_learns_how_a_run_ended_and_where_it_went_on(
    tracked: Callable[..., Fake], small: Small, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake, train = tracked(), Trainer._train_epoch

    def interrupted(self: Trainer, epoch: int, received: list[int]) -> dict[str, Any]:
        if epoch == 2:
            received.append(signal.SIGTERM)
        return train(self, epoch, received)

    monkeypatch.setattr(Trainer, "_train_epoch", interrupted)
    config = small(log="tensorboard", epochs=3)
    with pytest.raises(Interrupted):
        vf.fit(config)
    assert fake.told == [("begin", 0), 1, Interrupted]
    assert "log: tensorboard, there\n" in capsys.readouterr().out
    monkeypatch.undo()
    fake = tracked()
    vf.fit(small(log="tensorboard", epochs=3, resume=str(config.out), out=None))
    assert fake.told == [("begin", 1), 2, 3, PICTURES, None]


def test_a_dry_run_tells_nothing(tracked: Callable[..., Fake], small: Small) -> None:
    fake = tracked()
    vf.fit(small(log="tensorboard", dry_run=True))
    assert fake.told == []


@pytest.mark.parametrize("log", ["tensorboard", "wandb", "mlflow"])
@pytest.mark.parametrize("is_folder", [False, True])  # a folder of that name, such as those that trackers make
def test_a_missing_package_is_reported_before_the_run_begins(
    log: str, is_folder: bool, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, log, None)
    if is_folder:
        monkeypatch.setattr(trackers, "find_spec", lambda name: SimpleNamespace(origin=None))
    config = small(log=log)
    with pytest.raises(RunError, match=rf"--log {log}: it is not installed: pip install 'vae_fast\[{log}\]'"):
        vf.fit(config)
    assert not Path(str(config.out)).exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"wandb": 3}'])
def test_a_damaged_note_of_the_trackers_run_begins_another(content: str, tmp_path: Path) -> None:
    (tmp_path / trackers.RUNS).write_text(content)
    assert trackers._known_run(tmp_path, "wandb") is None
    trackers._keep_run(tmp_path, "wandb", "abc")
    trackers._keep_run(tmp_path, "mlflow", "def")
    assert trackers._known_run(tmp_path, "wandb") == "abc"


def test_a_table_of_settings_becomes_flat_parameters() -> None:
    settings = vf.Config(network="conv", network_options=("width=16",)).recorded()
    assert {"network.name": "conv", "network.width": "16", "epochs": "10"}.items() <= trackers._flat(settings).items()
