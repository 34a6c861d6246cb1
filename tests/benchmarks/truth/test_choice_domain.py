from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting_prior import CountingPrior
from PIL import Image

from benchmarks import __main__ as command
from benchmarks.engine.identity import weights_digest
from benchmarks.engine.trials import Store
from benchmarks.tables import joined_record, tables_of
from benchmarks.truth import choice_arms, grids
from benchmarks.truth.choice import ChoiceDomain
from benchmarks.truth.choice_arms import CHOICE_ARMS, arm_options, run_arm
from benchmarks.truth.choice_scores import Judged
from benchmarks.truth.choice_tables import variety_markdown
from benchmarks.truth.domains import Job
from benchmarks.truth.exact_prior import ExactPrior
from benchmarks.truth.grids import DomainGrids, Grid
from benchmarks.truth.run import run_truth
from benchmarks.truth.settings import TruthSettings
from benchmarks.truth.tune import run_tune
from benchmarks.truth.tuned import read_tuned, tuned_arm, write_tuned
from benchmarks.worlds.choices import draw_choice_set
from csd_nerf import priors
from csd_nerf.core.settings import EditSettings
from csd_nerf.editor import EditResult
from csd_nerf.evaluation.tables import Row
from csd_nerf.priors import sampling

ASSETS = Path(priors.__file__).parents[1] / "assets"
COARSE = {"patch_cells": 256}
"""Mixing by patches takes long at full resolution, as often as windows are drawn."""
METHODS = [arm for arm in CHOICE_ARMS if arm.method is not None]


@pytest.fixture(scope="module")
def sets() -> dict[str, Any]:
    return {medium: draw_choice_set(medium, 1, "validation") for medium in ("views", "panorama")}


def settings(output: Path, **given: Any) -> TruthSettings:
    values = {"domain": "choice", "split": "validation", "inputs": 1, "prior": "exact"}
    values["seeds"] = 1
    return TruthSettings(output=output, **{**values, "media": ("views",), **given})


def rows_of(output: Path) -> list[Row]:
    return json.loads((output / "results.json").read_text())["rows"]


@pytest.mark.parametrize("medium", ["views", "panorama"])
def test_all_arms_take_the_same_number_of_evaluations(sets, medium):
    given, counts = sets[medium], {}
    for arm in METHODS:
        prior = CountingPrior(ExactPrior.of(given))
        job = Job(arm)
        result = run_arm(prior, given, job, {**arm_options(job, {}), **COARSE})
        assert result.image01.shape == given.source01.shape
        assert prior.evaluations == result.evaluations
        counts[arm.name] = prior.evaluations
    stein = counts["stein-shared-noise"]
    assert stein >= 15 * 3 * 6
    assert all(abs(count / stein - 1) < 0.05 for count in counts.values()), counts


def recorded_settings(monkeypatch, given, name: str, options: dict[str, Any]) -> EditSettings:
    """The settings with which an arm calls the editor."""
    asked = []

    def edit_images(prior, source01, *, prompt, settings, generator):
        assert prompt == given.choice.instructions[0]
        assert source01.equal(given.source01)
        asked.append((settings, generator.initial_seed()))
        return EditResult(source01, source01, source01, 7, 0.0)

    monkeypatch.setattr(choice_arms, "edit_images", edit_images)
    (arm,) = [arm for arm in CHOICE_ARMS if arm.name == name]
    job = Job(tuned_arm("choice", arm), seed=5)
    assert run_arm(ExactPrior.of(given), given, job, arm_options(job, options)).evaluations == 7
    ((found, seed),) = asked
    assert seed == 5
    return found


def test_without_a_share_an_arm_makes_as_many_updates_as_sds(sets, monkeypatch):
    given = {"source_share": 0.0, "t_order": "random"}
    found = recorded_settings(monkeypatch, sets["views"], "none-shared-noise", given)
    assert (found.source_share, found.t_order, found.iterations) == (0.0, "random", 22)


@pytest.mark.parametrize(
    ("name", "mixing", "noise", "residual", "iterations"),
    [
        ("none-own-noise", "none", "independent", "csd", 15),
        ("none-shared-noise", "none", "shared", "csd", 15),
        ("stein-own-noise", "stein", "independent", "csd", 15),
        ("stein-shared-noise", "stein", "shared", "csd", 15),
        ("patch-own-noise", "patch", "independent", "csd", 15),
        ("patch-shared-noise", "patch", "shared", "csd", 15),
        ("patch-share-own-noise", "patch", "independent", "csd", 15),
        ("sds-shared-noise", "none", "shared", "sds", 22),
        ("sds-patch-own-noise", "patch", "independent", "sds", 22),
    ],
)
def test_each_arm_edits_as_its_name_says(
    sets, monkeypatch, name, mixing, noise, residual, iterations
):
    found = recorded_settings(monkeypatch, sets["views"], name, {})
    assert (found.mixing, found.noise, found.residual) == (mixing, noise, residual)
    assert (found.iterations, found.learning_rate, found.text_scale) == (iterations, 2.0, 3.0)
    assert (found.normalize, found.repulsion, found.t_range) == ("rowsum", 0.0, (0.02, 0.95))
    assert -(-iterations // found.decay_every) == 5
    assert found.t_order == "falling"
    assert found.source_share == (0.5 if name == "patch-share-own-noise" else 1)


def test_tuned_options_are_those_of_their_arm_and_the_user_s_win(sets, monkeypatch):
    entry = {"split": "validation", "inputs": 1, "seeds": 1, "edits": [], "prior": ""}
    entry["options"] = {"learning_rate": 0.5, "text_scale": 5.0, "noise": "independent"}
    write_tuned("choice", "stein-shared-noise", entry)
    found = recorded_settings(monkeypatch, sets["views"], "stein-shared-noise", {})
    assert (found.learning_rate, found.text_scale) == (0.5, 5.0)
    assert found.noise == "shared", "What defines an arm can't be tuned away."
    given = {"learning_rate": 0.25, "updates": 8}
    found = recorded_settings(monkeypatch, sets["views"], "stein-shared-noise", given)
    assert (found.learning_rate, found.text_scale, found.iterations) == (0.25, 5.0, 8)
    other = recorded_settings(monkeypatch, sets["views"], "none-shared-noise", {})
    assert other.learning_rate == 2.0


@pytest.mark.parametrize(
    ("name", "shared"), [("ip2p-own-noise", False), ("ip2p-shared-noise", True)]
)
def test_sampling_starts_from_one_noise_or_from_one_each(sets, monkeypatch, name, shared):
    asked = []

    def sample_edit(prior, image01, prompt, *, noise, **options):
        asked.append((noise, options))
        return image01

    monkeypatch.setattr(sampling, "sample_edit", sample_edit)
    (arm,) = [arm for arm in CHOICE_ARMS if arm.name == name]
    given = sets["views"]
    run_arm(ExactPrior.of(given), given, Job(arm), arm_options(Job(arm), {}))
    ((noise, options),) = asked
    assert noise.shape == (6, 3, 16, 16)
    equal = [bool(noise[0].equal(other)) for other in noise[1:]]
    assert equal == [shared] * 5
    assert options == {"text_scale": 2.0, "image_scale": 1.5, "steps": 15}


def test_own_noise_in_a_panorama_means_tiles_and_shared_noise_means_overlap(sets, monkeypatch):
    asked = {}

    def sample_windows(prior, rows, prompts, shares, *, positions, window, noise, **options):
        asked[name] = positions[:, 1].unique().tolist()
        return noise

    monkeypatch.setattr(sampling, "sample_windows", sample_windows)
    for name in ("ip2p-own-noise", "ip2p-shared-noise"):
        (arm,) = [arm for arm in CHOICE_ARMS if arm.name == name]
        given = sets["panorama"]
        run_arm(ExactPrior.of(given), given, Job(arm), arm_options(Job(arm), {}))
    assert asked["ip2p-own-noise"] == [0, 16, 32, 48, 64, 80]
    assert asked["ip2p-shared-noise"] == list(range(0, 88, 8))


def test_a_panorama_is_edited_where_its_tiles_are(sets):
    """With the exact prior the edit of each tile is nearer to an answer than to its neighbour's."""
    given = sets["panorama"]
    (arm,) = [arm for arm in CHOICE_ARMS if arm.name == "patch-shared-noise"]
    options = {**arm_options(Job(arm), {}, exact=True), **COARSE}
    edited = run_arm(ExactPrior.of(given), given, Job(arm), options)
    away = (edited.image01[:, None] - given.source01[None]).square().mean((2, 3, 4))
    assert away.argmin(1).tolist() == list(range(6))


def test_media_take_turns(tmp_path):
    domain = ChoiceDomain(None, {"media": ("video", "views")}, Store(tmp_path))
    names = [domain.draw(position, "validation").name[:8] for position in range(3)]
    assert names == ["video 00", "views 00", "video 01"]


def test_the_whole_benchmark_runs_and_goes_on_with_the_exact_prior(tmp_path, capsys):
    arms = ("none-own-noise", "ip2p-own-noise")
    asked = settings(tmp_path, arms=arms, seeds=2, updates=3, baseline="none-own-noise")
    text = run_truth(asked)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 2
    assert lines[-1].startswith("[6 of 6] views 00 paint")
    assert "left] " in lines[0]
    assert run_truth(asked) == text
    assert capsys.readouterr().out == "", "Finished trials are not run again."
    assert "| minus none-own-noise |" in text
    assert "| minus none-shared-noise |" in run_truth(
        replace(asked, arms=(), baseline=None, seeds=1)
    )
    capsys.readouterr()
    run_truth(asked)
    rows = rows_of(tmp_path)
    records = [json.loads(path.read_text()) for path in tmp_path.glob("trials/*/trial.json")]
    options = [one["decides"]["options"] for one in records if "options" in one["decides"]]
    assert {one["text_scale"] for one in options} == {1.0}, "The exact prior needs no guidance."
    given = draw_choice_set("views", 0, "validation")
    for row in rows:
        folder = tmp_path / "trials" / row["trial"] / "edited"
        images = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
        edited = torch.from_numpy(np.stack(images)).movedim(3, 1) / 255
        judged = Judged(edited, given.truths01, given.source01, given.region)
        assert row["agree"] == judged.agreement()
        assert row["psnr"] == pytest.approx(judged.scores()["psnr"], abs=0.05)
        assert row["answer"] == given.answers[judged.common]
    common = {(row["arm"], row["answer"]) for row in rows if row["arm"] == arms[0]}
    told = text.replace("**", "")
    assert tables_of(joined_record([tmp_path / "record.json.gz"])) == text
    assert f"| {arms[0]} | 1 | {len(common)}.00 |" in told
    sheet = Image.open(tmp_path / "sheets" / f"{given.name.replace(' ', '_')}.png")
    assert sheet.height == (1 + len(given.answers) + 2) * 128
    assert 6 * 128 < sheet.width < 7 * 128


def test_each_medium_has_a_table(tmp_path):
    asked = settings(
        tmp_path,
        media=("views", "video"),
        inputs=2,
        arms=("none-own-noise", "none-shared-noise"),
        updates=1,
        budgets=(1.0, 2.0),
    )
    text = run_truth(asked)
    lines = text.splitlines()
    for medium in ("views", "video"):
        place = lines.index(medium)
        assert lines[place + 4].startswith("| source | 1 |")


def test_variety_is_counted_input_by_input():
    rows = [
        {"arm": "a", "input": given, "answer": answer}
        for given, answers in (("1", "xyxy"), ("2", "zzzz"))
        for answer in answers
    ]
    line = variety_markdown(rows, ["a"]).splitlines()[2]
    assert line.startswith("| a | 2 | 1.50 ± 0.71 | 0.50 ± 0.71 |")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"domain": "video", "media": None}, "--prior exact need the domain choice, got .*video"),
        ({"domain": "video", "prior": "tiny"}, "--media and .* need the domain choice"),
        ({"tune": True}, "--tune needs a trained prior, got --prior exact"),
    ],
)
def test_options_of_choices_are_refused_elsewhere(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **given)


def test_the_command_takes_a_folder_as_prior(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(ASSETS / "tiny", folder)
    (folder / "mine.txt").write_text("Other files than those of the bundled prior.")
    asked, load = [], priors.load
    monkeypatch.setattr(priors, "load", lambda name: asked.append(name) or load(name))
    words = (
        f"truth choice --output {tmp_path} --split validation --inputs 1 --seeds 1 --media video"
    )
    words += f" --arms ip2p-own-noise --updates 1 --prior {folder} --baseline ip2p-own-noise"
    command.main(words.split())
    assert "| ip2p-own-noise | 1 |" in capsys.readouterr().out
    assert asked == [str(folder)]
    decided = [json.loads(path.read_text()) for path in (tmp_path / "trials").glob("*/trial.json")]
    assert {record["decides"]["prior"] for record in decided} == {weights_digest(folder)}


def test_tuning_keeps_the_best_on_validation_inputs(tmp_path, monkeypatch):
    given = draw_choice_set("views", 0, "validation")
    monkeypatch.setattr("csd_nerf.priors.load", lambda name: ExactPrior.of(given))
    stages = ({"learning_rate": (0.001, 1.0)}, {"text_scale": (1.0, 9.0)})
    grid = Grid({"learning_rate": 1.0, "text_scale": 3.0}, stages)
    monkeypatch.setitem(grids.GRIDS, "choice", DomainGrids({"edit": grid, "ip2p": grid}))
    asked = settings(
        tmp_path, prior="tiny", split="benchmark", arms=("stein-own-noise",), tune=True
    )
    text = run_tune(asked)
    entry = read_tuned("choice")["stein-own-noise"]
    assert entry["options"] == {"learning_rate": 1.0, "text_scale": 1.0}
    assert "--media views" in entry["command"]
    (line,) = (line for line in text.splitlines() if line.startswith("| stein-own-noise "))
    assert float(line.split("|")[2]) == pytest.approx(entry["psnr"], abs=0.006)
    records = [json.loads(p.read_text()) for p in (tmp_path / "trials").glob("*/trial.json")]
    assert {record["labels"]["input"] for record in records} == {given.name}
    options = [record["decides"]["options"] for record in records]
    tried = {
        (one["learning_rate"], one["text_scale"]): record["row"]
        for one, record in zip(options, records, strict=True)
    }
    # The search begins at a text scale of 3; the second stage is at the better rate.
    assert set(tried) == {(0.001, 3.0), (1.0, 3.0), (1.0, 1.0), (1.0, 9.0)}
    assert tried[1.0, 1.0]["psnr"] == pytest.approx(entry["psnr"], abs=1e-3)
    assert tried[1.0, 1.0]["psnr"] > tried[1.0, 9.0]["psnr"]
    assert tried[0.001, 3.0]["psnr"] > tried[1.0, 3.0]["psnr"], "An edit, not the best PSNR."
    assert tried[0.001, 3.0]["changed"] == 0
