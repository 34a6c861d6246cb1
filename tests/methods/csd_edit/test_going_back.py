"""Nerfacto goes back, previews, saves, shows the unedited scene and is edited on top of edits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edit_runs import checkpoint_of, differences, start
from live_runs import SIZE, assert_same, check_going_back, seen, train_with, without_viewer
from plyfile import PlyData

from csd_nerf import priors
from csd_nerf.methods.common.unedited import UNEDITED
from csd_nerf.methods.csd_edit import trainer as trainer_module
from csd_nerf.scene.protocol import LiveScene


@pytest.fixture(autouse=True)
def _viewer(monkeypatch, tint_prior):
    without_viewer(monkeypatch)
    monkeypatch.setattr(trainer_module, "POINTS", 1200)


def test_the_scene_goes_back_to_the_last_bit_and_the_run_can_be_resumed(make_config):
    trainer = start(make_config())
    assert isinstance(trainer.pipeline.scene, LiveScene)
    found = check_going_back(trainer, first=4, every=3)
    assert trainer.step == 11
    config = make_config("resumed")
    config.load_dir, config.pipeline.edit_steps = trainer.checkpoint_dir, 16
    resumed = start(config, seed=7)
    # In another run, that of source_models is what it goes back to.
    at_reset = {}

    def after(step):
        if step == 15:
            at_reset[step] = seen(resumed)

    train_with(resumed, {15: {"return_to": -1, "paused": True}}, after=after)
    assert_same(at_reset[15], found[4])
    assert resumed.step == 19
    assert len(list((resumed.base_dir / "history").glob("*.pt"))) <= 1


def files_of(trainer) -> tuple[set[str], set[str]]:
    """Edits that are there, and those that snapshots name."""
    there = {path.name for path in (trainer.base_dir / "edits").glob("*.png")}
    named = set()
    for path in (trainer.base_dir / "history").glob("*.pt"):
        scene = torch.load(path, weights_only=True)["scene"]
        named |= {record["file"] for record in scene["edits"].values()}
    return there, named


def test_edits_that_a_past_round_names_stay_and_others_go(make_config):
    config = make_config()
    config.steps_per_save, config.pipeline.history, config.pipeline.edit_steps = 1, 1, 14
    trainer = start(config)
    numbers = []

    def before(step):
        there, named = files_of(trainer)
        assert named <= there
        numbers.append(len(list((trainer.base_dir / "history").glob("*.pt"))))

    # Views are edited anew, with another edit each time.
    changes = {s: {"seed": s} for s in range(20)}
    train_with(trainer, changes, before=before)
    assert max(numbers) == 1
    there, named = files_of(trainer)
    assert named <= there
    now = trainer.pipeline.datamanager.edit_files
    assert there == named | now
    # A resumed run has what it needs of its own.
    config = make_config("resumed")
    config.load_dir, config.pipeline.edit_steps = trainer.checkpoint_dir, 16
    resumed = start(config)
    assert files_of(resumed)[1] <= files_of(resumed)[0]
    last = resumed.pipeline.stage.state.history[-2].index
    asks = train_with(resumed, {19: {"return_to": last}})
    assert f"back at the end of round {last}" in asks.told


def test_a_preview_leaves_the_run_as_it_is_to_the_last_bit(make_config):
    plain = start(make_config("plain"))
    train_with(plain, {})
    trainer = start(make_config("asked"))
    camera = trainer.pipeline.datamanager.train_dataset.cameras[2:3]
    asks = train_with(trainer, {step: {"preview": camera} for step in (1, 4, 5, 7, 9)})
    assert len(asks.previews) == 5
    before01, after01 = asks.previews[-1]
    assert before01.shape == after01.shape
    assert not torch.equal(before01, after01)
    assert differences(checkpoint_of(plain), checkpoint_of(trainer)) == []
    # nerfstudio counts a render as a step of training, once the first few are over.
    model = trainer.pipeline.model
    model.set_counters({"step": 5000, "since": 9})
    before = model.counters()
    trainer.pipeline.scene.render_at(camera, size=SIZE)
    assert model.counters() == before
    trainer.pipeline.scene.render(2, size=SIZE)
    assert model.counters() != before


def test_the_unedited_scene_is_an_output_only_when_asked_for(make_config):
    trainer = start(make_config())
    model, shown = trainer.pipeline.model, {}
    camera = trainer.pipeline.datamanager.train_dataset.cameras[2:3]

    def output():
        model.eval()
        outputs = model.get_outputs_for_camera(camera)
        model.train()
        return outputs

    def after(step):
        model.shows_unedited = False
        assert UNEDITED not in output()
        model.shows_unedited = True
        shown[step] = output()
        trainer.pipeline.scene.render(2, size=SIZE)

    train_with(trainer, {}, after=after)
    for step, outputs in shown.items():
        assert torch.equal(outputs[UNEDITED], shown[min(step, 4)]["rgb"]), step
    assert not torch.equal(shown[11][UNEDITED], shown[11]["rgb"])
    saved = checkpoint_of(trainer)["pipeline"]
    assert not [key for key in saved if "unedited" in key or "kept" in key]
    model.shows_unedited = True
    calls = []
    kept = model.unedited
    assert kept is not model
    kept.get_outputs_for_camera = lambda *a, **k: calls.append(1)
    trainer.pipeline.get_average_eval_image_metrics()
    trainer.pipeline.get_eval_image_metrics_and_images(11)
    trainer.pipeline.scene.render(2, size=SIZE)
    assert calls == []


class SourcePrior:
    """Wraps a prior; remembers the images that it was shown as sources."""

    def __init__(self, prior):
        self._prior, self.sources01 = prior, []

    def __getattr__(self, name):
        return getattr(self._prior, name)

    def encode_source(self, image01):
        self.sources01.append(image01)
        return self._prior.encode_source(image01)


def test_chain_edits_the_scene_of_the_run_that_is_loaded_and_is_resumed(make_config, train):
    first = train(make_config("first"))
    assert not (first.base_dir / "history").exists()

    def go_on(name, trainer, steps):
        config = make_config(name)
        config.load_dir, config.pipeline.edit_steps = trainer.checkpoint_dir, steps
        config.pipeline.prompt, config.pipeline.chain = "make it snow", True
        after = start(config)
        prior = SourcePrior(priors.load("any"))
        after.pipeline.lend_prior(prior)
        scene, shown = after.pipeline.scene, {}

        def before(step):
            views = range(scene.num_views)
            shown[step] = [scene.render(view, size=(32, 32)).image01 for view in views]

        train_with(after, {}, is_live=False, before=before)
        return after, torch.cat(prior.sources01), shown

    second, sources01, shown = go_on("second", first, 12)
    # The first round comes before step 13.
    assert len(sources01) == 4
    for source01 in sources01:
        assert any(torch.equal(source01, image01) for image01 in shown[13])
    (base,) = (second.base_dir / "history").iterdir()
    third, again01, now = go_on("third", second, 20)
    assert [path.name for path in (third.base_dir / "history").iterdir()] == [base.name]
    assert len(again01) == 12
    for source01 in again01:
        assert any(torch.equal(source01, image01) for image01 in shown[13])
        assert not any(torch.equal(source01, image01) for image01 in now[16])


def test_saving_writes_a_checkpoint_and_points(make_config):
    def dense(name):
        config = make_config(name)
        # So few steps leave a scene through which rays pass, if they find it so.
        config.pipeline.model.average_init_density = 5.0
        return config

    trainer = start(dense("saved"))
    asks = train_with(trainer, {6: {"save": True}, 7: {"edit_now": True}})
    (told,) = [text for text in asks.told if text.startswith("saved: ")]
    checkpoints, points = map(Path, told.removeprefix("saved: ").split(", "))
    assert checkpoints == trainer.checkpoint_dir
    vertex = PlyData.read(str(points))["vertex"]
    assert 0 < len(vertex["x"]) <= 1200
    assert {"x", "y", "z", "red", "green", "blue"} == set(vertex.data.dtype.names)
    plain = start(dense("plain"))
    train_with(plain, {7: {"edit_now": True}})
    assert differences(checkpoint_of(plain), checkpoint_of(trainer)) == []


def test_a_restore_that_fails_leaves_what_was_there(make_config):
    trainer = start(make_config())
    before = {}

    def at(step):
        if step == 9:
            for path in (trainer.base_dir / "edits").glob("*.png"):
                path.unlink()
            before[step] = seen(trainer)
            before["optimizers"] = trainer.optimizers

    def after(step):
        if step == 9:
            assert_same(before[9], seen(trainer))
            assert trainer.optimizers is before["optimizers"]

    asks = train_with(trainer, {9: {"return_to": 0}}, before=at, after=after)
    assert any("The scene can't go back: The checkpoint needs the edit" in t for t in asks.told)
    assert trainer.step == 11
