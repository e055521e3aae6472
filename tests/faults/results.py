"""The results of a campaign: counts by kind, as a table and as JSON."""

import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.faults.campaign import Campaign, Outcome


def summary(campaign: Campaign, outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """Collect everything worth keeping from a campaign."""
    counts = Counter((o.kind, o.group, o.ended) for o in outcomes)
    kinds = list(dict.fromkeys(o.kind for o in outcomes))
    rows = sorted(counts.items(), key=lambda row: (kinds.index(row[0][0]), row[0]))
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cpu": _cpu(),
        "system": platform.system(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "vae_fast")}},
        "seed": campaign.seed,
        "jobs": campaign.jobs,
        "seconds": round(seconds, 1),
        "notes": campaign.notes,
        "counts": [{"kind": k, "group": g, "ended": e, "cases": n} for (k, g, e), n in rows],
        "wrong": [{"kind": o.kind, "case": o.case, "lines": list(o.wrong)} for o in outcomes if o.wrong],
    }


def table(found: dict[str, Any]) -> str:
    """Format the results as a table in Markdown."""
    rows = [("kind", "what was done", "how it ended", "cases"), ("---", "---", "---", "---:")]
    rows += [(row["kind"], row["group"], row["ended"], str(row["cases"])) for row in found["counts"]]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines += ["", *(f"{kind}: {line}" for kind, notes in found["notes"].items() for line in notes)]
    lines += [f"{found['date']}, {found['cpu']}, {found['system']}, {versions}"]
    lines += [f"seed {found['seed']}, {found['jobs']} at a time, {found['seconds']:.0f} s, {len(found['wrong'])} wrong"]
    return "\n".join(lines)


PAGE = """# What faults did to runs

Faults that really happened; a row for each way in which commands ended. `make faults` writes this page to
`build/faults.md`, and `make faults ARGS=--help` lists the choices. A seed always selects the same faults.

{table}
"""


def markdown(found: dict[str, Any]) -> str:
    """Format the results as a page, which also says how to reproduce it."""
    return PAGE.format(table=table(found))


def _cpu() -> str:
    """Return the model name of the CPU, as far as the system reports it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
