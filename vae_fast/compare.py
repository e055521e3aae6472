"""Compare runs: a table of the settings in which they differ and of their results, also as CSV and as a page.

The page is one HTML file that needs no network; it has the loss curves, too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vae_fast.analysis.comparison import Comparison, compared
from vae_fast.analysis.recorded_runs import Say, opened
from vae_fast.artifacts import atomic
from vae_fast.cli import output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.errors import ConfigError, RunError
from vae_fast.reporting import comparison_table
from vae_fast.reporting.comparison_page import page


def compare(folders: Sequence[Path], sort: str | None = None, say: Say = lambda line: None) -> Comparison:
    """Read runs and set them side by side.

    Args:
        folders: run directories, and folders of them.
        sort: the column to sort by, one of `Comparison.columns`; None for the held-out loss after the last epoch.
        say: receives a line for each folder, file or line of a file that is left out.

    Raises RunError if no folder holds a run that can be shown, and ConfigError if no run has the column.
    """
    runs, faults = opened(folders, say)
    if not runs and len(faults) == 1:
        raise RunError(faults[0])
    for fault in faults:
        say(fault)
    if not runs:
        raise RunError(f"RUN: expected at least one run with records, got none in {len(folders)} folders")
    return compared(runs, sort)


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _run(_parser().parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    if chosen.csv is not None and chosen.csv == chosen.out:
        raise ConfigError(f"--csv: expected another file than --out, got {chosen.csv} for both")
    comparison = compare(chosen.runs, chosen.sort, lambda line: print(f"warning: {line}", file=sys.stderr))
    asked = ((chosen.csv, "--csv", comparison_table.as_csv), (chosen.out, "--out", page))
    files = [(output.file(path, flag), make) for path, flag, make in asked if path is not None]
    for path, make in files:  # before printing, whose reader may have seen enough, as `head` has
        atomic.replace(path, make(comparison).encode())
    notes = (f"note: {note}" for note in comparison.notes)
    print("\n".join((*comparison_table.lines(comparison), *notes, *(f"file  {path}" for path, _ in files))))


def _parser() -> run_arguments.Parser:
    prog = "python -m vae_fast.compare"
    parser = run_arguments.Parser(
        prog=prog,
        description=__doc__,
        epilog=f"example: {prog} runs --sort kl --out compare.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=run_arguments.path, help="run directories, and folders of them"
    )
    parser.add_argument(
        "--sort", metavar="COLUMN", help="a column of the CSV, lowest first (default: held_out_loss, of the last epoch)"
    )
    parser.add_argument("--csv", metavar="FILE", type=run_arguments.path, help="a file for the table as CSV")
    parser.add_argument("--out", metavar="FILE", type=run_arguments.path, help="a file for the page, as HTML")
    return parser


if __name__ == "__main__":
    sys.exit(main())
