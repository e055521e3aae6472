"""The likelihoods that the presets reach on test images, beside published ones, and the minutes that they take.

`python -m benchmarks.likelihoods PRESET --seed 0` trains a preset, estimates -log p(x) of the test images by its last
checkpoint with 5,000 importance samples each, and keeps settings, metrics and result in
results/likelihoods/PRESET-seedN/. Without a preset it prints the table of what is there. The same command continues
what was interrupted. Nothing is chosen by the test images, whose ELBO is recorded for the curve.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.reporting.tables import markdown
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.numbers import positive_number, whole_number
from vae_fast.config import Config, preset_names
from vae_fast.errors import RunError
from vae_fast.runtime.environment import cpu_name

KEPT = Path(__file__).parent / "results" / "likelihoods"
PUBLISHED = {  # nats per image, by preset
    "dynamic": "84.45 (gated 300-300-40, Norouzi et al. 2020), 84.78 (parmesan)",
}
CURVE = 8  # the most points of a curve


def reach(preset: str, seed: int, run: Path, samples: int) -> Path:
    """Train, evaluate, and return the folder in which the result is kept."""
    if (run / "config.toml").is_file():
        wished = Config.from_preset(preset, seed=seed, amp=True, compile=True)
        if Config.from_toml(run / "config.toml").recorded() != wished.recorded():
            raise RunError(f"--out: {run} holds another run than preset {preset} with seed {seed}; take another --out")
        _command("train", "--resume", str(run))
    else:
        _command("train", "--preset", preset, "--seed", str(seed), "--amp", "--compile", "--out", str(run))
    file = run / "evaluation.json"
    _command("evaluate", str(run), "--iw", str(samples), "--seed", "0", "--out", str(file))
    kept = KEPT / f"{preset}-seed{seed}"
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("config.toml", "metrics.jsonl"):
        shutil.copy(run / name, kept / name)
    evaluation = json.loads(file.read_bytes())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    result = {
        "preset": preset,
        "seed": seed,
        "machine": cpu_name(),
        "minutes": sum(record["seconds"] for record in records) / 60,
        "epochs": len(records),
        "evaluation": {key: evaluation[key] for key in ("loss", "nll", "kl", "active_units", "importance_weighted")},
        "curve": list(_curve(records)),
    }
    (kept / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return kept


def _command(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"vae_fast.{name}", *arguments], check=True)


def _curve(records: Sequence[dict[str, Any]]) -> Iterator[tuple[float, float]]:
    """Yield minutes of training and the test loss then, evenly over the evaluated epochs, ending with the last."""
    minutes = [seconds / 60 for seconds in accumulate(record["seconds"] for record in records)]
    points = [(at, r["test_loss"]) for at, r in zip(minutes, records, strict=True) if r["test_loss"] is not None]
    stride = max(1, -(-len(points) // CURVE))
    for at, loss in points[::-1][::stride][::-1]:
        yield round(at, 2), round(loss, 2)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return a table of results."""
    head = ["preset", "seed", "-log p(x)", "test ELBO", "published", "minutes", "test ELBO by minutes"]
    rows = []
    for each in results:
        estimate = each["evaluation"]["importance_weighted"]
        curve = ", ".join(f"{loss:.2f} ({at:.0f})" for at, loss in each["curve"])
        likelihood = f"**{estimate['nll']:.2f}** +- {estimate['standard_error']:.2f}"
        rows.append(
            [
                each["preset"],
                str(each["seed"]),
                likelihood,
                f"{each['evaluation']['loss']:.2f}",
                PUBLISHED.get(each["preset"], ""),
                f"{each['minutes']:.0f}",
                curve,
            ]
        )
    return "\n".join(markdown(head, rows, 1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.likelihoods", description=__doc__)
    parser.add_argument("preset", nargs="?", choices=preset_names(), help="default: print the table")
    parser.add_argument("--seed", type=whole_number, default=0, help="default: 0")
    parser.add_argument("--out", type=Path, help="the run directory; default: runs/PRESET-seedN")
    parser.add_argument("--iw", type=positive_number, default=5000, help="importance samples; default: 5000")
    chosen = parser.parse_args(arguments)
    if chosen.preset is not None:
        run = chosen.out or Path("runs") / f"{chosen.preset}-seed{chosen.seed}"
        print(f"kept in {reach(chosen.preset, chosen.seed, run, chosen.iw)}")
    print(table([json.loads(file.read_bytes()) for file in sorted(KEPT.glob("*/result.json"))]))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
