"""Kills runs at random moments, and gives malformed inputs to all commands.

`python tests/campaign.py --kills 100 --inputs 1000 --output campaign.json` prints what fell short
and writes the figures; it takes about half an hour of one core. `test_campaign.py` runs a few of
each. Both are seeded, except for the moments at which the machine comes to a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent / "methods" / "csd_edit"))

from campaign_children import Report
from campaign_inputs import malform
from campaign_kills import kill
from tint_prior import TintPrior

from csd_nerf import priors


def run(*, kills: int, inputs: int, seed: int) -> Report:
    """Run both parts with the bundled prior loaded once."""
    report = Report()
    tiny = priors.load("tiny")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for part, prior in (("kills", tiny), ("inputs", TintPrior())):
            (work / part).mkdir()
            plain, priors.load = priors.load, lambda *_, prior=prior, **__: prior
            try:
                if part == "kills" and kills:
                    kill(report, kills=kills, seed=seed, work=work / part)
                if part == "inputs" and inputs:
                    malform(report, inputs=inputs, seed=seed, work=work / part)
            finally:
                priors.load = plain
    return report


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    report = run(kills=asked.kills, inputs=asked.inputs, seed=asked.seed)
    for fault in report.faults:
        print(f"- {fault}")
    figures = {"tried": dict(report.tried), "faults": len(report.faults)}
    print(json.dumps(figures, indent=1))
    if asked.output:
        asked.output.write_text(json.dumps({**figures, "told": report.faults}, indent=1))
    return 1 if report.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
