"""nerfstudio's commands read a finished run, offline and without the prior."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from edit_runs import VIEWS, start, write_dataset
from PIL import Image

from csd_nerf import priors
from csd_nerf.evaluation.compare import compare_scene


@pytest.fixture
def finished(make_config, train, monkeypatch):
    """A finished run; from here on, loading or checking a prior is an error."""
    from nerfstudio.configs.method_configs import all_methods

    config = make_config()
    trainer = train(config)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("The prior was asked for.")

    monkeypatch.setattr(priors, "load", refuse)
    monkeypatch.setattr(priors, "fetch", refuse)
    monkeypatch.setitem(all_methods, config.method_name, config)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return trainer


@pytest.mark.parametrize("mode", ["test", "inference"])
def test_a_run_is_set_up_for_evaluation_without_its_prior(finished, mode):
    from nerfstudio.utils.eval_utils import eval_setup
    from nerfstudio.viewer.utils import parse_object
    from nerfstudio.viewer.viewer_elements import ViewerElement

    _, pipeline, path, step = eval_setup(finished.base_dir / "config.yml", test_mode=mode)
    assert (path.name, step) == ("step-000000011.ckpt", 11)
    for name, value in pipeline.model.state_dict().items():
        assert torch.equal(value, finished.pipeline.model.state_dict()[name]), name
    # ns-viewer looks at all attributes for elements of its panel.
    assert parse_object(pipeline, ViewerElement, "Custom Elements") == []


def test_the_stage_before_editing_asks_for_the_prior_once(make_config, tint_prior):
    trainer = start(make_config())
    assert tint_prior == []
    trainer.train()
    assert tint_prior == ["tiny"]


def test_the_unedited_scene_can_be_rendered_too(finished):
    from nerfstudio.utils.eval_utils import eval_setup

    def source(config):
        config.relative_model_dir = "source_models"
        return config

    _, pipeline, path, step = eval_setup(
        finished.base_dir / "config.yml", test_mode="inference", update_config_callback=source
    )
    assert (path.parent.name, step) == ("source_models", 3)
    camera = pipeline.datamanager.eval_dataset.cameras[0:1]
    assert pipeline.model.get_outputs_for_camera(camera)["rgb"].shape == (48, 48, 3)


def test_metrics_are_computed_without_lpips_where_its_weights_are_missing(
    finished, monkeypatch, tmp_path
):
    from nerfstudio.scripts.eval import ComputePSNR

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    ComputePSNR(
        load_config=finished.base_dir / "config.yml", output_path=tmp_path / "metrics.json"
    ).main()
    text = (tmp_path / "metrics.json").read_text()
    assert "psnr" in text
    assert "lpips" not in text


def test_a_point_cloud_can_be_exported(finished, tmp_path):
    from nerfstudio.scripts.exporter import ExportPointCloud

    ExportPointCloud(
        load_config=finished.base_dir / "config.yml",
        output_dir=tmp_path,
        num_points=200,
        normal_method="open3d",
        remove_outliers=False,
        num_rays_per_batch=256,
    ).main()
    assert (tmp_path / "point_cloud.ply").stat().st_size > 200


def test_held_out_views_are_rendered_by_ns_render_dataset(finished, tmp_path):
    from nerfstudio.scripts.render import DatasetRender

    DatasetRender(
        load_config=finished.base_dir / "config.yml",
        output_path=tmp_path / "renders",
        rendered_output_names=["rgb"],
        split="test",
    ).main()
    (image,) = (tmp_path / "renders").rglob("*.*g")
    assert Image.open(image).size == (48, 48)


def test_a_run_without_held_out_views_is_compared_on_its_training_views(
    make_config, train, tmp_path, capsys
):
    """Photographs are transparent too: they are compared over the model's background, black."""
    folder = write_dataset(tmp_path / "data")
    for path in (folder / "images").iterdir():
        picture = Image.open(path)
        picture.putalpha(128)
        picture.save(path)
    transforms = folder / "transforms.json"
    content = json.loads(transforms.read_text())
    content["train_filenames"] = [frame["file_path"] for frame in content["frames"]]
    transforms.write_text(json.dumps(content))
    trainer = train(make_config(data=folder))
    output = tmp_path / "compared"
    config = trainer.base_dir / "config.yml"
    metrics = compare_scene(config, output, edit="sepia")
    with pytest.raises(FileExistsError, match=r"got .*metrics.json; pass --overwrite"):
        compare_scene(config, output, edit="sepia")
    assert metrics["held_out_views"] == 0
    assert metrics["views"] == "training, since none is held out"
    assert "no view of this run is held out" in capsys.readouterr().out
    rows = 18 + VIEWS * 48 * round(256 / 48)
    sheet = Image.open(output / "contact_sheet.png")
    assert sheet.height == rows
    # The first photograph, enlarged: half of its light.
    first = np.asarray(Image.open(folder / "images/frame_00000.png").convert("RGB"))[24, 24]
    shown = np.asarray(sheet)[18 + 24 * 5 + 2, 24 * 5 + 2]
    assert np.abs(shown - first * (128 / 255)).max() <= 1
