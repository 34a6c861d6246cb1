from __future__ import annotations

import itertools
import math
import random

import pytest

from csd_nerf.evaluation.paired import paired_difference

PSNR = {
    "csd": {("a", 0): 20.0, ("a", 1): 21.0, ("b", 0): 31.0, ("c", 0): 5.0},
    "sds": {("a", 0): 19.0, ("a", 1): 20.5, ("b", 0): 28.0},
}
ROWS = [
    {"arm": arm, "input": name, "seed": seed, "psnr": value}
    for arm, values in PSNR.items()
    for (name, seed), value in values.items()
]
ROWS += [{"arm": "csd", "input": "d", "seed": 0}, {"arm": "sds", "input": "d", "seed": 0}]
ROWS += [{"arm": "ip2p", "input": "b", "seed": 0, "psnr": 30.0}]
ROWS += [{"arm": "source", "input": "z", "seed": 0, "psnr": 30.0}]


def test_differences_are_those_of_the_pairs_that_both_have():
    found = paired_difference(ROWS, "csd", "sds", "psnr")
    assert found is not None
    # The input a has 1 and 0.5 over its seeds, b has 3.
    assert (found.inputs, found.pairs) == (2, 3)
    assert found.mean == pytest.approx((0.75 + 3) / 2)
    assert found.error == pytest.approx((3 - 0.75) / 2)
    back = paired_difference(ROWS[::-1], "sds", "csd", "psnr")
    assert back is not None
    assert (back.mean, back.error) == pytest.approx((-found.mean, found.error))


def test_the_error_is_over_the_inputs_whatever_the_number_of_seeds():
    """By the definition, an input at a time; seeds of one input have its effect in common."""
    draw = random.Random(0)
    effect = {name: draw.gauss(0.5, 1) for name in "abcdef"}
    rows, seeds = [], range(5)
    for name, seed in itertools.product(effect, seeds):
        before = draw.gauss(25, 4)
        after = before + effect[name] + draw.gauss(0, 0.1)
        rows += [{"arm": "b", "input": name, "seed": seed, "psnr": before}]
        rows += [{"arm": "a", "input": name, "seed": seed, "psnr": after}]
    values = {(row["arm"], row["input"], row["seed"]): row["psnr"] for row in rows}
    means = []
    for name in effect:
        total = 0.0
        for seed in seeds:
            total += values["a", name, seed] - values["b", name, seed]
        means.append(total / 5)
    mean = sum(means) / 6
    error = math.sqrt(sum((one - mean) ** 2 for one in means) / 5 / 6)
    found = paired_difference(rows, "a", "b", "psnr")
    assert found is not None
    assert (found.mean, found.error) == pytest.approx((mean, error))
    once = paired_difference([row for row in rows if row["seed"] == 0], "a", "b", "psnr")
    assert once is not None
    assert once.error is not None
    # As independent inputs the 30 pairs would have an error of less than half.
    assert found.error == pytest.approx(once.error, rel=0.2)


def test_the_unit_can_have_another_name():
    rows = [{"arm": a, "prompt": p, "psnr": v} for a, p, v in [("a", 1, 2.0), ("b", 1, 1.5)]]
    found = paired_difference(rows, "a", "b", "psnr", unit="prompt")
    assert found is not None
    assert (found.mean, found.error, found.inputs) == (0.5, None, 1)
    assert paired_difference(rows, "a", "b", "psnr") is None, "They name no input."


def test_one_pair_has_no_error_and_none_no_difference():
    alone = paired_difference(ROWS, "ip2p", "sds", "psnr")
    assert alone is not None
    assert (alone.mean, alone.error, alone.pairs) == (2.0, None, 1)
    assert not alone.is_better("higher")
    assert paired_difference(ROWS, "source", "sds", "psnr") is None


def test_two_rows_of_one_pair_are_refused():
    with pytest.raises(ValueError, match="one row for each input and seed, got two of csd"):
        paired_difference([*ROWS, ROWS[0]], "csd", "sds", "psnr")


def test_better_is_meant_beyond_two_standard_errors():
    def found(*differences: float):
        rows = [
            {"arm": arm, "input": place, "x": value if arm == "a" else 0.0}
            for place, value in enumerate(differences)
            for arm in "ab"
        ]
        return paired_difference(rows, "a", "b", "x")

    # Mean 2, standard error 1 and a little less.
    equal, less = found(1.0, 3.0), found(1.02, 2.98)
    assert equal is not None
    assert less is not None
    assert not equal.is_better("higher")
    assert less.is_better("higher")
    assert not less.is_better("lower")
    assert not less.is_better(None)
