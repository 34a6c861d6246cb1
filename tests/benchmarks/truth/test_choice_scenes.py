"""The benchmark on scenes with several right answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_scenes import FEW, SIZE, VIEWS, shrunk

from benchmarks.engine.trials import Store
from benchmarks.truth import choice_scenes, scene_runs, scenes
from benchmarks.truth.choice_arms import CHOICE_ARMS
from benchmarks.truth.choice_report import save_input_sheet
from benchmarks.truth.choice_scenes import ChoiceSceneDomain
from benchmarks.truth.domains import Domain, Job, TruthInput
from benchmarks.truth.settings import TruthSettings
from benchmarks.truth.tuned import tuned_arm, tuning_note, write_tuned
from csd_nerf import priors
from csd_nerf.media.images import read_image
from csd_nerf.synthetic.dataset import SceneSettings, write_dataset
from csd_nerf.synthetic.edits import all_edits

ARMS = {arm.name: arm for arm in ChoiceSceneDomain.arms}
HELD_OUT = [4, 12]


@pytest.fixture(scope="module")
def prior() -> priors.Prior:
    return priors.load("tiny")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (scenes, choice_scenes):
        monkeypatch.setattr(module, "SCENE_VIEWS", VIEWS)
        monkeypatch.setattr(module, "SCENE_SIZE", SIZE)
    monkeypatch.setattr(scenes, "SOURCE_STEPS", 3)
    monkeypatch.setattr(scene_runs, "tiny_config", shrunk)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("choice-scenes"))


@pytest.fixture
def domain(prior: priors.Prior, store: Store) -> Any:
    return ChoiceSceneDomain(prior, FEW, store)


@pytest.mark.parametrize("position", [0, 1])
def test_a_scene_has_the_true_views_of_all_its_answers(domain, tmp_path, position):
    given = domain.draw(position, "validation")
    assert isinstance(domain, Domain)
    assert isinstance(given, TruthInput)
    assert given.name == f"scene {position:02d} {given.edit.name}"
    assert len(given.answers) >= 3
    assert set(given.answers) <= set(given.edit.answers)
    number, _ = choice_scenes._find_scene(given.edit, position, "validation")
    settings = SceneSettings(scene=number, split="validation", views=VIEWS, size=SIZE)
    edit = all_edits()[given.answers[-1]]
    folder = write_dataset(tmp_path / "data", settings, edit=edit.name)
    for view in (0, *HELD_OUT):
        name = f"{view:05d}.png"
        written = read_image(folder / "edited" / name)[0]
        truth = given.views.truths01[-1, view].permute(1, 2, 0) * 255
        assert (truth - written.float()).abs().max() < 0.51
        source = read_image(given.folder / "images" / name)[0]
        assert torch.equal(source, given.views.source[view])
        changed, region = (written != source).any(-1), given.views.region[view]
        assert changed[region].float().mean() > 0.9
        if given.edit.kind == "floor":
            # Pixels at the border show both.
            assert changed[~region].float().mean() < 0.15
    assert torch.equal(given.source, given.views.source[HELD_OUT])
    assert torch.equal(given.truths01, given.views.truths01[:, HELD_OUT])


def test_edits_are_judged_by_the_answers_in_their_own_views(domain):
    given = domain.draw(0, "validation")
    order = [9, 2, 5]
    names = [Path(f"images/{view:05d}.png") for view in order]
    exact = given.judge(given.views.truths01[1, order], names)
    assert exact.agreement() == 1.0
    assert float(exact.distances().max()) == 0.0
    assert exact.spread() == pytest.approx(0.0, abs=1e-6)
    mixed = torch.stack([given.views.truths01[k, view] for k, view in enumerate(order)])
    assert given.judge(mixed, names).agreement() == pytest.approx(1 / 3)
    unchanged = given.judge(given.views.source01[order], names)
    assert (unchanged.agreement(), unchanged.changed()) == (0.0, 0.0)


def test_a_perfect_editor_agrees_and_an_unedited_scene_has_no_answer(domain, tmp_path):
    given = domain.draw(0, "validation")
    perfect = domain.measure(Job(ARMS["autoencoder"]), given, tmp_path / "perfect").row
    assert (perfect["agree"], perfect["changed"]) == (1.0, 1.0)
    assert perfect["answer"] == given.answers[0]
    source = domain.measure(Job(ARMS["source"]), given, tmp_path / "source").row
    assert (source["agree"], source["changed"]) == (0.0, 0.0)
    expected = {column.key for column in domain.columns} | {"medium", "kind", "answer"}
    assert expected <= perfect.keys()


def test_a_method_gives_rows_and_a_sheet(domain, store, tmp_path):
    given = domain.draw(1, "validation")
    outcome = domain.measure(Job(ARMS["patch-repeated-noise"]), given, tmp_path / "run")
    # Three rounds of all views, one update of five estimates each.
    assert outcome.row["evaluations"] == 3 * 14 * 5
    assert outcome.edited01.shape == (2, 3, SIZE, SIZE)
    save_input_sheet(store, given, [], [])
    assert (store.output / "sheets" / "scene_01_change_look.png").is_file()


def test_arms_differ_in_mixing_and_in_what_rounds_share(domain):
    given = domain.draw(0, "validation")
    configs = {}
    for name, arm in ARMS.items():
        method, options = domain._method_and_options(Job(tuned_arm("choice-scene", arm)))
        configs[name] = scene_runs.arm_config(method, given, options, csd={}).pipeline
    found = {
        name: (c.edit.mixing, c.edit.noise, c.repeat_noise)
        for name, c in configs.items()
        if c.update == "csd" and ARMS[name].method
    }
    assert found["none-own-noise"] == ("none", "independent", False)
    assert found["stein-shared-noise"] == ("stein", "shared", False)
    assert found["patch-repeated-noise"] == ("patch", "shared", True)
    assert found["sds-repeated-noise"] == ("none", "shared", True)
    assert found["patch-own-noise"] == ("patch", "independent", False)
    assert found["patch-own-repeated-noise"] == ("patch", "independent", True)
    assert configs["sds-repeated-noise"].edit.residual == "sds"
    assert {configs[name].edit.t_order for name in found} == {"falling"}


def test_the_options_are_those_tuned_on_sets_of_images():
    entry = {"options": {"learning_rate": 9.0}, "split": "validation", "inputs": 3, "seeds": 1}
    write_tuned("choice", "patch-shared-noise", {**entry, "edits": ["change sky"], "prior": "x"})
    write_tuned(
        "choice",
        "patch-own-noise",
        {**entry, "edits": [], "options": {"learning_rate": 5.0}, "prior": "x"},
    )
    for name in ("patch-own-noise", "patch-own-repeated-noise"):
        assert tuned_arm("choice-scene", ARMS[name]).options["learning_rate"] == 5.0
    for name in ("patch-shared-noise", "patch-repeated-noise"):
        assert tuned_arm("choice-scene", ARMS[name]).options["learning_rate"] == 9.0
    assert tuned_arm("choice-scene", ARMS["stein-shared-noise"]).options["learning_rate"] == 2.0
    settings = TruthSettings(domain="choice-scene", output=Path())
    said = tuning_note(
        settings, [ARMS["patch-repeated-noise"], ARMS["sds-repeated-noise"]], prior="x"
    )
    assert "patch-repeated-noise: as for the domain choice, tuned on 3 inputs x 1 seeds" in said
    assert "sds-repeated-noise: not tuned." in said
    with pytest.raises(ValueError, match=r"--tune needs one of .*choice, got choice-scene"):
        TruthSettings(domain="choice-scene", output=Path(), tune=True)


def test_arms_that_take_the_options_of_others_name_arms_of_these():
    known = {arm.name for arm in CHOICE_ARMS}
    assert {arm.tuned_as for arm in ARMS.values() if arm.tuned_as} <= known
