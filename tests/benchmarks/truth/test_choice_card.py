from __future__ import annotations

import json

import pytest
import torch

from benchmarks.truth import choice_card
from benchmarks.truth.choice_card import Settings, examine, report, verdicts
from benchmarks.truth.exact_prior import ExactPrior
from benchmarks.worlds.choices import draw_choice_set
from csd_nerf.synthetic.edits import find_edit

PERFECT = {
    "agree": 0.5,
    "changed": 1.0,
    "distance": 0.2,
    "named_distance": 0.2,
    **dict.fromkeys(("psnr", "inside", "outside"), 25.0),
    **dict.fromkeys(("named_psnr", "named_inside", "named_outside"), 25.0),
}
ROWS = [{"kind": kind, **PERFECT} for kind in ("recolour", "floor")]


def failing(changes: dict[str, float], *, kind: str = "recolour") -> list[str]:
    """What is not met if the rows of a kind are changed."""
    rows = [{**row, **changes} if row["kind"] == kind else row for row in ROWS]
    return [text.split(":")[0] for text, met in verdicts(rows).items() if not met]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"agree": 0.7}, []),
        ({"agree": 0.71}, ["images disagree"]),
        ({"changed": 0.81}, []),
        ({"changed": 0.79}, ["images change"]),
        ({"distance": 0.39}, []),
        ({"distance": 0.41}, ["each is near an answer"]),
        ({"psnr": 24.1}, []),
        ({"psnr": 23.9}, ["the nearest answer is met"]),
        ({"inside": 24.4}, ["painting hits its object"]),
        ({"outside": 24.4}, ["painting leaves the rest"]),
        ({"outside": 24.6, "inside": 24.6}, []),
    ],
)
def test_each_criterion_has_its_limit(changes, expected):
    """Figures of one of two kinds: means move by half; painting is judged by itself."""
    assert failing(changes) == expected


def test_only_painting_is_judged_inside_and_outside():
    assert failing({"inside": 1.0, "outside": 1.0}, kind="floor") == []


def test_a_report_has_a_line_a_kind_and_a_criterion():
    text = report("validation", [*ROWS, {**ROWS[1], "agree": 1.0, "distance": None}])
    assert "| recolour | 1 | 50 |" in text
    assert "| floor | 2 | 75 ± 35 |" in text
    assert "FAIL  images disagree: 0.67 have" in text
    assert "pass  images change: 1.00" in text


class SamplingByName:
    """Stands for plain sampling: the true answer, a different one in the first image."""

    def __init__(self, given) -> None:
        self.given, self.noises, self.words = given, [], []

    def __call__(self, prior, image01, prompt, *, noise, steps, text_scale, image_scale):
        assert image01.equal(self.given.source01)
        assert (steps, text_scale, image_scale) == (4, 1.25, 1.0)
        self.noises.append(noise)
        self.words.append(prompt)
        if isinstance(prompt, str):
            picked = [1, *[2] * (len(image01) - 1)]
            return self.truths(picked) + 0.01
        names = [find_edit(words).name for words in prompt]
        return self.truths([self.given.answers.index(name) for name in names]) + 0.02

    def truths(self, picked):
        return self.given.truths01[picked, torch.arange(len(picked))]


def test_a_set_is_compared_with_the_same_answers_asked_by_name(monkeypatch):
    given = draw_choice_set("views", 1, "validation")
    fake = SamplingByName(given)
    monkeypatch.setattr(choice_card, "sample_edit", fake)

    settings = Settings(steps=4, text_scale=1.25, image_scale=1.0)
    row = examine(ExactPrior.of(given), given, settings, seed=3)
    assert fake.words[0] == given.choice.instructions[0]
    assert fake.noises[0].equal(fake.noises[1])
    assert fake.noises[0].shape == (6, 3, 16, 16)
    assert not fake.noises[0][0].equal(fake.noises[0][1]), "A noise each."
    assert row["agree"] == pytest.approx(5 / 6)
    assert row["changed"] == 1
    # The errors are 0.01 and 0.02 everywhere: 40 and 34 dB.
    for key in ("psnr", "inside", "outside"):
        assert row[key] == pytest.approx(40, abs=0.01)
        assert row[f"named_{key}"] == pytest.approx(33.98, abs=0.01)
    assert 0 < row["distance"] < row["named_distance"] < 0.2


def test_the_command_prints_both_splits_and_fails_if_a_criterion_does(
    monkeypatch, tmp_path, capsys
):
    asked = []

    def examine(prior, given, settings, *, seed):
        asked.append((given, seed))
        return {"kind": "floor" if seed else "recolour", **PERFECT, "changed": 0.5}

    monkeypatch.setattr(choice_card, "examine", examine)
    monkeypatch.setattr(choice_card, "draw_choice_set", lambda *place: place)
    settings = Settings(sets=2, output=tmp_path / "rows.json")
    with pytest.raises(SystemExit, match="1"):
        choice_card.main(settings)
    places = [(m, n, s) for s in settings.splits for n in (0, 1) for m in ("views", "video")]
    assert asked == [(place, seed) for place in places for seed in (0, 1)]
    text = capsys.readouterr().out
    assert text.index("validation") < text.index("benchmark")
    assert text.count("FAIL  images change: 0.50") == 2
    assert len(json.loads(settings.output.read_text())["benchmark"]) == 8
    monkeypatch.setattr(choice_card, "examine", lambda *_, seed: {"kind": "recolour", **PERFECT})
    choice_card.main(Settings(sets=1))
