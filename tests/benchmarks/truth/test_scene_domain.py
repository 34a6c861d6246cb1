from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting_prior import CountingPrior
from PIL import Image
from small_scenes import FEW, SIZE, VIEWS, shrunk

from benchmarks.engine.trials import Store
from benchmarks.truth import scene_runs, scenes
from benchmarks.truth.domains import Arm, Domain, Job, TruthInput
from benchmarks.truth.grids import GRIDS
from benchmarks.truth.scene_plans import SCENE_ARMS, plan_arm
from benchmarks.truth.scene_runs import (
    SceneInput,
    SceneResult,
    disagreement,
    run_scene_arm,
    train_source,
)
from benchmarks.truth.scenes import SceneDomain, SplatSceneDomain, draw_scene
from benchmarks.truth.settings import TruthSettings
from benchmarks.truth.tuned import tuned_arm, tuning_note, write_tuned
from csd_nerf import priors
from csd_nerf.synthetic.looks import LOOKS

START = {name: grid.start for name, grid in GRIDS["scene"].methods.items()}
START |= {name: {**START[name], "text_scale": 1.25} for name in ("csd", "csd-no-stein")}
EDITING = [name for name in SCENE_ARMS if name not in ("source", "autoencoder")]


@pytest.mark.parametrize("name", EDITING)
def test_all_methods_have_one_budget(name):
    assert plan_arm(name, START[name], csd={}).evaluations == 3 * 16 * 20 * 3


def test_the_plans_are_the_published_ones():
    in2n, ip2p, csd, sds = (
        plan_arm(name, START[name], csd={}) for name in ("in2n", "ip2p", "csd", "sds")
    )
    assert (in2n.edit_steps, in2n.edit_every, in2n.edit_views) == (480, 10, 1)
    assert in2n.denoising_steps == 20
    assert (ip2p.edit_every, ip2p.edit_views, ip2p.denoising_steps) == (160, 16, 20)
    assert (csd.edit_every, csd.edit_views, csd.iterations) == (160, 16, 20)
    # At scales of one and without the source's, one estimate an iteration in place of three.
    assert sds.iterations == 60


@pytest.mark.parametrize("name", EDITING)
@pytest.mark.parametrize("budget", [0.25, 0.5, 2.0, 4.0])
def test_budgets_can_be_asked_for(name, budget):
    plan = plan_arm(name, START[name], csd={}, budget=budget)
    assert abs(plan.evaluations - budget * 2880) <= 0.07 * budget * 2880
    rounds = -(-plan.edit_steps // plan.edit_every)
    # What the rounds will make, counted from the method's own numbers.
    work = {"ip2p": plan.denoising_steps * 3, "in2n": plan.denoising_steps * 3}
    a_view = work.get(name, plan.iterations * (1 if name == "sds" else 3))
    assert rounds * plan.edit_views * a_view == plan.evaluations


def test_the_tuned_scales_of_an_arm_leave_the_budget_as_it_is():
    cheap, dear = {"text_scale": 1.0, "image_scale": 1.0}, {"text_scale": 2.0, "image_scale": 1.5}
    plans = [plan_arm("csd", scales, csd={}) for scales in (cheap, START["csd"], dear)]
    assert [plan.iterations for plan in plans] == [30, 20, 12]
    assert {plan.evaluations for plan in plans} == {2880}


@pytest.mark.parametrize(
    ("options", "every", "views", "iterations"),
    [
        ({"rounds": 1, "round_views": 35}, 480, 35, 27),
        ({"rounds": 6, "round_views": 8}, 80, 8, 20),
        ({"rounds": 12, "round_views": 4}, 40, 4, 20),
        ({"rounds": 6}, 80, 16, 10),
        ({"edit_steps": 240}, 80, 16, 20),
    ],
)
def test_other_rounds_take_the_same_evaluations(options, every, views, iterations):
    plan = plan_arm("csd", {**START["csd"], **options}, csd={})
    assert (plan.edit_every, plan.edit_views, plan.iterations) == (every, views, iterations)
    assert plan.evaluations == pytest.approx(2880, rel=0.02)


def test_every_arm_with_other_rounds_runs_another_config(store, prior):
    domain, given = SplatSceneDomain(prior, {}, store), draw_scene(3, "validation", store)
    decided = {}
    for arm in (*SplatSceneDomain.ablations, *SplatSceneDomain.arms):
        if arm.name == "csd-patch-own-noise-share" or arm.tuned_as == "csd-patch-own-noise-share":
            method, options = domain._method_and_options(Job(tuned_arm("splat-scene", arm)))
            config = scene_runs.arm_config(
                method, given, options, csd={}, representation=SplatSceneDomain.representation
            )
            pipeline = config.pipeline
            rounds = (pipeline.edit_every, pipeline.edit_views, pipeline.edit.iterations)
            decided[arm.name] = (*rounds, pipeline.edit_steps, pipeline.start)
    assert len(set(decided.values())) == len(decided) == 7
    assert decided["warm"][-1] == "render" != decided["csd-patch-own-noise-share"][-1]


def test_in2n_is_compared_on_mixed_and_on_edited_views_by_default(store, prior):
    domain, given = SceneDomain(prior, FEW, store), draw_scene(3, "validation", store)
    found = {}
    for arm in SceneDomain.arms:
        method, options = domain._method_and_options(Job(tuned_arm("scene", arm)))
        config = scene_runs.arm_config(method, given, options, csd={})
        found[arm.name] = (config.pipeline.update, config.pipeline.datamanager.only_edited_views)
    assert found["in2n"] == ("in2n", False)
    assert found["in2n-edited-only"] == ("in2n", True)
    assert {found[name][1] for name in ("csd", "csd-no-stein", "sds", "ip2p")} == {True}


def test_a_scene_takes_what_was_tuned_on_videos_below_its_own():
    entry = {"split": "validation", "inputs": 6, "seeds": 1, "edits": ["darker"], "prior": "x"}
    write_tuned("video", "csd", {**entry, "options": {"learning_rate": 9.0, "t_order": "falling"}})
    write_tuned("video", "in2n", {**entry, "options": {"text_scale": 9.0}})
    write_tuned("scene", "in2n", {**entry, "inputs": 2, "options": {"text_scale": 3.0}})
    csd = tuned("csd").options
    assert (csd["learning_rate"], csd["t_order"], csd["repulsion"]) == (9.0, "falling", 0.0)
    assert tuned("in2n-edited-only").options["text_scale"] == 3.0
    arms = [arm for arm in SceneDomain.arms if arm.name in ("csd", "in2n", "ip2p")]
    settings = TruthSettings(domain="scene", output=Path())
    assert tuning_note(settings, arms, prior="x").splitlines() == [
        "- ip2p: not tuned.",
        "- in2n: tuned on 2 inputs x 1 seeds of the split validation. Edits: darker.",
        "- csd: as for the domain video, tuned on 6 inputs x 1 seeds of the split validation. "
        "Edits: darker.",
    ]


def test_scales_that_need_more_estimates_cost_all_methods_as_much():
    scales = {"text_scale": 2.5, "image_scale": 1.5}
    assert plan_arm("csd", scales).evaluations == 3 * 16 * 20 * 5
    assert plan_arm("in2n", scales).evaluations == 3 * 16 * 20 * 5
    assert plan_arm("sds", scales).iterations == round(20 * 5 / 3)


@pytest.fixture(scope="module")
def prior() -> priors.Prior:
    return priors.load("tiny")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "SCENE_VIEWS", VIEWS)
    monkeypatch.setattr(scenes, "SCENE_SIZE", SIZE)
    monkeypatch.setattr(scene_runs, "tiny_config", shrunk)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def given(store: Store) -> SceneInput:
    return draw_scene(3, "validation", store)


@pytest.fixture
def edited(
    given: SceneInput, store: Store, prior: priors.Prior, tmp_path: Path
) -> Callable[..., SceneResult]:
    def run(name: str, **how: Any) -> SceneResult:
        source = train_source(given, store, steps=3)
        how = {"prior": prior, "options": FEW, **how}
        return run_scene_arm(name, given, source, tmp_path / name, **how)

    return run


def tuned(name: str) -> Arm:
    arms = {arm.name: arm for arm in (*SceneDomain.arms, *SceneDomain.ablations)}
    return tuned_arm("scene", arms[name])


def pictures(folder: Path) -> torch.Tensor:
    arrays = [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255


def test_a_scene_is_drawn_once_and_shows_its_edit(store, given):
    record = json.loads((given.folder / "edit.json").read_text())
    assert (record["edit"], record["split"]) == ("darker", "validation")
    assert (given.edit.name, given.name) == ("darker", "03 darker")
    source01, truth01 = (pictures(given.folder / kind) for kind in ("images", "edited"))
    assert (truth01 - LOOKS["darker"](source01)).abs().max() < 0.01
    written = (given.folder / "transforms.json").stat().st_mtime_ns
    assert draw_scene(3, "validation", store) == given
    assert (given.folder / "transforms.json").stat().st_mtime_ns == written
    sky = draw_scene(2, "validation", store)
    changed = (pictures(sky.folder / "images") != pictures(sky.folder / "edited")).any(1)
    assert (changed.float().mean((1, 2)) > 0.03).sum() >= VIEWS / 2


def test_the_unedited_scene_is_trained_once(store, given):
    source = train_source(given, store, steps=3)
    (checkpoint,) = source.iterdir()
    assert checkpoint.name == "step-000000002.ckpt"
    written = checkpoint.stat().st_mtime_ns
    assert train_source(given, store, steps=3) == source
    assert checkpoint.stat().st_mtime_ns == written


def test_splats_are_edited_by_the_same_arms(store, given, prior, tmp_path):
    domain = SplatSceneDomain(prior, FEW, store)
    (arm,) = (arm for arm in domain.arms if arm.name == "csd")
    job = Job(tuned_arm("splat-scene", arm))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "SOURCE_STEPS", 3)
        decides = domain.decides(job, given)
        outcome = domain.measure(job, given, tmp_path / "splats")
        nerf = SceneDomain(prior, FEW, store).decides(job, given)
    assert decides["config"]["method_name"] == "csd-edit-splat-tiny"
    assert nerf["config"]["method_name"] == "csd-edit-tiny"
    assert decides["source"] != nerf["source"]
    assert outcome.row["evaluations"] > 0
    assert (tmp_path / "splats" / "csd-edit-splat-tiny" / "run" / "splats").is_dir()


def test_references_ask_nothing_of_the_prior(edited, given, prior):
    held_out = torch.arange(VIEWS) % 8 == 4
    truth01 = pictures(given.folder / "edited")
    source = edited("source")
    assert source.evaluations == 0
    assert torch.equal(source.truth01, truth01[held_out])
    assert torch.equal(source.views01, pictures(given.folder / "images")[~held_out])
    reached = edited("autoencoder")
    assert reached.evaluations == 0
    coded = prior.decode(prior.encode(truth01[~held_out]))
    assert (reached.views01 - coded).abs().max() < 0.51 / 255
    assert not torch.equal(reached.edited01, source.edited01)


@pytest.mark.parametrize("name", ["ip2p", "in2n", "csd"])
def test_a_method_edits_and_counts_what_it_asks_of_the_prior(name, edited, given, prior):
    counting = CountingPrior(prior)
    result = edited(name, prior=counting)
    assert result.evaluations == counting.evaluations > 0
    photographs = pictures(given.folder / "images")[torch.arange(VIEWS) % 8 != 4]
    assert result.views01.shape == photographs.shape
    assert (result.views01 - photographs).abs().mean() > 0.005
    assert result.edited01.shape == result.truth01.shape == (2, 3, SIZE, SIZE)
    assert 0 < result.cross_view_edits < 0.5


def test_equal_seeds_give_equal_numbers_and_leave_the_process_as_it_was(edited):
    from nerfstudio.utils import profiler, writer

    first = edited("csd")
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    second = edited("csd")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert not writer.EVENT_WRITERS
    assert not profiler.PROFILER
    assert torch.equal(first.edited01, second.edited01)
    assert torch.equal(first.views01, second.views01)
    assert (first.cross_view, first.cross_view_edits) == (
        second.cross_view,
        second.cross_view_edits,
    )
    assert not torch.equal(edited("csd", seed=1).edited01, second.edited01)


def test_depth_and_poses_fit_the_pictures(given):
    names = [Path(path.name) for path in sorted((given.folder / "images").glob("*.png"))]
    images = pictures(given.folder / "images")
    right = disagreement(images, names, given.folder)
    wrong = disagreement(images, [*names[1:], names[0]], given.folder)
    assert right < 0.5 * wrong
    assert disagreement(torch.full_like(images, 0.5), names, given.folder) < 1e-6


def test_unknown_options_are_named(edited):
    with pytest.raises(ValueError, match=r"one of the edit's.* got 'rate'"):
        edited("csd", options={**FEW, "rate": 1.0})


def test_the_benchmark_gets_its_rows(store, prior, monkeypatch, tmp_path):
    monkeypatch.setattr(scenes, "SOURCE_STEPS", 3)
    domain = SceneDomain(prior, FEW, store)
    assert isinstance(domain, Domain)
    given = domain.draw(3, "validation")
    assert isinstance(given, TruthInput)
    job = Job(tuned("csd-independent-noise"), seed=2)
    row = domain.measure(job, given, tmp_path / "run").row
    assert {column.key for column in domain.columns} | {"evaluations", "seconds"} == row.keys()
    # The unit is one update of three estimates, which is nearest to two of two.
    assert row["evaluations"] == 3 * 14 * 2 * 2


def test_what_decides_a_result_on_a_scene_is_told(store, prior, monkeypatch):
    monkeypatch.setattr(scenes, "SOURCE_STEPS", 3)
    domain, csd = SceneDomain(prior, FEW, store), Job(tuned("csd"))
    given = domain.draw(3, "validation")
    asked = [
        domain.decides(csd, given),
        domain.decides(Job(tuned("csd"), seed=1), given),
        domain.decides(Job(tuned("csd"), budget=2.0), given),
        domain.decides(Job(tuned("csd-no-stein")), given),
        domain.decides(Job(tuned("source")), given),
        domain.decides(Job(tuned("autoencoder")), given),
        SceneDomain(prior, {**FEW, "text_scale": 2.0}, store).decides(csd, given),
    ]
    monkeypatch.setattr(scenes, "SOURCE_STEPS", 4)
    asked.append(domain.decides(csd, given))
    assert len({json.dumps(values, sort_keys=True) for values in asked}) == len(asked)
    monkeypatch.setattr(scenes, "SOURCE_STEPS", 3)
    assert domain.decides(csd, given) == asked[0]


@pytest.mark.parametrize("name", ["ip2p", "csd"])
def test_a_budget_reaches_the_rounds(name, edited, prior):
    counted = []
    for budget in (1.0, 2.0):
        counting = CountingPrior(prior)
        edited(name, prior=counting, budget=budget, options={**FEW, "updates": 2})
        counted.append(counting.evaluations)
    assert counted[1] == 2 * counted[0] > 0
