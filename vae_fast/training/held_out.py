"""The evaluations of a run in progress, on its validation and test images."""

from collections.abc import Mapping

from torch import Tensor

from vae_fast.artifacts import strict_json
from vae_fast.config import Config
from vae_fast.data.images import Pixels
from vae_fast.errors import ContactLost, RunError, first_line
from vae_fast.models.vae import VAE
from vae_fast.runtime.distributed import ProcessGroup
from vae_fast.runtime.printer import Printer
from vae_fast.training import cuda_graphs
from vae_fast.training.validation import Validation


class HeldOut:
    """The evaluations by the names that they have in the metrics, "valid" and "test".

    Args:
        model: the VAE.
        images: [N, D] by name.
        labels: int64 [N] by name, if the model has classes.
        config, group, printer: those of the run.
    """

    def __init__(
        self,
        model: VAE,
        images: Mapping[str, Pixels],
        labels: Mapping[str, Tensor],
        config: Config,
        group: ProcessGroup,
        printer: Printer,
    ) -> None:
        self._model, self._images, self._labels = model, images, labels
        self._config, self._group, self._printer = config, group, printer
        self._evaluations: dict[str, Validation] = {}

    def record(self, *, is_wanted: bool) -> None:
        """Record the evaluations as graphs if that is wanted; run them eagerly if it fails and was not requested."""
        capture = cuda_graphs.capture if is_wanted else None
        try:
            self._evaluations = self._group.on_all_ranks(self._new, capture)
        except RuntimeError as error:
            if capture is None or isinstance(error, ContactLost):
                raise
            if self._config.cuda_graphs == "on":
                raise RunError(f"--cuda-graphs on: recording the evaluation failed: {first_line(error)}") from error
            self._printer.line(f"evaluation is not recorded: {first_line(error)}")
            self._evaluations = self._new(None)

    def _new(self, capture: cuda_graphs.Capture | None) -> dict[str, Validation]:
        return {
            name: Validation(self._model, images, self._config.seed, capture, self._group, self._labels.get(name))
            for name, images in self._images.items()
        }

    def nothing(self) -> dict[str, float | None]:
        """Return None for everything that `evaluate` returns."""
        names = dict.fromkeys(("test", *self._images))
        return {f"{name}_{key}": None for name in names for key in ("loss", "nll", "kl")}

    def evaluate(self) -> dict[str, float | None]:
        """Return test_* (None if there are no test images) and, with --valid, valid_*."""
        record = self.nothing()
        for name, evaluate in self._evaluations.items():
            for key, value in evaluate().items():
                record[f"{name}_{key}"] = value
        finite: dict[str, float | None] = strict_json.finite(record)
        return finite
