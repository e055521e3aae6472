"""Images a second of the step as one CPU operator, by batch, in float32 and bfloat16; and what `--amp` chooses.

`python -m benchmarks.by_precision --help`. In every round both take turns, each over the same number of random images
in its own order. The table has the medians of the rounds and of their ratios, with quartiles, over rounds whose cores
were near each other (`cores`); 'cores apart' is the time from one to the other. With --out it also draws the chart
images-by-batch, as PNG and SVG.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import matplotlib as mpl
import torch
from matplotlib.axes import Axes

from benchmarks import cores
from benchmarks.contenders.network import D, Trainer, initial_model
from benchmarks.contenders.vae_fast_engine import build, config_of
from benchmarks.harness.rounds import Rounds, seconds
from benchmarks.reporting.chart_style import (
    BLUE,
    GREY,
    INK,
    LIGHT_BLUE,
    STYLE,
    Label,
    canvas,
    label_right,
    log_scale,
    save,
    short,
)
from benchmarks.reporting.results import Spread
from benchmarks.reporting.tables import markdown, number, spread
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.numbers import non_negative, positive_number
from vae_fast.errors import RunError
from vae_fast.kernels import bf16_loops, extension
from vae_fast.runtime.environment import cpu_name
from vae_fast.runtime.plan import make_plan

BATCHES = [1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
IMAGES, FEWEST_STEPS, MOST_STEPS = 16_384, 2, 400  # per turn


class Row(NamedTuple):
    batch: int
    rates: tuple[float, float]  # images a second in float32 and in bfloat16
    ratio: Spread
    apart: float | None  # nanoseconds
    taken: str  # the precision that `--amp` chooses


def measure(batch: int, pixels: torch.Tensor, rounds: int, patience: float) -> tuple[Row, float]:
    """Time one batch size; return its row and what is left of the patience."""
    steps = min(MOST_STEPS, max(FEWEST_STEPS, IMAGES // batch))
    trainers = [build(initial_model(), pixels, batch, precision, steps, step="fused") for precision in ("fp32", "bf16")]
    times = Rounds()
    for number_of_round in range(rounds + 1):
        patience = cores.wait(patience)
        before = cores.apart()
        fp32, bf16 = (_turn(trainer, steps, batch, len(pixels)) for trainer in trainers)
        after = cores.apart()
        if number_of_round > 0:  # the first warms up
            times.baseline.append(fp32)
            times.contender.append(bf16)
            times.apart.append(before and after and max(before, after))
    times = times.of_one_state()
    rates = (steps * batch / median(times.baseline), steps * batch / median(times.contender))
    apart = times.cores_apart
    taken = make_plan(config_of("cpu", batch, "fp32", step="fused", amp=True))[0].precision
    return Row(batch, rates, Spread(*times.ratio), apart[1] if apart else None, taken), patience


def _turn(train: Trainer, steps: int, batch: int, images: int) -> float:
    order = torch.randint(images, (steps, batch))
    return seconds(lambda: train(order), "cpu")


def table(rows: Sequence[Row]) -> list[str]:
    head = ["batch", "fp32, images/s", "bf16, images/s", "bf16 times as fast", "cores apart ns", "--amp takes"]
    return markdown(
        head,
        [
            [str(row.batch), *(f"{rate:,.0f}" for rate in row.rates), spread(row.ratio), number(row.apart), row.taken]
            for row in rows
        ],
        1,
    )


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the chart into an existing folder; return its paths."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        return save(_chart(rows), folder, "images-by-batch")


def _chart(rows: Sequence[Row]) -> Axes:
    batches = [row.batch for row in rows]
    rates = [rate for row in rows for rate in row.rates]
    heading = f"Images a second by batch: the step as one operator, {cpu_name()}, bf16 by {bf16_loops()[0]}"
    axes = canvas(
        heading,
        [("dashed: the first of these batches at which --amp takes bf16", INK)],
        4.2,
        ["1000 k"],
        ["bf16  000 k"],
    )
    log_scale(axes, "y", min(rates) / 1.3, max(rates) * 1.3)
    axes.set(xscale="log", xlim=(batches[0] / 1.15, batches[-1] * 1.12), xlabel="batch, images")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y")
    labels = []
    for which, (name, line, text) in enumerate((("fp32", LIGHT_BLUE, "#2b86b8"), ("bf16", BLUE, BLUE))):
        ys = [row.rates[which] for row in rows]
        axes.plot(batches, ys, color=line, marker="o", markersize=4, linewidth=2)
        labels.append(Label(batches[-1], ys[-1], f"{name}  {short(ys[-1], 3)}", text, bold=name == "bf16"))
    first = next((row.batch for row in rows if row.taken == "bf16"), None)
    if first is not None:
        axes.axvline(first, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    label_right(axes, labels)
    return axes


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.by_precision", description=__doc__)
    parser.add_argument("--batch", type=positive_number, nargs="+", default=BATCHES, help="images per step")
    parser.add_argument("--rounds", type=positive_number, default=15, help="rounds to take medians of; default: 15")
    parser.add_argument("--patience", type=non_negative, default=0.0, help="total seconds to wait for near cores")
    parser.add_argument("--out", type=Path, help="the chart's folder")
    settings = parser.parse_args(arguments)
    if not extension.load():
        raise RunError(extension.status())
    if settings.out:
        settings.out.mkdir(parents=True, exist_ok=True)  # before the work starts
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2 * max(settings.batch), D), dtype=torch.uint8)
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, bf16 by {bf16_loops()[0]}\n")
    rows, patience = [], settings.patience
    for batch in sorted(settings.batch):
        row, patience = measure(batch, pixels, settings.rounds, patience)
        rows.append(row)
    print("\n".join(table(rows)))
    for path in draw(rows, settings.out) if settings.out else []:
        print(path)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
