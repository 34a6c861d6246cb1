"""A few kills and malformed inputs of every kind; `campaign.py` tries as many as asked."""

from __future__ import annotations

import campaign
from campaign_inputs import CASES


def test_killed_runs_go_on_to_the_same_and_malformed_inputs_end_in_one_line():
    report = campaign.run(kills=4, inputs=2 * len(CASES), seed=1)
    assert report.faults == []
    assert report.tried["malformed inputs"] == 2 * len(CASES)
    assert all(report.tried[f"kills, {name}"] for name in ("panorama", "film", "frames", "scene"))
