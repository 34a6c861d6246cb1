from __future__ import annotations

import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.truth import grids, tune, tuned, videos
from benchmarks.truth.choice import ChoiceDomain
from benchmarks.truth.domains import EDITS, TUNING_EDITS, Arm, edit_at
from benchmarks.truth.grids import GRIDS, DomainGrids, Grid, grid_of
from benchmarks.truth.media import Input
from benchmarks.truth.panoramas import PanoramaDomain
from benchmarks.truth.run import run_truth
from benchmarks.truth.scenes import SceneDomain
from benchmarks.truth.settings import DOMAINS, TruthSettings
from benchmarks.truth.tune import run_tune
from benchmarks.truth.tuned import read_tuned, tuned_arm, tuned_file, write_tuned
from benchmarks.truth.videos import VideoDomain
from csd_nerf.adapters.options import Values
from csd_nerf.bundled import TUNED, TUNED_PANORAMA, TUNED_SDS
from csd_nerf.synthetic.edits import all_edits

KINDS: dict[str, Any] = {
    "video": VideoDomain,
    "panorama": PanoramaDomain,
    "scene": SceneDomain,
    "choice": ChoiceDomain,
}
CSD = Grid(
    {"learning_rate": 2.0, "text_scale": 1.0, "t_range": (0.02, 0.5), "batch": 2},
    (
        {"learning_rate": (0.5, 1.0, 2.0), "text_scale": (1.0, 2.0)},
        {"t_range": ((0.02, 0.5), (0.02, 0.8))},
    ),
)
IP2P = Grid({"text_scale": 1.0, "image_scale": 1.0}, ({"image_scale": (1.0, 2.0)},))


SAMPLING = ("ip2p", "in2n", "ip2p-downsize", "ip2p-windows")


class FakeEdits:
    """The error of an edit is a known function of the options."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Values]] = []
        self.stop_after = 999

    def __call__(self, given: Input, options: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        values = options.values()
        self.calls.append((given.name, values))
        error = 0.05 + 0.01 * len(given.name) / 20 + self.error(values)
        return given.truth01 + error, {"evaluations": 1}

    @staticmethod
    def error(values: Values) -> float:
        # The best rate depends on the scale: 2 at 1, 1 at 2, which is the best of all.
        wrong = abs(values.learning_rate - 2 / values.text_scale) / 20
        return wrong + 0.02 * (values.text_scale == 1) + 0.01 * (values.t_range[1] == 0.5)


@pytest.fixture
def edits(monkeypatch: pytest.MonkeyPatch) -> FakeEdits:
    edits = FakeEdits()
    monkeypatch.setattr(videos, "FRAMES", 2)
    monkeypatch.setattr(VideoDomain, "edit", edits)
    methods = {"csd": CSD, "csd-no-stein": CSD, "sds": CSD, "ip2p": IP2P}
    monkeypatch.setitem(grids.GRIDS, "video", DomainGrids(methods))
    return edits


def settings(output: Path, **given: Any) -> TruthSettings:
    values = {"tune": True, "inputs": 2, "arms": ("csd",), **given}
    return TruthSettings(domain="video", output=output, **values)


def test_the_best_of_the_grid_is_found_stage_by_stage(tmp_path, edits):
    text = run_tune(settings(tmp_path))
    entry = read_tuned("video")["csd"]
    assert entry["options"] == {
        "learning_rate": 1.0,
        "text_scale": 2.0,
        "t_range": (0.02, 0.8),
        "batch": 2,
    }
    # Six of the first stage, of which the start is one, and one more of the second.
    assert len(entry["tried"]) == 7
    assert len(edits.calls) == 7 * 2
    assert entry["at_edge"] == ["text_scale", "t_range"]
    means = [tried["psnr"] for tried in entry["tried"]]
    assert entry["psnr"] == max(means)
    (best,) = [tried for tried in entry["tried"] if "minus_best" not in tried]
    assert best["psnr"] == entry["psnr"]
    for tried in entry["tried"]:
        if tried is not best:
            mean, error = tried["minus_best"]
            assert mean == pytest.approx(tried["psnr"] - best["psnr"], abs=2e-3)
            assert error >= 0
    assert f"| csd | {entry['psnr']:.2f} | learning_rate 1.0, text_scale 2.0," in text


def test_only_validation_inputs_with_edits_that_are_not_reported_are_used(tmp_path, edits):
    run_tune(settings(tmp_path, split="benchmark", inputs=3, seeds=2))
    names = ["00 black and white", "01 floor wood", "02 sky purple"]
    assert {name for name, _ in edits.calls} == {*names}
    entry = read_tuned("video")["csd"]
    assert (entry["split"], entry["inputs"], entry["seeds"]) == ("validation", 3, 2)
    assert entry["edits"] == [name[3:] for name in names]
    assert entry["command"] == (
        "python -m benchmarks truth video --tune --arms csd --inputs 3 --seeds 2 --budgets 1 "
        "--output DIR"
    )
    assert {*TUNING_EDITS}.isdisjoint(EDITS)
    assert {*TUNING_EDITS, *EDITS} < {*all_edits()}
    for split, edits_of in {"validation": TUNING_EDITS, "benchmark": EDITS}.items():
        assert [edit_at(position, split).name for position in range(40)][: len(edits_of)] == [
            *edits_of
        ]


def test_an_interrupted_search_goes_on_and_arms_are_kept(tmp_path, edits):
    edits.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        run_tune(settings(tmp_path))
    assert not tuned_file("video").exists()
    edits.stop_after = 999
    run_tune(settings(tmp_path))
    assert len(edits.calls) == 14
    first = tuned_file("video").read_text()
    run_tune(settings(tmp_path))
    assert (len(edits.calls), tuned_file("video").read_text()) == (14, first)
    run_tune(settings(tmp_path, arms=("ip2p",)))
    assert [*read_tuned("video")] == ["csd", "ip2p"]
    assert read_tuned("video")["csd"] == json.loads(first)["csd"] | {
        "options": read_tuned("video")["csd"]["options"]
    }


def test_a_search_does_not_depend_on_what_was_tuned_before(tmp_path, edits):
    entry = {"options": {"t_range": (0.3, 0.9), "batch": 7}, "prior": "", "split": "validation"}
    write_tuned("video", "csd", {**entry, "inputs": 1, "seeds": 1, "edits": []})
    run_tune(settings(tmp_path))
    assert {values.t_range for _, values in edits.calls} == {(0.02, 0.5), (0.02, 0.8)}
    assert {values.batch for _, values in edits.calls} == {2}


def test_an_arm_keeps_the_options_that_define_it(tmp_path, edits):
    run_tune(settings(tmp_path, arms=("csd-paper-t", "csd-strong", "ip2p-strong")))
    entries = read_tuned("video")
    assert [*entries] == ["csd-paper-t", "csd-strong"], "Both scales of ip2p-strong are its own."
    assert "t_range" not in entries["csd-paper-t"]["options"]
    assert {*entries["csd-strong"]["options"]} == {"learning_rate", "t_range", "batch"}
    assert entries["csd-strong"]["options"]["learning_rate"] == 0.5


def test_the_benchmark_reads_what_was_tuned(tmp_path, edits):
    run_tune(settings(tmp_path / "tuning"))
    edits.calls.clear()
    run = {"tune": False, "inputs": 1, "seeds": 1}
    text = run_truth(settings(tmp_path / "run", **run, arms=("csd", "ip2p", "csd-paper-t")))
    csd, ip2p, paper_t = (values for _, values in edits.calls)
    assert (csd.learning_rate, csd.text_scale, csd.t_range) == (1.0, 2.0, (0.02, 0.8))
    assert (ip2p.text_scale, ip2p.image_scale) == (1.0, 1.0), "The start of its grid."
    # It was not tuned by itself, so csd's are next.
    assert (paper_t.learning_rate, paper_t.t_range) == (1.0, (0.02, 0.5))
    assert "- csd: tuned on 2 inputs x 1 seeds of the split validation. Edits: black and" in text
    assert "- ip2p, csd-paper-t: not tuned." in text
    run_truth(settings(tmp_path / "run", **run, learning_rate=0.125, budgets=(0.25,)))
    assert edits.calls[-1][1].learning_rate == 0.25, "0.125 at a quarter of the budget."
    assert edits.calls[-1][1].text_scale == 2.0


def test_options_tuned_with_other_weights_are_told(tmp_path, edits):
    options = {"options": {"text_scale": 1.5}, "prior": "old", "inputs": 2, "seeds": 1}
    write_tuned("video", "ip2p", {**options, "split": "validation", "edits": ["fog"]})
    run = {"tune": False, "inputs": 1, "seeds": 1, "arms": ("ip2p",), "baseline": "ip2p"}
    text = run_truth(settings(tmp_path, **run, image_scale=3.0))
    assert "- ip2p: tuned on 2 inputs x 1 seeds of the split validation, with other weights" in text
    assert "- all: image_scale 3.0 as given." in text


def test_the_start_is_the_arm_that_has_no_entry():
    arm = Arm("csd", "csd", {"t_range": (0.02, 0.5)})
    found = tuned_arm("video", arm).options
    assert found == {**GRIDS["video"].methods["csd"].start, "t_range": (0.02, 0.5)}
    assert tuned_arm("video", Arm("source", None)).options == {}


@pytest.mark.parametrize(
    ("domain", "csd"), [("video", TUNED), ("panorama", {**TUNED, **TUNED_PANORAMA})]
)
def test_ablations_have_csd_s_timesteps_and_a_rate_and_a_scale_of_their_own(domain, csd):
    grids_of_arms = {
        arm.name: (arm.options, grid_of(domain, arm))
        for arm in KINDS[domain].ablations
        if arm.method != "ip2p" and arm.tuned_as is None
    }
    assert len(grids_of_arms) == 10
    for name, (own, grid) in grids_of_arms.items():
        expected = {**csd, **TUNED_SDS} if name == "sds-independent-noise" else csd
        start = {**grid.start, **own}
        assert start["t_range"] == own.get("t_range", expected["t_range"])
        assert start["t_order"] == expected["t_order"]
        searched = [option for stage in grid.stages for option in stage]
        assert searched == [o for o in ("learning_rate", "text_scale") if o not in own]


def test_the_share_of_an_arm_is_searched_and_reaches_the_editor(tmp_path, edits, monkeypatch):
    monkeypatch.setattr(edits, "error", lambda values: abs(values.source_share - 0.25) / 10)
    grid = grids._with_share(CSD)
    domain = DomainGrids(grids.GRIDS["video"].methods, {"csd-share": grid})
    monkeypatch.setitem(grids.GRIDS, "video", domain)
    run_tune(settings(tmp_path, arms=("csd", "csd-share")))
    entries = read_tuned("video")
    assert entries["csd-share"]["options"]["source_share"] == 0.25
    assert "source_share" not in entries["csd"]["options"]
    edits.calls.clear()
    run = {"tune": False, "inputs": 1, "seeds": 1, "arms": ("csd", "csd-share")}
    run_truth(settings(tmp_path / "run", **run))
    assert [values.source_share for _, values in edits.calls] == [1.0, 0.25]


def test_the_best_candidate_changes_enough_images():
    """An unchanged image is near the answer where the target is small."""
    figures = {
        "lazy": (30.0, 0.5),
        "good": (27.0, 0.85),
        "spoils": (20.0, 1.0),
        "fair": (25.0, 0.9),
    }
    rows = [
        {"options": name, "psnr": psnr, "changed": changed}
        for name, (psnr, changed) in figures.items()
    ]
    assert tune._best(rows, [*figures]) == "good"
    # Where nothing is said of changes, the highest PSNR wins.
    rows = [{"options": name, "psnr": psnr} for name, (psnr, _) in figures.items()]
    assert tune._best(rows, [*figures]) == "lazy"


def test_a_damaged_file_is_named():
    tuned_file("video").write_text('{"csd": {}}')
    with pytest.raises(ValueError, match=r"video.json must be the tuned options.* tune again"):
        read_tuned("video")


@pytest.mark.parametrize("domain", [*KINDS, "choice-scene"])
def test_the_grids_have_options_of_their_arms(domain):
    kind: Any = pkgutil.resolve_name(DOMAINS[domain])
    arms = [arm for arm in (*kind.arms, *kind.ablations) if arm.method is not None]
    for arm in arms:
        grid = grid_of(domain, arm)
        for stage in grid.stages:
            assert {*stage} <= {*grid.start}, "A search begins at a value of each option."
            for values in stage.values():
                assert list(values) == sorted(values)
    assert {*GRIDS[domain].methods} == {arm.method for arm in arms}
    assert {*GRIDS[domain].arms} <= {arm.name for arm in arms}
    rates = [arm.name for arm in arms if "learning_rate" in grid_of(domain, arm).start]
    optimise = [arm.name for arm in arms if arm.method not in SAMPLING]
    assert rates == optimise


@pytest.mark.parametrize("domain", KINDS)
def test_the_tuned_options_of_the_repository_are_those_of_its_arms(domain, monkeypatch):
    monkeypatch.setattr(tuned, "FOLDER", Path(tuned.__file__).with_name("tuned"))
    kind = KINDS[domain]
    arms = {arm.name: arm for arm in (*kind.arms, *kind.ablations)}
    for name, entry in read_tuned(domain).items():
        grid = grid_of(domain, arms[name])
        assert {*entry["options"]} == {*grid.start}, f"{name}: tune it again."
        assert entry["split"] == "validation"
        assert {*entry["edits"]}.isdisjoint(EDITS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 1.0}, "chooses the options itself.* leave out learning_rate"),
        ({"budgets": (1.0, 0.5)}, "at one budget; leave out all budgets but one"),
    ],
)
def test_mistaken_settings_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **given)


def test_the_command_tunes(tmp_path, edits, capsys):
    command.main(f"truth video --tune --output {tmp_path} --inputs 1 --arms ip2p".split())
    assert "| ip2p | " in capsys.readouterr().out
    assert [*read_tuned("video")] == ["ip2p"]
