from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting_prior import CountingPrior
from PIL import Image
from ranks_together import launch

from benchmarks import __main__ as command
from benchmarks.truth import media, videos
from benchmarks.truth.domains import chosen_arms
from benchmarks.truth.media import Input
from benchmarks.truth.residuals import Guidance
from benchmarks.truth.run import run_truth
from benchmarks.truth.settings import TruthSettings
from benchmarks.truth.tuned import write_tuned
from benchmarks.truth.videos import VideoDomain
from csd_nerf import priors
from csd_nerf.evaluation.tables import Row


class InterruptedByTestError(Exception):
    pass


class FakeRuns:
    """Stands for the adapters: returns the source a little brighter, and stops after a while."""

    def __init__(self, stop_after: int = 99) -> None:
        self.calls: list[tuple[str, str]] = []
        self.stop_after = stop_after

    def __call__(self, given: Input, options: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        if len(self.calls) == self.stop_after:
            raise InterruptedByTestError
        self.calls.append((given.name, options.method))
        return (given.source01 + 0.05).clamp(0, 1), {"evaluations": 10 * len(options.method)}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "FRAMES", 2)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    runs = FakeRuns()
    monkeypatch.setattr(VideoDomain, "edit", runs)
    return runs


def settings(output: Path, **given: Any) -> TruthSettings:
    values = {"domain": "video", "split": "validation", "inputs": 1, "seeds": 1}
    values |= {"arms": ("csd", "ip2p")}
    return TruthSettings(output=output, **{**values, **given})


def rows_of(output: Path) -> list[Row]:
    return json.loads((output / "results.json").read_text())["rows"]


def test_an_interrupted_benchmark_goes_on_where_it_stopped(tmp_path, runs):
    runs.stop_after = 3
    with pytest.raises(InterruptedByTestError):
        run_truth(settings(tmp_path / "a", inputs=2))
    runs.stop_after = 99
    text = run_truth(settings(tmp_path / "a", inputs=2))
    assert runs.calls == [
        (name, method)
        for name in ("00 black and white", "01 floor wood")
        for method in ("csd", "ip2p")
    ]
    run_truth(settings(tmp_path / "b", inputs=2))

    def results(folder: str) -> list[Row]:
        rows = rows_of(tmp_path / folder)
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    assert results("a") == results("b")
    assert len(results("a")) == 2 * 4
    assert (tmp_path / "a" / "table.md").read_text().strip() == text.strip()
    # Source, autoencoder, csd, ip2p and truth, twice enlarged; first and last frame of two inputs.
    assert Image.open(tmp_path / "a" / "sheet.png").size == (5 * 128, 18 + 4 * 128)


def test_ranks_share_the_inputs_and_rank_0_reports_all(tmp_path, runs):
    def share() -> tuple[str, list[tuple[str, str]]]:
        text = run_truth(settings(tmp_path / "shared", inputs=3))
        return text, runs.calls

    (first, (told, mine)), (second, (silent, others)) = launch(2, share)
    assert (first, second, silent) == ("returned", "returned", "")
    assert {name[:2] for name, _ in mine} == {"00", "02"}
    assert {name[:2] for name, _ in others} == {"01"}
    assert told == run_truth(settings(tmp_path / "alone", inputs=3))
    assert len(runs.calls) == len(mine) + len(others) == 6


@pytest.mark.parametrize("words", ["truth video --tune", "scaling", "tables RECORD"])
def test_what_ranks_do_not_share_is_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    output = [] if words.startswith("tables") else ["--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="1"):
        command.main([*words.split(), *output])
    told = capsys.readouterr().err
    assert "torchrun shares the inputs of truth" in told
    assert "leave torchrun out" in told
    assert not (tmp_path / "out").exists()


def test_the_measures_of_a_row_are_those_of_its_pictures(tmp_path, runs):
    run_truth(settings(tmp_path, arms=("csd",)))
    values = {row["arm"]: row for row in rows_of(tmp_path)}

    def pictures(name: str, kind: str = "edited") -> np.ndarray:
        folder = tmp_path / "trials" / values[name]["trial"] / kind
        return np.stack([np.asarray(Image.open(p)) / 255.0 for p in sorted(folder.glob("*.png"))])

    source, truth, edited = pictures("source"), pictures("csd", "truth"), pictures("csd")
    mse = ((edited - truth) ** 2).mean(axis=(1, 2, 3))
    assert values["csd"]["psnr"] == pytest.approx((-10 * np.log10(mse)).mean(), abs=0.1)
    change = {name: p[1] - p[0] for name, p in zip("ste", (source, truth, edited), strict=True)}
    assert values["csd"]["flicker"] == pytest.approx(
        np.abs(change["e"] - change["t"]).mean(), abs=2e-3
    )
    assert values["source"]["extra_change"] == pytest.approx(0, abs=1e-9)
    extra = np.abs(change["t"]).mean() - np.abs(change["s"]).mean()
    assert values["autoencoder"]["extra_change"] == pytest.approx(extra, abs=0.01)
    assert values["csd"]["evaluations"] == 30
    assert values["autoencoder"]["psnr"] > values["source"]["psnr"] + 10


def test_more_inputs_and_arms_are_added_to_a_folder(tmp_path, runs):
    run_truth(settings(tmp_path, arms=("sds",)))
    run_truth(settings(tmp_path, inputs=2, arms=("csd", "sds")))
    assert sorted(runs.calls) == [
        (name, method)
        for name in ("00 black and white", "01 floor wood")
        for method in ("csd", "sds")
    ]


@pytest.mark.parametrize("change", [{"split": "benchmark"}, {"text_scale": 9.0}, {"updates": 3}])
def test_results_of_other_inputs_or_options_are_not_reported(tmp_path, runs, change):
    run_truth(settings(tmp_path, arms=("sds",)))
    before = rows_of(tmp_path)
    run_truth(settings(tmp_path, arms=("sds",), **change))
    assert len(runs.calls) == 2
    assert {row["trial"] for row in rows_of(tmp_path) if row["arm"] == "sds"}.isdisjoint(
        row["trial"] for row in before
    )
    run_truth(settings(tmp_path, arms=("sds",)))
    assert len(runs.calls) == 2
    assert rows_of(tmp_path) == before


def test_results_of_other_weights_are_not_reported(tmp_path, runs, monkeypatch):
    run_truth(settings(tmp_path, arms=("sds",)))
    monkeypatch.setattr("benchmarks.truth.run.weights_digest", lambda name: "retrained")
    run_truth(settings(tmp_path, arms=("sds",)))
    assert len(runs.calls) == 2


def test_seeds_and_budgets_add_rows_and_budgets_make_curves(tmp_path, runs):
    run_truth(settings(tmp_path))
    text = run_truth(settings(tmp_path, seeds=2, budgets=(1.0, 0.5)))
    assert len(runs.calls) == 2 + 2 * 2, "One seed at the second budget, and nothing twice."
    rows = rows_of(tmp_path)
    jobs = [(row["arm"], row["budget"], row["seed"]) for row in rows if row["arm"] == "ip2p"]
    assert jobs == [("ip2p", 1.0, 0), ("ip2p", 1.0, 1), ("ip2p", 0.5, 0)]
    assert "| csd | 2 |" in text
    assert "| source | 1 |" in text
    assert (tmp_path / "rows.csv").read_text().count("\n") == 1 + len(rows)
    assert "toprule" in (tmp_path / "table.tex").read_text()
    for name in ("cost_psnr.png", "cost_flicker.png"):
        assert Image.open(tmp_path / name).width > 300


def test_differences_are_taken_to_the_baseline_of_equal_input_and_seed(tmp_path, monkeypatch):
    """The second arm is a little nearer to the truth of every input, far apart as they are."""
    gains = iter([0.01, 0.03])

    def edit(given: Input, options: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        gain = 0.0 if options.method == "csd" else next(gains)
        off = 0.2 if given.name.startswith("00") else 0.05
        return (given.truth01 - off + gain).clamp(0, 1), {"evaluations": 1}

    monkeypatch.setattr(VideoDomain, "edit", staticmethod(edit))
    text = run_truth(settings(tmp_path, inputs=2, baseline="csd"))
    psnr = {(row["arm"], row["input"]): row["psnr"] for row in rows_of(tmp_path)}
    names = ("00 black and white", "01 floor wood")
    gained = np.array([psnr["ip2p", name] - psnr["csd", name] for name in names])
    error = gained.std(ddof=1) / 2**0.5
    line = next(
        line for line in text.splitlines() if line.startswith("| ip2p | 2 | 2 | ") and "+" in line
    )
    told = line.split(" | ")[3].replace("**", "")
    assert told == f"{gained.mean():+.2f} ± {error:.2f}"
    assert "| minus csd | inputs | pairs | PSNR, dB ↑ |" in text


@pytest.mark.parametrize("arm", ["csd", "sds", "ip2p"])
def test_half_a_budget_is_half_of_the_evaluations(tmp_path, monkeypatch, arm):
    prior = CountingPrior(priors.load("tiny"))
    monkeypatch.setattr(priors, "load", lambda name: prior)
    counted = {}
    for budget in (1.0, 0.5):
        prior.evaluations = 0
        run_truth(settings(tmp_path, arms=(arm,), budgets=(budget,), updates=6))
        (row,) = [row for row in rows_of(tmp_path) if row["arm"] == arm]
        counted[budget] = (prior.evaluations, row["evaluations"])
    (whole, told), (half, told_half) = counted[1.0], counted[0.5]
    assert whole > 0
    assert (half, told_half) == (whole / 2, told / 2)
    assert told == whole


def test_ablations_take_the_place_of_the_other_methods(tmp_path):
    usual, others = VideoDomain.arms, VideoDomain.ablations
    names = [arm.name for arm in chosen_arms(usual, others, (), ablate=True)]
    assert names == ["source", "autoencoder", "csd", *(arm.name for arm in others)]
    assert chosen_arms(usual, others, (), ablate=False) == usual
    named = chosen_arms(usual, others, ("csd-strong", "ip2p"), ablate=False)
    assert [arm.name for arm in named] == ["source", "autoencoder", "ip2p", "csd-strong"]


def test_ablations_tell_what_is_left_of_the_residuals_at_the_truth(tmp_path, runs, monkeypatch):
    asked = []

    def residuals(prior, source01, truth01, prompt, scales):
        asked.append((prompt, scales))
        return {"csd": {"bias_0.1": 0.25}, "sds": {"bias_0.1": 0.125}}

    monkeypatch.setattr(media, "residuals_at_truth", residuals)
    entry = {"split": "validation", "inputs": 1, "seeds": 1, "edits": ["fog"], "prior": "x"}
    write_tuned("video", "csd", {**entry, "options": {"text_scale": 1.25}})
    for _ in range(2):
        run_truth(settings(tmp_path, arms=(), ablations=True))
    scales = {"csd": Guidance(1.0, 1.25), "sds": Guidance(1.0, 1.0)}
    assert asked == [("make it black and white", scales)], "Each at the scales of its own arm."
    text = (tmp_path / "table.md").read_text()
    assert "\n| csd | 1 | 0.250 |" in text
    assert "\n| sds | 1 | 0.125 |" in text


def test_an_unknown_arm_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(priors, "load", lambda name: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"--arms needs some of source.*ip2p.*, got 'magic'"):
        run_truth(settings(tmp_path, arms=("csd", "magic")))
    with pytest.raises(ValueError, match=r"--baseline needs one of source.*, got 'magic'"):
        run_truth(settings(tmp_path, baseline="magic"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"domain": "statue"},
            r"must be one of scene, splat-scene, panorama, video, cost-video, .*, got statue",
        ),
        ({"inputs": 0}, "--inputs must be at least 1, got 0"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"budgets": (1.0, 0.0)}, r"--budgets must be positive numbers, got \(1.0, 0.0\)"),
    ],
)
def test_mistaken_settings_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **given)


def test_the_command_reads_the_settings_themselves(tmp_path, runs, capsys):
    words = f"truth video --output {tmp_path} --split validation --inputs 1 --seeds 1 --arms sds"
    command.main([*words.split(), "--updates", "3", "--text-scale", "2"])
    assert runs.calls == [("00 black and white", "sds")]
    asked = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert (asked["updates"], asked["text_scale"], asked["learning_rate"]) == (3, 2.0, None)
    assert "| sds | 1 |" in capsys.readouterr().out
