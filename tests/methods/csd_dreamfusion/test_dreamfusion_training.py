"""Whole runs of the method, from the command's config to what other commands read."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from dreamfusion_runs import tiny_config
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.exporter.exporter_utils import generate_point_cloud
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement

from csd_nerf import priors
from csd_nerf.core.settings import DistillSettings
from csd_nerf.methods.csd_dreamfusion.config import csd_dreamfusion_tiny
from csd_nerf.methods.csd_dreamfusion.coverage import PATIENCE
from csd_nerf.methods.csd_dreamfusion.datamanager import orbit_cameras
from csd_nerf.methods.csd_dreamfusion.model import CSDDreamFusionModel
from csd_nerf.methods.csd_dreamfusion.rays import BEYOND
from csd_nerf.methods.csd_dreamfusion.report import (
    ObjectRenders,
    object_difference,
    render_around,
)
from csd_nerf.methods.csd_dreamfusion.shading import Light
from csd_nerf.methods.csd_dreamfusion.trainer import CSDDreamFusionTrainer
from csd_nerf.priors import lpips


def finished(trainer):
    return trainer.base_dir / "result"


def test_a_run_leaves_pictures_a_video_settings_and_a_checkpoint_that_renders(run, word_prior):
    trainer = run(steps=3)
    folder = finished(trainer)
    names = {path.name for path in folder.iterdir()}
    assert names == {"object.png", "object_turntable.mp4", "settings.json"}
    assert json.loads((folder / "settings.json").read_text())["prompt"] == "a bright thing"
    assert trainer.base_dir.parent.parent.name == "a-bright-thing"
    assert word_prior.loaded == 1

    _, pipeline, _, step = eval_setup(trainer.base_dir / "config.yml", test_mode="inference")
    assert step == 2
    assert word_prior.loaded == 1, "Evaluation needs no prior."
    # ns-viewer looks at all attributes for elements of its panel.
    parse_object(pipeline, ViewerElement, "Custom Elements")
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    ours, theirs = (
        p.model.eval().get_outputs_for_camera(camera) for p in (trainer.pipeline, pipeline)
    )
    for name in ("rgb", "depth", "accumulation", "normals"):
        assert torch.equal(ours[name], theirs[name]), name


def test_an_object_that_the_bundled_prior_does_not_know_is_told_and_recorded(run, capsys):
    trainer = run(steps=1)
    told = " ".join(capsys.readouterr().out.split())
    assert 'csd-dreamfusion: the bundled prior doesn\'t know "a bright thing"; it knows,' in told
    (notice,) = json.loads((finished(trainer) / "settings.json").read_text())["notices"]
    assert "a bright thing" in notice
    trainer = run(steps=1, prompt="a red cube")
    assert "doesn't know" not in capsys.readouterr().out
    assert json.loads((finished(trainer) / "settings.json").read_text())["notices"] == []


def test_evaluation_pictures_come_without_photographs(run):
    pipeline = run(steps=1).pipeline
    metrics, images = pipeline.get_eval_image_metrics_and_images(0)
    assert 0 < metrics["coverage"] < 1
    assert images["img"].shape == images["normals"].shape == (16, 16, 3)
    mean = pipeline.get_average_eval_image_metrics()
    assert 0 < mean["coverage"] < 1


def test_exporters_find_what_they_ask_for(run):
    pipeline = run(steps=2).pipeline
    pipeline.eval()
    pipeline.datamanager.train_pixel_sampler.num_rays_per_batch = 2048
    cloud = generate_point_cloud(
        pipeline, num_points=500, remove_outliers=False, normal_output_name="normals"
    )
    distance = torch.tensor(cloud.points).norm(dim=-1)
    assert len(distance) >= 500
    assert float(distance.max()) < 0.4
    # Around the surface there is haze, which covers pixels but has no depth to export.
    seen = {
        "rgb": torch.ones(3, 3),
        "accumulation": torch.tensor([[0.9], [0.8], [0.0]]),
        "depth": torch.tensor([[2.0], [BEYOND], [BEYOND]]),
    }
    opacity = pipeline.model.get_rgba_image(seen)[:, 3]
    assert torch.equal(opacity, torch.tensor([0.9, 0.0, 0.0]))
    dataset = pipeline.datamanager.train_dataset
    assert len(dataset._dataparser_outputs.cameras) == len(dataset) == 8
    assert len(list(pipeline.datamanager.fixed_indices_eval_dataloader)) == 8


@pytest.mark.parametrize(("prompt", "bright"), [("a bright thing", True), ("a dark thing", False)])
@pytest.mark.parametrize("distillation", ["csd", "sds"])
def test_objects_become_what_the_prior_knows(run, prompt, bright, distillation):
    trainer = run(steps=40, prompt=prompt, distillation=distillation, shading=(1.0, 0.0, 0.0))
    model = trainer.pipeline.model.eval()
    model.config.background = "network"
    rgb = model.get_outputs_for_camera(trainer.pipeline.datamanager.train_dataset.cameras[:1])
    middle = float(rgb["rgb"][6:10, 6:10].mean())
    assert middle > 0.65 if bright else middle < 0.35


def test_equal_seeds_give_equal_objects_and_both_arms_equal_cameras(run, monkeypatch):
    from csd_nerf.methods.csd_dreamfusion import pipeline as module

    seen = []
    real = module.distill

    def watch(prior, image01, **options):
        out = real(prior, image01, **options)
        seen.append((image01.detach().clone(), out.timestep))
        return out

    monkeypatch.setattr(module, "distill", watch)
    for distillation in ("csd", "csd", "sds"):
        run(steps=3, distillation=distillation)
    first, again, other = seen[:3], seen[3:6], seen[6:]
    for (a, t), (b, s) in zip(first, again, strict=True):
        assert torch.equal(a, b)
        assert t == s
    assert torch.equal(first[0][0], other[0][0])
    assert [t for _, t in first] == [t for _, t in other]
    # The first step's learning rate is next to nothing.
    assert not torch.equal(first[2][0], other[2][0])


def test_several_objects_are_made_and_saved_together(run):
    trainer = run(steps=3, num_particles=2)
    names = {path.name for path in finished(trainer).iterdir()}
    assert {"object_0.png", "object_1.png", "object_1_turntable.mp4"} <= names
    record = json.loads((finished(trainer) / "settings.json").read_text())
    assert set(record["differences"]) == {"0, 1"}
    assert 0 < record["differences"]["0, 1"]["colour"] < 1
    one, two = trainer.pipeline.model.fields
    points = torch.rand(50, 3) - 0.5
    assert not torch.equal(one(points)[1], two(points)[1])
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="inference")
    assert len(pipeline.model.fields) == 2


def test_differences_of_objects_are_those_of_their_pictures():
    def disc(radius, colour):
        at = torch.arange(32) - 15.5
        inside = (at[:, None].square() + at.square() < radius**2).float().expand(2, 32, 32)
        image01 = 1 - inside[:, None] * (1 - torch.tensor(colour)[:, None, None])
        return ObjectRenders(*[image01] * 5, inside)

    same = object_difference(disc(8, (1.0, 0.0, 0.0)), disc(8, (1.0, 0.0, 0.0)))
    assert same == {"colour": 0.0, "silhouette": 0.0}
    other = object_difference(disc(8, (1.0, 0.0, 0.0)), disc(8, (0.0, 0.0, 0.0)))
    assert other["silhouette"] == 0
    assert other["colour"] == pytest.approx(math.pi * 64 / 32**2 / 3, rel=0.05)
    small = object_difference(disc(8, (1.0, 0.0, 0.0)), disc(4, (1.0, 0.0, 0.0)))
    assert small["silhouette"] == pytest.approx(0.75, abs=0.03)


def test_lit_views_are_brighter_towards_the_upper_left_of_every_camera(run):
    """Of the blob that an untrained field is."""
    model = run(steps=1).pipeline.model
    seen = render_around(model, views=5, size=24, light=(-0.9, 0.9), ambient=0.4)
    flat = render_around(model, views=5, size=24, light=(-0.9, 0.9), ambient=1.0)
    torch.testing.assert_close(flat.lit01, flat.colour01, atol=1e-5, rtol=0)
    share = (seen.lit01 / seen.colour01)[:, 0]
    assert (share[:, 10, 10] > share[:, 13, 13] + 0.1).all()
    assert share.min() > 0.39
    assert share.max() < 1.001


@pytest.mark.parametrize(
    ("bias", "radius", "word"),
    [(-50.0, -9.0, "vanished"), (200.0, 9.0, "filled its sphere")],
    ids=["empty", "full"],
)
def test_a_collapsed_object_stops_the_run_with_one_line(run, tmp_path, bias, radius, word):
    config = tiny_config(tmp_path, steps=PATIENCE + 5)
    config.pipeline.model.density_bias, config.pipeline.model.bias_radius = bias, radius
    with pytest.raises(SystemExit) as caught:
        run(config=config)
    message = str(caught.value)
    assert message.startswith(f"csd-dreamfusion: The object has {word} by step")
    assert "\n" not in message
    assert (tmp_path / "a-bright-thing/csd-dreamfusion-tiny/run/result/object.png").exists()


def test_one_of_several_objects_cannot_vanish_unnoticed(run, tmp_path, monkeypatch):
    build = CSDDreamFusionModel._build_field

    def build_one_empty(self):
        field = build(self)
        if len(getattr(self, "fields", [])) == 0 and not hasattr(self, "_built"):
            self._built = True
            return field
        field._bias, field._bias_radius = -50.0, -9.0
        return field

    monkeypatch.setattr(CSDDreamFusionModel, "_build_field", build_one_empty)
    config = tiny_config(tmp_path, steps=PATIENCE + 5, num_particles=2)
    with pytest.raises(SystemExit, match=r"Object 1 has vanished by step"):
        run(config=config)


def test_every_view_is_lit_from_its_own_side(run):
    pipeline = run(steps=1).pipeline
    model, scene = pipeline.model.train(), pipeline.model.fields[0]
    cameras = orbit_cameras(
        torch.tensor([0.0, math.pi]), torch.zeros(2), radius=2.5, focal=1.2, size=12
    )
    rays = cameras.generate_rays(torch.arange(2)[:, None])
    rays = rays._apply_fn_to_fields(lambda t: t.movedim(2, 0).flatten(0, 2))
    eyes = torch.nn.functional.normalize(cameras.camera_to_worlds[:, :3, 3], dim=1)

    def middle(lights):
        light = Light(lights.repeat_interleave(144, dim=0), ambient=0.0)
        out = model.render(
            scene, rays, shading="textureless", light=light, background01=torch.zeros(3)
        )
        return out["rgb"].view(2, 12, 12, 3)[:, 5:7, 5:7].mean((1, 2, 3)).detach()

    own, first = middle(eyes), middle(eyes[:1].expand(2, 3))
    assert float(own.min()) > 0.6
    assert float(first[0]) > 0.6
    assert float(first[1]) < 0.3


def test_the_text_encoder_is_freed_before_the_first_step(run, word_prior):
    run(steps=1)
    assert word_prior.freed == 1


def test_without_lpips_weights_views_are_compared_by_squared_l2_and_the_run_says_so(
    run, tmp_path, monkeypatch, capsys
):
    def missing():
        raise FileNotFoundError("LPIPS needs AlexNet's weights")

    monkeypatch.setattr(lpips, "lpips_network", missing)
    config = tiny_config(tmp_path, steps=2)
    config.pipeline.distill = replace(config.pipeline.distill, kernel="lpips")
    trainer = run(config=config)
    first = trainer.pipeline.model.state_dict()
    notices = json.loads((finished(trainer) / "settings.json").read_text())["notices"]
    assert any("squared L2" in notice for notice in notices)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("squared L2 instead of LPIPS: LPIPS needs AlexNet's weights") == 1
    second = run(steps=2).pipeline.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)

    config = tiny_config(tmp_path, steps=1, distillation="sds")
    config.pipeline.distill = replace(config.pipeline.distill, kernel="lpips")
    run(config=config)
    assert "LPIPS" not in capsys.readouterr().out, "SDS has no kernel."


def test_a_prior_of_another_kind_ends_in_one_line(run, monkeypatch, word_prior):
    def refuse(*_, **__):
        raise ValueError("'ip2p' edits images:\nname a text-to-image model.")

    for function in ("load", "fetch"):
        with monkeypatch.context() as patch:
            patch.setattr(priors, function, refuse)
            with pytest.raises(SystemExit, match=r"^csd-dreamfusion: 'ip2p' edits images: name a"):
                run(steps=1)


def test_numbers_that_are_not_finite_stop_the_run_with_one_line(run, word_prior, monkeypatch):
    monkeypatch.setattr(
        word_prior,
        "predict",
        lambda self, branches, *_, **__: torch.full(
            (len(branches), *branches[0].noisy.shape), float("nan")
        ),
    )
    with pytest.raises(SystemExit, match=r"^csd-dreamfusion: Residuals need to be finite"):
        run(steps=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.pipeline, "prompt", " "), "The prompt is empty; say what to make"),
        (
            lambda c: setattr(c.pipeline.datamanager, "data", c.output_dir),
            "csd-dreamfusion takes no data, got --data",
        ),
        (
            lambda c: setattr(c.machine, "device_type", "cuda"),
            "--machine.device-type is cuda, and torch finds no GPU",
        ),
        (
            lambda c: setattr(c, "load_dir", c.output_dir),
            r"--load-dir needs a folder with step-\*.ckpt in it",
        ),
    ],
    ids=["prompt", "data", "cuda", "load"],
)
def test_mistakes_end_in_one_line(run, tmp_path, change, message):
    if torch.cuda.is_available() and "cuda" in message:
        pytest.skip("there is a GPU")
    config = tiny_config(tmp_path, steps=1)
    change(config)
    with pytest.raises(SystemExit, match=f"^csd-dreamfusion: {message}") as caught:
        run(config=config)
    assert "\n" not in str(caught.value)


def test_the_prompt_of_nerfstudio_itself_works(run, tmp_path):
    config = tiny_config(tmp_path, steps=1, prompt="")
    config.pipeline.model.prompt = "a dark thing"
    trainer = run(config=config)
    assert trainer.pipeline.config.prompt == "a dark thing"
    assert trainer.base_dir.parent.parent.name == "a-dark-thing"


def test_a_checkpoint_of_another_model_is_refused(run, tmp_path):
    trainer = run(steps=1)
    config = tiny_config(tmp_path, steps=1)
    config.load_dir, config.timestamp = trainer.checkpoint_dir, "second"
    config.pipeline.model.width = 16
    with pytest.raises(
        SystemExit,
        match=r"does not fit the model: .* \d+ more; set --pipeline.model",
    ):
        run(config=config)


def test_a_resumed_run_is_the_one_that_never_stopped(run, tmp_path):
    whole = run(steps=5).pipeline.model.state_dict()
    config = tiny_config(tmp_path, steps=3)
    config.timestamp = "first"
    first = run(config=config)
    config = tiny_config(tmp_path, steps=5)
    config.load_dir, config.timestamp = first.checkpoint_dir, "second"
    second = run(config=config)
    assert second.step == 4
    assert {path.name for path in second.checkpoint_dir.iterdir()} == {"step-000000004.ckpt"}
    for name, value in second.pipeline.model.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_a_run_does_not_write_over_the_one_that_it_loads(run, tmp_path):
    first = run(steps=1)
    config = tiny_config(tmp_path, steps=2)
    config.load_dir = first.checkpoint_dir
    with pytest.raises(SystemExit, match=r"csd-dreamfusion: .* needs a folder of its own, got"):
        config.save_config()


def test_a_run_that_is_done_says_so(run, tmp_path):
    first = run(steps=2)
    config = tiny_config(tmp_path, steps=2)
    config.load_dir, config.timestamp = first.checkpoint_dir, "second"
    with pytest.raises(SystemExit, match=r"has done 2 steps, and --max-num-iterations asks for 2"):
        run(config=config)


def test_an_interrupted_run_can_be_gone_on_with(run, tmp_path, capsys, monkeypatch):
    whole = run(steps=4)
    plain = CSDDreamFusionTrainer.train_iteration

    def train_iteration(self, step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, step)

    config = tiny_config(tmp_path / "stopped", steps=4)
    with monkeypatch.context() as patch:
        patch.setattr(CSDDreamFusionTrainer, "train_iteration", train_iteration)
        with pytest.raises(SystemExit) as ended:
            run(config=config)
    assert ended.value.code == 130
    folder = config.get_checkpoint_dir()
    assert [path.name for path in folder.iterdir()] == ["step-000000001.ckpt"]
    assert f"csd-dreamfusion: interrupted; go on with: --load-dir {folder}" in (
        capsys.readouterr().err
    )
    left = {path.name for path in (folder.parent / "result").iterdir()}
    assert left == {"object.png", "object_turntable.mp4", "settings.json"}
    config = tiny_config(tmp_path / "resumed", steps=4)
    config.load_dir = folder
    resumed = run(config=config)
    assert resumed.step == 3
    states = (trainer.pipeline.model.state_dict() for trainer in (whole, resumed))
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


def test_a_resumed_run_takes_over_what_the_first_was_told(run, tmp_path, capsys):
    config = tiny_config(tmp_path, steps=2, prompt="a dark thing", distillation="sds", seed=3)
    config.pipeline.model.width, config.pipeline.distill = 16, DistillSettings(text_scale=1.5)
    config.pipeline.datamanager.elevation_range = (0.0, 30.0)
    config.optimizers["fields"]["optimizer"].lr = 0.02
    first = run(config=config)

    config = copy.deepcopy(csd_dreamfusion_tiny.config)
    config.output_dir, config.load_dir = tmp_path / "second", first.checkpoint_dir
    config.max_num_iterations, config.pipeline.seed = 3, 4
    capsys.readouterr()
    trainer = run(config=config)
    given = trainer.pipeline.config
    assert (given.prompt, given.distillation, given.seed) == ("a dark thing", "sds", 4)
    assert (given.model.width, given.distill.text_scale) == (16, 1.5)
    assert given.datamanager.train_resolution == 12
    assert given.datamanager.elevation_range == (0.0, 30.0)
    assert trainer.config.optimizers["fields"]["optimizer"].lr == 0.02
    assert trainer.config.result_size == 16
    assert trainer.step == 2
    told = "".join(capsys.readouterr().out.split())
    notices = json.loads((finished(trainer) / "settings.json").read_text())["notices"]
    for text in (
        "--pipeline.distillation sds is taken over from the loaded run",
        "--pipeline.distill.text-scale 1.5 is taken over from the loaded run",
        "--optimizers.fields.optimizer.lr 0.02 is taken over from the loaded run",
    ):
        assert text in notices
        assert "".join(text.split()) in told
    assert not any("--pipeline.seed" in notice for notice in notices)


def test_a_run_of_another_method_is_refused(run, tmp_path):
    other = TrainerConfig(method_name="nerfacto", output_dir=tmp_path, timestamp="other")
    other.save_config()
    models = other.get_checkpoint_dir()
    models.mkdir()
    torch.save({"step": 1, "pipeline": {}}, models / "step-000000001.ckpt")
    config = tiny_config(tmp_path / "second", steps=3)
    config.load_dir = models
    with pytest.raises(SystemExit, match="goes on from its own runs, got one of nerfacto"):
        run(config=config)


@pytest.mark.parametrize("part", ["encode", "predict"])
def test_batches_become_smaller_when_memory_runs_out(run, word_prior, monkeypatch, capsys, part):
    whole = run(steps=2).pipeline.model.state_dict()
    plain, refused = getattr(word_prior, part), []

    def with_little_memory(self, batch, *rest, max_batch=None, **options):
        size = len(batch) if part == "encode" else max_batch
        if size is None or size > 1:
            refused.append(size)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batch, *rest, **options)

    monkeypatch.setattr(word_prior, part, with_little_memory)
    trainer = run(steps=2)
    assert refused
    told = "".join(capsys.readouterr().out.split())
    assert "--pipeline.distill.max-batchsetsitfromthestart." in told
    (notice,) = json.loads((finished(trainer) / "settings.json").read_text())["notices"][1:]
    assert notice.endswith("from now on it is 1")
    for name, value in trainer.pipeline.model.state_dict().items():
        assert torch.allclose(value, whole[name], atol=1e-5), name


@pytest.mark.parametrize("damage", ["cut", "optimizers"])
def test_a_broken_checkpoint_ends_in_one_line(run, tmp_path, damage):
    first = run(steps=1)
    (path,) = first.checkpoint_dir.iterdir()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        state = torch.load(path, weights_only=True)
        del state["optimizers"]
        torch.save(state, path)
    config = tiny_config(tmp_path / "second", steps=3)
    config.load_dir = first.checkpoint_dir
    with pytest.raises(SystemExit, match=r"csd-dreamfusion: .*step-000000000\.ckpt") as ended:
        run(config=config)
    assert "\n" not in str(ended.value)


def test_several_devices_are_refused_before_processes_start(tmp_path):
    config = tiny_config(tmp_path, steps=1)
    config.set_experiment_name()
    config.machine.num_devices = 2
    with pytest.raises(SystemExit, match="trains on one device, got 2"):
        config.save_config()
