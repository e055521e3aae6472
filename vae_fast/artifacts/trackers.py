"""Where a run's records and pictures go besides metrics.jsonl and pictures/: TensorBoard, Weights & Biases or MLflow.

--log names one of them. The names and values are those of metrics.jsonl, by epoch; the settings are the parameters.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from vae_fast.artifacts import atomic, strict_json
from vae_fast.config import Config
from vae_fast.errors import RunError, first_line

PROJECT = "vae_fast"  # the project or experiment, unless the tracker's own environment variable names another
RUNS = "trackers.json"  # in a run's directory: the tracker's run, by --log, so that a resume continues it
MOST_FAILURES = 3  # in a row


class Tracker(Protocol):
    """The part that is a tracker's own. Any of its methods may raise."""

    def begin(self, epoch: int) -> str:
        """Begin after `epoch` epochs, 0 for a new run; return where to look, or nothing."""

    def epoch(self, record: Mapping[str, float]) -> None:
        """Log a record of metrics.jsonl, without its null values."""

    def pictures(self, files: Sequence[Path], epoch: int) -> None:
        """Log PNG files."""

    def end(self, error: type[BaseException] | None) -> None:
        """End, with the error that ended the run, if one did."""


class Tracking:
    """What a run tells its tracker, if it has one; as a context manager, it ends with the run.

    Whatever a tracker raises becomes a warning, and never ends the run. One that cannot begin, or fails several times
    in a row, is told nothing more.
    """

    def __init__(self, log: str, tracker: Tracker | None, say: Callable[[str], None]) -> None:
        self._log, self._tracker, self._say, self._failures = log, tracker, say, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._tracker is not None:
            self._told("the end of the run", partial(self._tracker.end, error))

    def begin(self, epoch: int) -> None:
        if self._tracker is not None:
            where = self._told("the run", partial(self._tracker.begin, epoch))
            if self._failures:
                self._give_up()
            elif where:
                self._say(f"log: {self._log}, {where}")

    def epoch(self, record: Mapping[str, float | None]) -> None:
        if self._tracker is not None:
            known = {name: value for name, value in record.items() if value is not None}
            self._told(f"epoch {record['epoch']}", partial(self._tracker.epoch, known))

    def pictures(self, files: Sequence[Path], epoch: int) -> None:
        if self._tracker is not None:
            self._told("the pictures", partial(self._tracker.pictures, files, epoch))

    def _told(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            result = call()
        except Exception as error:
            self._failures += 1
            self._say(f"warning: --log {self._log}: {what} could not be logged: {first_line(error)}")
            if self._failures == MOST_FAILURES:
                self._give_up()
            return None
        self._failures = 0
        return result

    def _give_up(self) -> None:
        self._tracker = None
        self._say(f"warning: --log {self._log}: the run goes on without it; metrics.jsonl has all records")


class TensorBoard:
    """A writer of event files in RUN/tensorboard/. Scalars of epochs that an earlier attempt lost no longer count."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = str(folder / "tensorboard")
        self._purge_step: int | None = None

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._folder, purge_step=self._purge_step)

    def begin(self, epoch: int) -> str:
        self._purge_step = epoch + 1 if epoch else None
        return ""

    def epoch(self, record: Mapping[str, float]) -> None:
        for name, value in record.items():
            part, _, quantity = name.partition("_")
            if name not in ("epoch", "step"):
                tag = f"{quantity}/{part}" if part in ("train", "valid", "test") else name
                self._writer.add_scalar(tag, value, record["epoch"])
        self._writer.flush()

    def pictures(self, files: Sequence[Path], epoch: int) -> None:
        import numpy as np
        from PIL import Image

        for file in files:
            with Image.open(file) as picture:
                self._writer.add_image(file.stem, np.asarray(picture.convert("RGB")), epoch, dataformats="HWC")

    def end(self, error: type[BaseException] | None) -> None:
        if "_writer" in vars(self):  # else there was nothing to write
            self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, with its files in RUN/wandb/. WANDB_MODE, WANDB_PROJECT and the rest are obeyed."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._settings = folder, dict(settings)
        self._run: Any = None

    def begin(self, epoch: int) -> str:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self._folder.absolute().name,
            dir=str(self._folder),
            id=_known_run(self._folder, "wandb"),
            resume="allow",
            reinit="create_new",  # a program that calls `fit` may have a run of its own
            settings=wandb.Settings(silent=True, console="off"),
        )
        _keep_run(self._folder, "wandb", self._run.id)
        self._run.config.update(self._settings, allow_val_change=True)
        self._run.define_metric("*", step_metric="epoch")
        files = Path(self._run.dir).parent
        return f"offline; wandb sync {files} uploads it" if self._run.offline else str(self._run.url)

    def epoch(self, record: Mapping[str, float]) -> None:
        self._run.log(dict(record))

    def pictures(self, files: Sequence[Path], epoch: int) -> None:
        import wandb

        self._run.log({"epoch": epoch, **{file.stem: wandb.Image(str(file)) for file in files}})

    def end(self, error: type[BaseException] | None) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)


class MLflow:
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names, or its default in the working directory."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._settings = folder, dict(_flat(settings))
        self._client: Any = None
        self._id = ""

    def begin(self, epoch: int) -> str:
        # Its own, 7 and two minutes each, would hold up the run for a quarter of an hour.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        for name in ("alembic", "mlflow.store.db.utils"):  # they report every table of a new store
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        self._client = client = MlflowClient()
        run = self._continued() or self._new()
        self._id = run.info.run_id
        _keep_run(self._folder, "mlflow", self._id)
        known = run.data.params
        new = [Param(name, value) for name, value in self._settings.items() if name not in known]
        # A parameter cannot change, so a tag says what a resume has changed.
        changed = [RunTag(f"resumed.{k}", v) for k, v in self._settings.items() if known.get(k, v) != v]
        client.log_batch(self._id, params=new, tags=changed)
        return f"run {run.info.run_name} in {client.tracking_uri}"

    def epoch(self, record: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now, epoch = int(time.time() * 1000), int(record["epoch"])
        metrics = [Metric(name, float(value), now, epoch) for name, value in record.items() if name != "epoch"]
        self._client.log_batch(self._id, metrics=metrics)

    def pictures(self, files: Sequence[Path], epoch: int) -> None:
        for file in files:
            self._client.log_artifact(self._id, str(file), "pictures")

    def end(self, error: type[BaseException] | None) -> None:
        if self._id:
            stopped = error is not None and issubclass(error, KeyboardInterrupt)
            self._client.set_terminated(self._id, "FINISHED" if error is None else "KILLED" if stopped else "FAILED")

    def _continued(self) -> Any:
        """Return the run that an earlier attempt began, running again; None if there is none in this store."""
        from mlflow.exceptions import MlflowException

        known = _known_run(self._folder, "mlflow")
        if known is None:
            return None
        try:
            run = self._client.get_run(known)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(known, status="RUNNING")
        return run

    def _new(self) -> Any:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        return self._client.create_run(experiment, run_name=self._folder.absolute().name)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def tracking(config: Config, folder: Path, say: Callable[[str], None], is_rank0: bool = True) -> Tracking:
    """Return the tracking that `--log` names, which begins later; of several processes only the first one tracks.

    folder: the run's directory. say: receives a line that says where to look, and warnings.

    Raises RunError if the tracker's package is missing.
    """
    if config.log == "none" or not is_rank0:
        return Tracking(config.log, None, say)
    found = find_spec(config.log)
    if found is None or found.origin is None:  # the latter is a folder of that name, such as wandb/
        raise RunError(f"--log {config.log}: it is not installed: pip install 'vae_fast[{config.log}]'")
    return Tracking(config.log, TRACKERS[config.log](folder, config.recorded()), say)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return settings as MLflow takes parameters: text, with a table's keys after its name."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": str(value)}
    return flat


def _known_runs(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(atomic.read(folder / RUNS))
    except (OSError, ValueError):  # there are none, or none that could be continued
        return {}
    return found if isinstance(found, dict) else {}


def _known_run(folder: Path, log: str) -> str | None:
    found = _known_runs(folder).get(log)
    return found if isinstance(found, str) else None


def _keep_run(folder: Path, log: str, run: str) -> None:
    atomic.replace(folder / RUNS, strict_json.dumps({**_known_runs(folder), log: run}, indent=1).encode())
