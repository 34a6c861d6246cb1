"""Runs of csd-edit-splat: both stages, what they leave, what is loaded and resumed."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from helped_runs import check_helped
from nerfstudio.data.dataparsers import nerfstudio_dataparser
from nerfstudio.engine.trainer import Trainer
from nerfstudio.models import splatfacto
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement
from numpy.lib.recfunctions import repack_fields
from PIL import Image
from plyfile import PlyData, PlyElement
from splat_runs import SIZE, gaussians_of, splat_config, start_splats

from csd_nerf import priors
from csd_nerf.methods.common.edit_scene import resized_camera
from csd_nerf.methods.common.transforms import checked
from csd_nerf.methods.csd_edit_splat.datamanager import CSDEditSplatDataManagerConfig
from csd_nerf.methods.csd_edit_splat.scene import ray_lengths
from csd_nerf.scene.protocol import Scene


def test_a_run_has_both_stages_and_leaves_its_rounds_and_its_splats(make_splats, train_splats):
    trainer = train_splats(make_splats())
    base = trainer.base_dir
    assert trainer.step == 29
    assert [p.name for p in (base / "nerfstudio_models").iterdir()] == ["step-000000029.ckpt"]
    assert [p.name for p in (base / "source_models").iterdir()] == ["step-000000021.ckpt"]
    records = [json.loads(p.read_text()) for p in sorted((base / "rounds").glob("*.json"))]
    assert [record["step"] for record in records] == [22, 25, 28]
    assert sorted({v for record in records for v in record["views"]}) == list(range(11))
    assert isinstance(trainer.pipeline.scene, Scene)
    # The prior swaps red and blue, and the splats are trained on that.
    manager = trainer.pipeline.datamanager
    assert sorted(manager.edited) == list(range(11))
    for view, image in manager.edited.items():
        photograph01 = manager.photograph01(view)
        swapped01 = photograph01.flip(-1)
        left, whole = (
            (image / 255 - swapped01).abs().mean(),
            (photograph01 - swapped01).abs().mean(),
        )
        assert float(left) < 0.8 * float(whole)
    files = {path.name for path in (base / "splats").iterdir()}
    assert files == {"source.ply", "edited.ply", "before_after.ply"}


def test_a_step_on_a_cpu_takes_one_thread(make_splats, train_splats, monkeypatch):
    seen, step = [], Trainer.train_iteration

    def watched(trainer, number):
        seen.append(torch.get_num_threads())
        return step(trainer, number)

    monkeypatch.setattr(Trainer, "train_iteration", watched)
    config, before = make_splats(), torch.get_num_threads()
    config.max_num_iterations = 2
    torch.set_num_threads(2)
    try:
        train_splats(config)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]


def test_edits_reach_the_loss(make_splats, train_splats):
    trainer = start_splats(make_splats())
    pipeline = trainer.pipeline
    pipeline.datamanager.begin_editing()
    pipeline.model.begin_editing()

    def gradient(edited):
        pipeline.datamanager.set_edited({3: edited})
        pipeline.datamanager.train_unseen_cameras = [3, 3]
        pipeline.model.step = 0
        pipeline.zero_grad()
        pipeline.model.step_cb(trainer, 0)
        _, losses, _ = pipeline.get_train_loss_dict(0)
        sum(losses.values()).backward()
        return pipeline.model.gauss_params["features_dc"].grad.clone()

    image = (pipeline.datamanager.photograph01(3) * 255).round().byte()
    first = gradient(image)
    assert torch.equal(gradient(image), first)
    changed = image.clone()
    changed[20, 20] = 255 - changed[20, 20]
    assert not torch.equal(gradient(changed), first)
    pipeline.datamanager.reset_images()
    again = (pipeline.datamanager.photograph01(3) * 255).round().byte()
    assert torch.equal(again, image)


def test_an_edit_changes_the_image_that_training_holds_and_reset_restores_it(make_splats):
    manager = start_splats(make_splats()).pipeline.datamanager
    before = [data["image"].clone() for data in manager.cached_train]
    red = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8)
    red[..., 0] = 200
    manager.set_edited({2: red})
    assert torch.equal(manager.cached_train[2]["image"], red)
    assert torch.equal(manager.photograph01(2), before[2] / 255)
    manager.set_edited({2: red + 5})
    manager.reset_images()
    assert all(
        torch.equal(d["image"], b) for d, b in zip(manager.cached_train, before, strict=True)
    )
    assert manager.edited == {}


def test_only_edited_views_are_drawn_when_asked(make_splats):
    manager = start_splats(make_splats()).pipeline.datamanager
    drawn = {manager.next_train(step)[0].metadata["cam_idx"] for step in range(11)}
    assert drawn == set(range(11))
    manager.begin_editing()
    image = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8)
    manager.set_edited({1: image})
    assert {manager.next_train(0)[0].metadata["cam_idx"] for _ in range(5)} == {1}
    manager.set_edited({4: image})
    assert {manager.next_train(0)[0].metadata["cam_idx"] for _ in range(9)} == {1, 4}
    manager.reset_images()
    assert len({manager.next_train(0)[0].metadata["cam_idx"] for _ in range(11)}) == 11


@pytest.mark.parametrize("stop", [19, 25])
def test_a_resumed_run_is_the_one_that_never_stopped(make_splats, train_splats, stop):
    """Stopped in either stage, after Gaussians were split, cloned and culled."""
    whole = train_splats(make_splats("whole"))
    first = make_splats("first")
    first.max_num_iterations = stop
    first = train_splats(first)
    assert first.step == stop - 1
    begun = len(
        torch.load(next(first.checkpoint_dir.iterdir()), weights_only=True)["pipeline"][
            "_model.gauss_params.means"
        ]
    )
    assert begun != 300
    config = make_splats("second")
    config.load_dir = first.checkpoint_dir
    second = train_splats(config, seed=9)
    assert second.step == 29
    ours, theirs = gaussians_of(second), gaussians_of(whole)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_densification_ends_with_the_source_stage_unless_asked_for(make_splats, train_splats):
    numbers = {}
    for wanted in (False, True):
        config = make_splats(str(wanted))
        config.pipeline.model.densify_editing = wanted
        # Where it goes on, the editing stage's first step refines.
        config.pipeline.source_steps = 20
        trainer = train_splats(config)
        (source,) = (trainer.base_dir / "source_models").iterdir()
        state = torch.load(source, weights_only=True)["pipeline"]
        before = len(state["_model.gauss_params.means"])
        numbers[wanted] = (before, trainer.pipeline.model.num_points)
    assert numbers[False][0] == numbers[False][1] > 300
    assert numbers[True][0] != numbers[True][1]


def test_geometry_is_trained_more_slowly_in_the_editing_stage(make_splats, train_splats):
    config = make_splats()
    config.pipeline.model.editing_geometry_rate = 0.25
    config.max_num_iterations = 23
    trainer = train_splats(config)
    after = trainer.optimizers.optimizers
    usual = trainer.config.optimizers
    for name, optimizer in after.items():
        factor = 0.25 if name in ("means", "scales", "quats", "opacities") else 1
        wanted = factor * usual[name]["optimizer"].lr
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted, rel=0.01), name
    assert trainer.optimizers.schedulers["means"].base_lrs[0] == pytest.approx(4e-4)


@pytest.fixture
def stock_run(splat_data, tmp_path):
    """A run of nerfstudio's own splatfacto, on a CPU by the replaced name."""
    from nerfstudio.configs.method_configs import all_methods

    config = copy.deepcopy(all_methods["splatfacto"])
    ours = splat_config(splat_data, tmp_path)
    config.output_dir, config.timestamp, config.vis = tmp_path / "stock", "run", "tensorboard"
    config.machine.device_type, config.max_num_iterations = "cpu", 6
    config.logging.profiler = "none"
    config.pipeline.datamanager.data = splat_data
    # Of our class, since splatfacto's own calls CUDA by name.
    ours.pipeline.model.sh_degree = 2
    model = ours.pipeline.model
    fields = vars(config.pipeline.model)
    model.__dict__.update({k: v for k, v in fields.items() if k != "_target"})
    model.num_downscales = 0
    config.pipeline.model = model
    config.save_config()
    trainer = start_splats(config)
    trainer.train()
    return trainer


def test_editing_goes_on_from_a_stock_run(stock_run, make_splats, train_splats):
    path = next(stock_run.checkpoint_dir.iterdir())
    saved = torch.load(path, weights_only=True)["pipeline"]
    assert "_extra_state" not in saved
    config = make_splats()
    config.load_dir = stock_run.checkpoint_dir
    config.pipeline.model = copy.deepcopy(config.pipeline.model)
    trainer = start_splats(config)
    assert trainer._start_step == 6
    for name, value in gaussians_of(trainer).items():
        assert torch.equal(value, saved[f"_model.gauss_params.{name}"])
    assert trainer.pipeline.model.step == 5
    trainer = train_splats(config)
    assert trainer.step == 13
    assert len(list((trainer.base_dir / "rounds").glob("*.png"))) == 3


def test_a_render_shows_what_the_photograph_shows(make_splats, train_splats):
    """Of splats that are trained a little: nearest to its own photograph, at any size."""
    config = make_splats()
    config.pipeline.source_steps = config.max_num_iterations = 250
    config.pipeline.model.refine_every = 1000
    scene = train_splats(config).pipeline.scene
    photographs = torch.stack([scene.photograph01(view) for view in range(scene.num_views)])
    for view in (0, 4, 7):
        render = scene.render(view, size=(SIZE, SIZE))
        errors = (photographs - render.image01).square().mean((1, 2, 3))
        assert int(errors.argmin()) == view
        assert float(errors[view]) < 0.5 * float(errors.median())
        wide = scene.render(view, size=(SIZE, 2 * SIZE))
        assert wide.image01.shape == (3, SIZE, 2 * SIZE)
        halved = torch.nn.functional.avg_pool2d(wide.image01[None], (1, 2))[0]
        assert float((halved - render.image01).abs().mean()) < 0.02


def test_depth_is_the_distance_along_rays(make_splats, splat_data):
    scene = start_splats(make_splats()).pipeline.scene
    cameras = scene._images.train_dataset.cameras
    camera = resized_camera(cameras[:1], (20, 30))
    rays = camera.generate_rays(camera_indices=0)
    axis = -camera.camera_to_worlds[0, :3, 2]
    cosine = (rays.directions[..., :] @ axis).squeeze()
    torch.testing.assert_close(ray_lengths(camera), 1 / cosine, atol=1e-5, rtol=1e-5)
    model = scene._model.eval()
    along_axis = model.get_outputs_for_camera(camera)["depth"][..., 0]
    shown = scene.render(0, size=(20, 30)).depth
    torch.testing.assert_close(shown, along_axis / cosine, atol=1e-4, rtol=1e-4)
    assert float(cosine.min()) < 0.9


def test_an_edit_that_changes_nothing_leaves_transparent_photographs_as_they_are(
    make_splats, splat_data, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(splat_data, data)
    for path in (data / "images").iterdir():
        pixels = np.asarray(Image.open(path))
        alpha = np.linspace(0, 255, SIZE).astype(np.uint8)[:, None].repeat(SIZE, 1)
        Image.fromarray(np.dstack([pixels, alpha])).save(path)
    config = make_splats(data=data)
    config.pipeline.model.background_color = "white"
    scene = start_splats(config).pipeline.scene
    before = scene._images.cached_train[0]["image"].clone()
    assert before.shape == (SIZE, SIZE, 4)
    shown01 = scene.photograph01(0)
    assert float(shown01[:, 0].min()) == 1
    scene.set_edited({0: (shown01 * 255).round().byte().permute(1, 2, 0)})
    after = scene._images.cached_train[0]["image"]
    assert torch.equal(after[..., 3], before[..., 3])
    error = (after.int() - before.int()).abs()[..., :3].amax(2)
    # Rounding to bytes is divided by alpha.
    assert (error <= 128 / before[..., 3].clamp(min=1) + 1).all()


def test_other_commands_read_a_run_without_the_prior(make_splats, train_splats, monkeypatch):
    trainer = train_splats(make_splats())
    wanted = trainer.pipeline.scene.render(0, size=(SIZE, SIZE)).image01
    monkeypatch.setattr(
        "csd_nerf.priors.load", lambda *_, **__: pytest.fail("the prior was loaded")
    )
    _, pipeline, _, step = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    assert (step, pipeline.model.step) == (29, 29)
    assert isinstance(pipeline.model, splatfacto.SplatfactoModel)
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    shown = pipeline.model.get_outputs_for_camera(camera)["rgb"].permute(2, 0, 1)
    assert torch.allclose(shown, wanted, atol=1e-5)
    metrics = pipeline.get_average_eval_image_metrics()
    assert metrics["psnr"] > 5
    assert "lpips" not in metrics
    # ns-viewer looks at all attributes for elements of its panel.
    assert parse_object(pipeline, ViewerElement, "Custom Elements") == []


def test_points_begin_in_their_place_and_colour(make_splats, splat_data):
    model = start_splats(make_splats()).pipeline.model
    points = PlyData.read(str(splat_data / "points.ply"))["vertex"]
    assert model.num_points == len(points["x"]) == 300
    rgb = np.stack([points[name] for name in ("red", "green", "blue")], axis=1)
    colours = torch.from_numpy(rgb)
    assert torch.allclose(splatfacto.SH2RGB(model.features_dc), colours / 255, atol=1e-3)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("coloured", [False, True])
def test_points_are_those_that_nerfstudio_reads(splat_data, tmp_path, text, coloured):
    plain = nerfstudio_dataparser.NerfstudioDataParserConfig(data=splat_data, load_3D_points=True)
    points = PlyData.read(str(splat_data / "points.ply"))["vertex"].data
    names = ["x", "y", "z", *(["red", "green", "blue"] if coloured else [])]
    path = tmp_path / "points.ply"
    PlyData([PlyElement.describe(repack_fields(points[names]), "vertex")], text=text).write(
        str(path)
    )
    moved = torch.tensor([[0.0, 1.0, 0.0, 2.0], [1.0, 0.0, 0.0, -1.0], [0.0, 0.0, -1.0, 0.5]])
    expected = plain.setup()._load_3D_points(path, moved, 0.25)
    found = checked(plain, pictures=False).setup()._load_3D_points(path, moved, 0.25)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values)
        assert found[name].dtype == values.dtype
    assert len(found["points3D_rgb"]) == (300 if coloured else 0)


def test_no_points_are_none_and_damaged_ones_are_told(splat_data, tmp_path):
    parser = checked(
        nerfstudio_dataparser.NerfstudioDataParserConfig(data=splat_data), pictures=False
    ).setup()
    place = torch.eye(4)[:3]
    whole = (splat_data / "points.ply").read_bytes()
    path = tmp_path / "points.ply"
    empty = np.zeros(0, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    PlyData([PlyElement.describe(empty, "vertex")]).write(str(path))
    assert parser._load_3D_points(path, place, 1.0) is None
    axes = b"".join(b"property float %c\n" % axis for axis in b"xyz")
    endless = (
        b"ply\nformat ascii 1.0\nelement vertex 900000000000\n" + axes + b"end_header\n1 2 3\n"
    )
    other_axis = whole.replace(b"property float z", b"property float s")
    for damaged in (whole[:-100], b"", other_axis, endless):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"must be a whole \.ply .*, got .*points\.ply"):
            parser._load_3D_points(path, place, 1.0)


def test_without_points_the_run_says_that_it_begins_at_random(
    make_splats, train_splats, splat_data, tmp_path, capsys
):
    data = tmp_path / "data"
    shutil.copytree(splat_data, data)
    path = data / "transforms.json"
    content = json.loads(path.read_text())
    del content["ply_file_path"]
    path.write_text(json.dumps(content))
    config = make_splats(data=data)
    config.pipeline.model.num_random = 50
    trainer = start_splats(config)
    told = "".join(capsys.readouterr().out.split())
    assert "50Gaussiansbeginatrandomplaces" in told
    assert trainer.pipeline.model.num_points == 50
    content["ply_file_path"] = "gone.ply"
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"csd-edit-splat: .*gone\.ply"):
        start_splats(make_splats("other", data=data))


def test_lpips_looks_at_the_same_part_of_both_images(make_splats, train_splats):
    config = make_splats()
    config.pipeline.model.lpips_weight, config.pipeline.model.lpips_crop = 0.5, 33
    model = None

    class Distance:
        is_available = True
        seen = None

        def __call__(self, first, second):
            Distance.seen = (first, second)
            return (first - second).square().mean()

        def require(self):
            pass

    trainer = start_splats(make_splats())
    model = trainer.pipeline.model
    model.config.lpips_weight, model.config.lpips_crop = 0.5, 33
    model.perceptual = Distance()
    model.step_cb(trainer, 0)
    camera, batch = trainer.pipeline.datamanager.next_train(0)
    outputs = model(camera)
    assert "lpips_loss" not in model.get_loss_dict(outputs, batch)
    model.begin_editing()
    losses = model.get_loss_dict(outputs, batch)
    first, second = Distance.seen
    assert first.shape == second.shape == (1, 3, 33, 33)
    truth01 = batch["image"].permute(2, 0, 1)[None] / 255
    places = [
        (y, x)
        for y in range(8)
        for x in range(8)
        if torch.equal(truth01[..., y : y + 33, x : x + 33], second)
    ]
    assert places
    y, x = places[0]
    render01 = outputs["rgb"].permute(2, 0, 1)[None]
    assert torch.equal(render01[..., y : y + 33, x : x + 33], first)
    assert torch.isclose(losses["lpips_loss"], 0.5 * (first - second).square().mean())
    assert torch.isclose(losses["main_loss"], (render01 - truth01).abs().mean())


def test_images_that_are_not_bytes_are_refused():
    with pytest.raises(Exception, match="cache_images_type needs to be uint8"):
        CSDEditSplatDataManagerConfig(cache_images_type="float32")


def test_a_run_of_another_kind_is_refused(make_splats, tmp_path):
    from nerfstudio.configs.method_configs import all_methods

    other = copy.deepcopy(all_methods["nerfacto"])
    other.output_dir, other.experiment_name, other.timestamp = tmp_path, "x", "run"
    other.save_config()
    models = other.get_checkpoint_dir()
    models.mkdir()
    torch.save({"step": 1, "pipeline": {}}, models / "step-000000001.ckpt")
    config = make_splats()
    config.load_dir = models
    with pytest.raises(SystemExit, match="goes on from runs of splatfacto or its own, got one of"):
        start_splats(config)


def test_helpers_share_the_rounds_of_splats(make_splats, monkeypatch, tmp_path):
    monkeypatch.setattr(priors, "fetch", lambda *_, **__: None)
    check_helped(lambda name: start_splats(make_splats(name)), tmp_path, count=3, images=4)
