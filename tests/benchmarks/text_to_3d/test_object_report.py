from __future__ import annotations

import csv
import math
import re
from typing import Any

import pytest

from benchmarks.text_to_3d.report import MEASURES, as_csv, markdown


def row(prompt: str, arm: str, seed: int, **values: Any) -> dict[str, Any]:
    return {"prompt": prompt, "arm": arm, "seed": seed, "failure": None, **values}


ROWS = [
    row("a red cube", "csd", 0, overlap=0.9, colour_distance=0.1),
    row("a red cube", "csd", 1, overlap=0.7, colour_distance=0.3),
    row("a red cube", "sds", 0, overlap=0.5, colour_distance=0.2),
    row("a red cube", "sds", 1) | {"failure": "The object has vanished by step 60."},
    row("a corgi", "csd", 0),
    row("a corgi", "csd", 1) | {"failure": "Renders need to be finite."},
    row("a corgi", "sds", 0),
    row("a corgi", "sds", 1),
]


def test_the_tables_show_means_deviations_and_failures():
    text = markdown(ROWS, MEASURES[:2])
    cube, corgi, both, paired, failures = re.split(r"(?m)^### ", text)[1:]
    assert "| method | runs | failures | silhouette overlap ↑ | colour distance ↓ |" in cube
    assert "| csd | 2 | 0 | 0.800 ± 0.141 | 0.200 ± 0.141 |" in cube
    assert "| sds | 2 | 1 | 0.500 | 0.200 |" in cube
    assert "| csd | 2 | 1 |  |  |" in corgi
    assert "| sds | 2 | 0 |  |  |" in corgi
    assert both.startswith("All prompts")
    # The first cubes alone have both: 0.5 - 0.9 and 0.2 - 0.1.
    assert "| minus csd | prompts | pairs | silhouette overlap ↑ | colour distance ↓ |" in paired
    assert "| sds | 1 | 1 | -0.400 | +0.100 |" in paired
    assert "| csd | 4 | 1 | 0.800 ± 0.141 |" in both
    assert "- a red cube, sds, seed 1: The object has vanished by step 60.\n" in failures
    assert "- a corgi, csd, seed 1: Renders need to be finite.\n" in failures


def test_bold_is_over_the_seeds_of_a_prompt_and_over_all_prompts():
    def made(*sds: float) -> list[str]:
        rows = [
            row("a cube" if index < 2 else "a ball", arm, index % 2, overlap=value)
            for index, lost in enumerate(sds)
            for arm, value in (("csd", 0.8), ("sds", 0.8 - lost))
        ]
        return re.split(r"(?m)^### ", markdown(rows, MEASURES[:1]))[1:]

    cube, ball, both, paired = made(0.2, 0.21, 0.2, -0.2)
    assert ["**0.800**" in text for text in (cube, ball, both)] == [True, False, False]
    # Over seeds 0.205 and 0: mean and standard error 0.1025.
    assert "| sds | 2 | 4 | -0.102 ± 0.102 |" in paired
    alone, paired = made(0.2, 0.21)
    assert "**0.800**" in alone
    assert "| minus csd | seeds | pairs |" in paired
    assert "| sds | 2 | 2 | -0.205 ± 0.005 |" in paired


def test_one_prompt_needs_no_table_of_all():
    text = markdown(ROWS[:3], MEASURES[:2])
    assert "All prompts" not in text
    assert "Failures" not in text


def test_the_csv_has_a_line_for_each_prompt_and_arm():
    lines = list(csv.DictReader(as_csv(ROWS, MEASURES[:2]).splitlines()))
    assert [(line["prompt"], line["arm"]) for line in lines] == [
        ("a red cube", "csd"),
        ("a red cube", "sds"),
        ("a corgi", "csd"),
        ("a corgi", "sds"),
    ]
    assert [line["failures"] for line in lines] == ["0", "1", "1", "0"]
    assert float(lines[0]["overlap"]) == pytest.approx(0.8)
    assert float(lines[0]["overlap_deviation"]) == pytest.approx(math.sqrt(0.02))
    assert (lines[1]["overlap"], lines[1]["overlap_deviation"]) == ("0.5", "")
    assert lines[3]["overlap"] == ""
