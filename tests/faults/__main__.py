"""Real faults: killed runs, full disks, failing calls, damaged checkpoints. python -m tests.faults

Prints the outcome of every kind and exits with 1 if anything went wrong. Not part of the tests: it takes minutes.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import calls, damage, disk, kills, library, results
from tests.faults.campaign import Campaign, Outcome

KINDS = {kind.KIND: kind for kind in (kills, calls, disk, damage)}
SIZES = {"kills": 50, "calls": 700}
MOST_PRINTED = 500  # characters of an error; --json has all of it


def main() -> int:
    chosen = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up, as after SIGINT
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="vae_fast-faults-", dir=chosen.folder))
    try:
        campaign = _campaign(chosen, folder)
        outcomes: list[Outcome] = []
        for name in chosen.kinds:
            print(f"{name}: {(KINDS[name].__doc__ or '').splitlines()[0]}", flush=True)
            for outcome in campaign.all(KINDS[name].cases(campaign)):
                outcomes.append(outcome)
                for line in outcome.wrong:
                    print(f"WRONG  {outcome.kind}, {outcome.case}: {line[:MOST_PRINTED]}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = results.summary(campaign, outcomes, time.monotonic() - began)
    print(results.table(found))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    if chosen.markdown:
        chosen.markdown.write_text(results.markdown(found))
    return 1 if found["wrong"] else 0


def _campaign(chosen: argparse.Namespace, folder: Path) -> Campaign:
    sizes = {name: getattr(chosen, name) for name in SIZES}
    try:
        built, why = library.build(folder), ""
    except RuntimeError as error:
        built, why = None, str(error)
    campaign = Campaign(
        folder, chosen.seed, built, chosen.jobs, sizes, can_mount=chosen.mount and disk.can_mount(folder)
    )
    if why:
        campaign.note("calls", f"skipped: {why}")
    return campaign


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time (default: the CPUs)")
    parser.add_argument("--kills", type=int, default=SIZES["kills"], metavar="N", help="runs that are killed")
    parser.add_argument("--calls", type=int, default=SIZES["calls"], metavar="N", help="(call, error) pairs")
    parser.add_argument("--no-mount", dest="mount", action="store_false", help="behave as if no tmpfs could be mounted")
    shared_memory = Path("/dev/shm")
    default = shared_memory if os.access(shared_memory, os.W_OK) else None
    parser.add_argument("--folder", type=Path, default=default, help="where it happens (default: in memory)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for the counts")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a file for the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
