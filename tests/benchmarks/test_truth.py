from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.truth import arms
from benchmarks.truth.arms import (
    ABLATIONS,
    ARMS,
    Input,
    MediaDomain,
    Medium,
    arm_options,
    draw_input,
    measure_panorama,
    run_arm,
)
from benchmarks.truth.domains import Arm, Job, chosen_arms
from benchmarks.truth.run import BenchmarkSettings, run_benchmark
from csd_nerf import priors
from csd_nerf.adapters.options import PanoramaOptions
from csd_nerf.synthetic.edits import all_edits
from csd_nerf.synthetic.looks import LOOKS


@pytest.fixture(scope="module")
def prior():
    return priors.load("tiny")


def arm_of(medium: Medium, name: str) -> Arm:
    return next(arm for arm in (*ARMS[medium], *ABLATIONS[medium]) if arm.name == name)


def small_input(frames: int) -> Input:
    """Noise and its negative."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(256, (frames, 64, 64, 3), generator=generator, dtype=torch.uint8)
    truth01 = 1 - source.permute(0, 3, 1, 2).float() / 255
    return Input("noise", all_edits()["negative"], source, truth01)


@pytest.mark.parametrize("medium", ["panorama", "video"])
def test_inputs_are_rendered_with_their_true_edit(medium):
    look = draw_input(medium, 0, "validation")
    assert look.edit.kind == "look"
    expected = LOOKS[look.edit.name](look.source01)
    assert (look.truth01 - expected).abs().amax() < 0.01, "8 bits of the source make no more."
    scene = draw_input(medium, 1, "validation")
    assert scene.edit.kind == "floor"
    changed = (scene.truth01 - scene.source01).abs().amax(1) > 0.02
    assert 0.1 < changed.float().mean() < 0.9
    assert not scene.source.equal(draw_input(medium, 1, "benchmark").source)


def test_later_inputs_repeat_the_edits_on_other_scenes():
    first, again = (draw_input("panorama", position, "validation") for position in (0, 12))
    assert first.edit == again.edit
    assert first.name != again.name
    assert (first.source01 - again.source01).abs().mean() > 0.02


@pytest.mark.parametrize(
    ("scales", "branches"),
    [
        # Eq. 3 with w_s = 1 has no estimate without the image; SDS has none of the source.
        ({"image_scale": 1.5, "text_scale": 2.5}, {"csd": 5, "csd-no-stein": 5, "sds": 3}),
        ({"image_scale": 1.0, "text_scale": 2.5}, {"csd": 3, "csd-no-stein": 3, "sds": 2}),
    ],
)
def test_methods_that_optimise_have_one_budget(prior, scales, branches):
    evaluations = []
    for name, count in branches.items():
        options = arm_options("video", arm_of("video", name), prior, {"updates": 30, **scales})
        assert options.method == name
        evaluations.append(count * options.values().updates)
    assert evaluations == [30 * branches["csd"]] * 3


def test_sampling_takes_the_steps_that_the_budget_allows(prior):
    given = {"updates": 20, "image_scale": 1.0, "text_scale": 1.5}
    csd = arm_options("video", arm_of("video", "csd"), prior, given)
    for budget in (0.5, 1.0, 2.0):
        ip2p = arm_options("video", arm_of("video", "ip2p"), prior, given, budget=budget)
        assert 3 * ip2p.values().steps == budget * 3 * csd.values().updates
    windows, tiles, small = (
        arm_options("panorama", arm_of("panorama", name), prior, given).values().steps
        for name in ("ip2p-windows", "ip2p-tiles", "ip2p-downsize")
    )
    # 3 x 13 windows overlap where 2 x 4 lie side by side; one is enough for the shrunken picture.
    assert windows < tiles < small
    assert tiles / windows == pytest.approx(39 / 8, rel=0.2)
    assert small == 50, "More steps change nothing."


def test_a_budget_counts_what_csd_spends(prior):
    for medium in ("panorama", "video"):
        options = [
            arm_options(medium, arm_of(medium, "csd"), prior, {}, budget=budget)
            for budget in (1.0, 0.5)
        ]
        updates = [given.values().updates for given in options]
        assert updates[0] == type(options[0])(preset="tiny").values().updates
        assert updates[1] == round(updates[0] / 2)
        rates = [given.values().learning_rate for given in options]
        assert rates[1] == pytest.approx(rates[0] * 2**0.5)


def test_every_ablation_differs_from_csd_or_its_peer(prior):
    for medium in ("panorama", "video"):
        seen = [
            str(arm_options(medium, arm, prior, {}))
            for arm in (*ARMS[medium], *ABLATIONS[medium])
            if arm.method is not None
        ]
        assert len(set(seen)) == len(seen)


def test_plain_windows_update_more_with_one_budget(prior):
    ours, paper = (
        arm_options("panorama", arm_of("panorama", name), prior, {"updates": 40})
        for name in ("csd", "csd-paper-drawing")
    )
    # Windows of 16 x 16 cells on 24 x 64. At each edge that isn't the canvas's a ramp of 4 cells
    # loses 2: of 2 rows of windows each has one such edge, of 6 columns of them 4 have two.
    drawn = 2 * 6 * (16 - 2) * (16 - 2 * 10 / 6)
    assert ours.values().updates == 40
    assert paper.values().updates == round(40 * 12 / drawn * 16 * 16)


def test_given_options_go_over_the_presets(prior):
    given = {"learning_rate": 0.125, "updates": 7}
    assert arm_options("panorama", arm_of("panorama", "csd"), prior, given).values().updates == 7
    changed = arm_options("panorama", arm_of("panorama", "csd-paper-drawing"), prior, given)
    assert isinstance(changed, PanoramaOptions)
    assert (changed.method, changed.drawing, changed.taper) == ("csd", "uniform", 0)
    assert changed.values().learning_rate == 0.125
    assert changed.values().prior == "tiny"


def test_tiles_lie_side_by_side(prior):
    tiles = arm_options("panorama", arm_of("panorama", "ip2p-tiles"), prior, {})
    assert isinstance(tiles, PanoramaOptions)
    assert tiles.stride == 64 // 4


@pytest.mark.parametrize(
    ("medium", "name", "frames"), [("panorama", "csd", 1), ("video", "csd-no-stein", 2)]
)
def test_an_arm_runs_its_method_in_the_words_of_the_edit(prior, monkeypatch, medium, name, frames):
    options = arm_options(medium, arm_of(medium, name), prior, {"updates": 1})
    given = small_input(frames)
    edited01, facts = run_arm(prior, given, options)
    assert edited01.shape == given.truth01.shape
    assert facts["evaluations"] > 0
    asked = []
    encode_text = prior.encode_text
    monkeypatch.setattr(prior, "encode_text", lambda p, *_: asked.extend(p) or encode_text(p))
    again, _ = run_arm(prior, given, options)
    assert again.equal(edited01)
    assert {*asked} == {"invert the colours", ""}


def test_seams_of_tiles_are_measured_where_they_are(prior):
    truth01 = torch.full((3, 96, 256), 0.5)
    edited01 = truth01.clone()
    edited01[:, :, 64:128] += 0.1
    shifted = edited01.roll(8, dims=2)
    # Three borders between columns, one of which has no step; and one each on the two rows.
    seam = measure_panorama(prior, edited01, truth01, stride=16)["seam"]
    assert seam == pytest.approx((2 / 3 * 0.1 + 0) / 2, abs=1e-6)
    assert measure_panorama(prior, shifted, truth01, stride=16)["seam"] < 0
    dark = truth01.clone()
    dark[:, :16] = 0.4
    places = measure_panorama(prior, dark, truth01)
    assert places["interior"] > 100
    share = 16 * 256 / (96 * 256 - 64 * 224)
    assert places["border"] == pytest.approx(-10 * np.log10(0.01 * share), abs=1e-4)
    assert places["corners"] == pytest.approx(-10 * np.log10(0.01 / 2), abs=1e-4)


class InterruptedByTestError(Exception):
    pass


class FakeRuns:
    """Stands for the adapters: returns the source a little brighter, and stops after a while."""

    def __init__(self, stop_after: int) -> None:
        self.calls: list[tuple[str, str]] = []
        self.stop_after = stop_after

    def __call__(self, prior, given: Input, options):
        if len(self.calls) == self.stop_after:
            raise InterruptedByTestError
        self.calls.append((given.name, options.method))
        return (given.source01 + 0.05).clamp(0, 1), {"evaluations": 10 * len(options.method)}


def test_an_interrupted_benchmark_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "FRAMES", 2)
    settings = BenchmarkSettings("video", "validation", inputs=2, arms=("csd", "ip2p"))
    first, second = FakeRuns(stop_after=3), FakeRuns(stop_after=99)
    monkeypatch.setattr(arms, "run_arm", first)
    with pytest.raises(InterruptedByTestError):
        run_benchmark(tmp_path / "a", settings)
    monkeypatch.setattr(arms, "run_arm", second)
    text = run_benchmark(tmp_path / "a", settings)
    assert [*first.calls, *second.calls] == [
        (name, method) for name in ("00 night", "01 floor grass") for method in ("csd", "ip2p")
    ]
    monkeypatch.setattr(arms, "run_arm", FakeRuns(stop_after=99))
    run_benchmark(tmp_path / "b", settings)

    def results(folder: str) -> list[dict]:
        rows = json.loads((tmp_path / folder / "benchmark.json").read_text())["rows"]
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    assert results("a") == results("b")
    assert len(results("a")) == 2 * 4
    assert (tmp_path / "a" / "table.md").read_text().strip() == text.strip()
    assert text.count("\n| ") == 1 + 4
    # Source, autoencoder, csd, ip2p and truth, twice enlarged; first and last frame of two inputs.
    assert Image.open(tmp_path / "a" / "sheet.png").size == (5 * 128, 18 + 4 * 128)


def test_the_measures_of_a_row_are_those_of_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "FRAMES", 2)
    monkeypatch.setattr(arms, "run_arm", FakeRuns(stop_after=99))
    run_benchmark(tmp_path, BenchmarkSettings("video", "validation", inputs=1, arms=("csd",)))
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]

    def picture(name: str) -> np.ndarray:
        pixels = np.asarray(Image.open(tmp_path / "pictures" / f"00_night_{name}.png"))
        return pixels.astype(float).reshape(2, 64, 64, 3) / 255

    source, truth, edited = (picture(name) for name in ("source", "truth", "csd"))
    values = {row["arm"]: row for row in rows}
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


def test_a_folder_keeps_to_its_settings_but_takes_more_inputs(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "FRAMES", 2)
    runs = FakeRuns(stop_after=99)
    monkeypatch.setattr(arms, "run_arm", runs)
    one = BenchmarkSettings("video", "validation", inputs=1, arms=("sds",))
    run_benchmark(tmp_path, one)
    run_benchmark(tmp_path, BenchmarkSettings("video", "validation", inputs=2, arms=("csd", "sds")))
    assert sorted(runs.calls) == [
        (name, method) for name in ("00 night", "01 floor grass") for method in ("csd", "sds")
    ]
    for other, what in (
        (BenchmarkSettings("video", "benchmark", inputs=1, arms=("sds",)), "split"),
        (
            BenchmarkSettings(
                "video", "validation", inputs=1, arms=("sds",), options={"text_scale": 9.0}
            ),
            "sds x 1",
        ),
    ):
        with pytest.raises(ValueError, match=f"other settings of {what}; name another --output"):
            run_benchmark(tmp_path, other)


def test_seeds_and_budgets_add_rows_and_budgets_make_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "FRAMES", 2)
    runs = FakeRuns(stop_after=99)
    monkeypatch.setattr(arms, "run_arm", runs)
    given = {"inputs": 1, "arms": ("csd", "ip2p")}
    run_benchmark(tmp_path, BenchmarkSettings("video", "validation", **given))
    more = BenchmarkSettings("video", "validation", seeds=2, budgets=(1.0, 0.5), **given)
    text = run_benchmark(tmp_path, more)
    assert len(runs.calls) == 2 + 2 * 2, "One seed at the second budget, and nothing twice."
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    jobs = [(row["arm"], row["budget"], row["seed"]) for row in rows if row["arm"] == "ip2p"]
    assert jobs == [("ip2p", 1.0, 0), ("ip2p", 1.0, 1), ("ip2p", 0.5, 0)]
    assert "| csd | 2 |" in text
    assert "| source | 1 |" in text
    assert (tmp_path / "rows.csv").read_text().count("\n") == 1 + len(rows)
    assert "toprule" in (tmp_path / "table.tex").read_text()
    for name in ("cost_psnr.png", "cost_flicker.png"):
        assert Image.open(tmp_path / name).width > 300


def test_ablations_take_the_place_of_the_other_methods(prior):
    usual, others = ARMS["video"], ABLATIONS["video"]
    names = [arm.name for arm in chosen_arms(usual, others, (), ablate=True)]
    assert names == ["source", "autoencoder", "csd", *(arm.name for arm in others)]
    assert chosen_arms(usual, others, (), ablate=False) == usual
    named = chosen_arms(usual, others, ("csd-strong", "ip2p"), ablate=False)
    assert [arm.name for arm in named] == ["source", "autoencoder", "ip2p", "csd-strong"]
    domain = MediaDomain("video", prior, {})
    seeds = [domain.settings(Job(usual[2], seed=seed))["seed"] for seed in (0, 1)]
    assert seeds == [0, 1]


def test_ablations_tell_what_is_left_of_the_residuals_at_the_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "FRAMES", 2)
    monkeypatch.setattr(arms, "run_arm", FakeRuns(stop_after=99))
    asked = []

    def residuals(prior, source01, truth01, prompt, **scales):
        asked.append(prompt)
        return {"source": {"bias_0.1": 0.25}, "noise": {"bias_0.1": 0.125}}

    monkeypatch.setattr(arms, "residuals_at_truth", residuals)
    settings = BenchmarkSettings("video", "validation", inputs=1, ablations=True)
    for _ in range(2):
        run_benchmark(tmp_path, settings)
    assert asked == ["make it night"]
    lines = (tmp_path / "residuals.md").read_text().splitlines()
    assert lines[2].startswith("| csd | 1 | 0.250 |")
    assert lines[3].startswith("| sds | 1 | **0.125** |")


def test_an_unknown_arm_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(priors, "load", lambda name: pytest.fail("loaded"))
    settings = BenchmarkSettings("video", arms=("csd", "magic"))
    with pytest.raises(ValueError, match=r"--arms needs some of source.*ip2p.*, got 'magic'"):
        run_benchmark(tmp_path, settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": 0}, "--inputs must be at least 1, got 0"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"budgets": (1.0, 0.0)}, r"--budgets must be positive numbers, got \(1.0, 0.0\)"),
    ],
)
def test_mistaken_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkSettings("video", **given)
