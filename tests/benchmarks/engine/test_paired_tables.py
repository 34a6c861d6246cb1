from __future__ import annotations

import numpy as np
import pytest

from benchmarks.engine.tables import paired_difference, paired_markdown
from csd_nerf.evaluation.tables import Column

PSNR = {
    "csd": {("a", 0): 20.0, ("a", 1): 21.0, ("b", 0): 31.0, ("c", 0): 5.0},
    "sds": {("a", 0): 19.0, ("a", 1): 20.5, ("b", 0): 28.0},
}
ROWS = [
    {"arm": arm, "input": name, "seed": seed, "psnr": value, "flicker": value / 1000}
    for arm, values in PSNR.items()
    for (name, seed), value in values.items()
]
ROWS += [{"arm": "csd", "input": "d", "seed": 0}, {"arm": "sds", "input": "d", "seed": 0}]
ROWS += [{"arm": "ip2p", "input": "b", "seed": 0, "psnr": 30.0}]
ROWS += [{"arm": "source", "input": "z", "seed": 0, "psnr": 30.0}]


def test_differences_are_those_of_the_pairs_that_both_have():
    found = paired_difference(ROWS, "csd", "sds", "psnr")
    differences = np.array([1.0, 0.5, 3.0])
    assert found is not None
    assert found.pairs == 3
    assert found.mean == pytest.approx(differences.mean())
    assert found.error == pytest.approx(differences.std(ddof=1) / np.sqrt(3))
    back = paired_difference(ROWS[::-1], "sds", "csd", "psnr")
    assert back is not None
    assert (back.mean, back.error) == pytest.approx((-found.mean, found.error))


def test_one_pair_has_no_error_and_none_no_difference():
    alone = paired_difference(ROWS, "ip2p", "sds", "psnr")
    assert alone is not None
    assert (alone.mean, alone.error, alone.pairs) == (2.0, None, 1)
    assert paired_difference(ROWS, "source", "sds", "psnr") is None


def test_two_rows_of_one_pair_are_refused():
    with pytest.raises(ValueError, match="one row each, got two of csd"):
        paired_difference([*ROWS, ROWS[0]], "csd", "sds", "psnr")


def test_the_table_shows_signs_errors_and_what_is_sure():
    columns = (
        Column("psnr", "PSNR, dB", digits=2, better="higher"),
        Column("flicker", "flicker, 1/1000", 1000, 2, better="lower"),
    )
    rows = [row for row in ROWS if row["input"] != "b" or row["arm"] == "ip2p"]
    lines = paired_markdown(rows, ["source", "csd", "sds"], columns, baseline="sds").splitlines()
    assert lines[0] == "| minus sds | pairs | PSNR, dB ↑ | flicker, 1/1000 ↓ |"
    # 1 and 0.5: mean 0.75, standard error 0.25; more of a measure that should be low isn't bold.
    assert lines[2:] == ["| csd | 2 | **+0.75** ± 0.25 | +0.75 ± 0.25 |"]
    (line,) = paired_markdown(rows, ["sds"], columns, baseline="csd").splitlines()[2:]
    assert line == "| sds | 2 | -0.75 ± 0.25 | **-0.75** ± 0.25 |"
    assert paired_markdown(rows, ["source"], columns, baseline="sds") == ""
