from __future__ import annotations

import copy
import dataclasses
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from edit_runs import message_of, shrink_model, start
from PIL import Image

from csd_nerf.methods.common import adoption, checkpoints
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.csd_edit.config import csd_edit, csd_edit_tiny


@pytest.fixture
def random_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the download of AlexNet's weights."""
    weights = torchvision.models.alexnet(weights=None).state_dict()
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: weights
    )


@pytest.fixture
def nerfacto_run(dataset: Path, tmp_path: Path, random_alexnet: None) -> Path:
    """The folder of a run of nerfstudio's own nerfacto, with settings that are not ours."""
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    config = copy.deepcopy(method_configs["nerfacto"])
    config.output_dir, config.timestamp, config.vis = tmp_path / "nerfacto", "run", "tensorboard"
    config.machine.device_type = "cpu"
    config.max_num_iterations = 3
    config.logging.profiler = "none"
    # The parallel data manager keeps its images in other processes; checkpoints are the same.
    config.pipeline.datamanager = VanillaDataManagerConfig(
        data=dataset,
        dataparser=NerfstudioDataParserConfig(train_split_fraction=0.75),
        train_num_rays_per_batch=64,
    )
    shrink_model(config.pipeline.model)
    config.pipeline.model.implementation = "torch"
    config.pipeline.model.log2_hashmap_size = 9
    trainer = start(config)
    trainer.train()
    return trainer.base_dir


def test_editing_goes_on_from_a_stock_nerfacto_run(nerfacto_run, make_config, train):
    checkpoint = torch.load(next(nerfacto_run.glob("*/*.ckpt")), weights_only=True)
    assert any(key.startswith("_model.lpips.") for key in checkpoint["pipeline"])

    config = make_config()
    config.load_dir = nerfacto_run / "nerfstudio_models"
    config.pipeline.model = copy.deepcopy(csd_edit_tiny.config.pipeline.model)
    trainer = start(config)
    assert config.pipeline.model.log2_hashmap_size == 9
    assert config.pipeline.model.camera_optimizer.mode == "SO3xR3"
    assert config.pipeline.model.lpips_weight == 0
    assert trainer.pipeline.datamanager.num_views == 9
    for name, value in trainer.pipeline.model.state_dict().items():
        assert torch.equal(value, checkpoint["pipeline"][f"_model.{name}"]), name

    trainer.train()
    assert (trainer._start_step, trainer.step) == (3, 10)
    assert len(list((trainer.base_dir / "rounds").glob("*.png"))) == 3
    saved = adoption.read_run_config(next(trainer.checkpoint_dir.iterdir()))
    assert saved.pipeline.model.log2_hashmap_size == 9
    assert saved.pipeline.datamanager.dataparser.train_split_fraction == 0.75


def test_a_scene_of_another_grid_ends_in_one_line(make_config, train):
    first = train(make_config("first"))
    (first.base_dir / "config.yml").unlink()
    config = make_config("second")
    config.load_dir = first.checkpoint_dir
    config.pipeline.model.log2_hashmap_size = 7
    with pytest.raises(SystemExit) as stopped:
        start(config)
    message = str(stopped.value)
    assert "does not fit the model" in message
    assert "hash_table has shape (1024, 2) instead of (512, 2)" in message
    assert "keep the run's config.yml beside its checkpoints" in message
    assert "\n" not in message


def test_settings_of_our_own_run_are_taken_over(make_config, train, dataset):
    first = make_config("first")
    first.pipeline.datamanager.max_image_size = 40
    first = train(first)
    config = make_config("second")
    config.load_dir = first.checkpoint_dir
    config.data = config.pipeline.datamanager.data = None
    config.pipeline.prompt = ""
    config.pipeline.model = copy.deepcopy(csd_edit_tiny.config.pipeline.model)
    config.pipeline.edit_steps = 9
    trainer = start(config)
    assert config.pipeline.prompt == "swap red and blue"
    assert config.pipeline.datamanager.data == dataset
    assert config.pipeline.model.log2_hashmap_size == 8
    assert trainer.pipeline.datamanager.edited[0].shape == (40, 40, 3)
    assert trainer.pipeline.notices_of_loading == []


def test_options_that_the_user_gave_stay_or_the_line_says_which_could_not(
    make_config, train, capsys
):
    first = train(make_config("first"))
    config = make_config("second")
    config.load_dir = first.base_dir / "source_models"
    parser = config.pipeline.datamanager.dataparser
    parser.train_split_fraction, parser.orientation_method = 0.75, "none"
    config.pipeline.model.camera_optimizer.trans_l2_penalty = 0.5
    config.pipeline.datamanager.max_image_size = 24
    trainer = start(config)
    manager = trainer.pipeline.datamanager
    assert manager.num_views == 9
    assert max(manager.photograph01(0).shape) == 24
    assert config.pipeline.model.camera_optimizer.trans_l2_penalty == 0.5
    assert config.pipeline.datamanager.dataparser.orientation_method == "up"
    told = "".join(capsys.readouterr().out.split())
    options = "--pipeline.datamanager"
    for text in (
        f"{options}.dataparser.train-split-fraction 0.75 stays as given, the loaded run had 0.9.",
        f"{options}.max-image-size 24 stays as given, the loaded run had 160.",
        "--pipeline.model.camera-optimizer.trans-l2-penalty 0.5 stays as given",
        f"{options}.dataparser.orientation-method none can't be honoured, since the loaded scene "
        "was trained with up.",
    ):
        assert "".join(text.split()) in told


def test_a_model_that_the_user_asked_for_and_that_does_not_fit(make_config, train):
    first = train(make_config("first"))
    config = make_config("second")
    config.load_dir = first.checkpoint_dir
    config.pipeline.model.log2_hashmap_size = 7
    message = message_of(config)
    assert "does not fit the model" in message
    assert message.endswith("leave out --pipeline.model.log2-hashmap-size.")


def test_smaller_copies_do_not_fit_edits_in_full_size(make_config, train, dataset, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    (data / "images_2").mkdir()
    for path in (data / "images").iterdir():
        Image.open(path).resize((24, 24)).save(data / "images_2" / path.name)
    first = train(make_config("first", data=data))
    config = make_config("second", data=data)
    config.load_dir = first.checkpoint_dir
    config.pipeline.datamanager.dataparser.downscale_factor = 2
    message = message_of(config)
    assert "as large as its photograph, 24x24, got 48x48; keep" in message
    assert "downscale-factor" in message
    config.load_dir = first.base_dir / "source_models"
    manager = start(config).pipeline.datamanager
    assert manager.photograph01(0).shape == (24, 24, 3)
    assert manager.names == first.pipeline.datamanager.names


def test_another_number_of_photographs_is_told_as_that(nerfacto_run, make_config):
    config = make_config()
    config.load_dir = nerfacto_run / "nerfstudio_models"
    config.pipeline.model = copy.deepcopy(csd_edit_tiny.config.pipeline.model)
    config.pipeline.datamanager.dataparser.train_split_fraction = 0.5
    message = message_of(config)
    assert "was trained on 9 photographs, got 6; name the data, its split and its" in message


def test_damage_anywhere_in_a_checkpoint_ends_in_one_line(make_config, train, tmp_path):
    first = train(make_config("first"))
    (path,) = first.checkpoint_dir.iterdir()
    content = path.read_bytes()
    spoilt = tmp_path / "spoilt" / "nerfstudio_models" / path.name
    spoilt.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    at_pickle = content.index(b"data.pkl") + 8
    places = [*rng.integers(at_pickle, at_pickle + 9000, 60), *rng.integers(0, len(content), 20)]
    messages = []
    for place in places:
        damaged = bytearray(content)
        damaged[place : place + 8] = rng.bytes(8)
        spoilt.write_bytes(damaged)
        try:
            checkpoints.read_checkpoint(spoilt)
        except MethodError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(str(spoilt) in text and "\n" not in text for text in messages)
    spoilt.write_bytes(content[: len(content) // 2])
    with pytest.raises(MethodError, match="can't be read as a checkpoint"):
        checkpoints.read_checkpoint(spoilt)


@pytest.mark.parametrize("part", ["optimizers", "schedulers", "stage", "sampler", "random"])
def test_a_checkpoint_that_lacks_a_part_ends_in_one_line(make_config, train, part):
    first = train(make_config("first"))
    (path,) = first.checkpoint_dir.iterdir()
    state = torch.load(path, weights_only=True)
    extra = state["pipeline"]["_extra_state"]
    for holder in (state, extra, extra["scene"]):
        holder.pop(part, None)
    torch.save(state, path)
    config = make_config("second")
    config.load_dir, config.pipeline.edit_steps = first.checkpoint_dir, 9
    message = message_of(config)
    assert f"{path} must be a whole checkpoint that fits the options, got '{part}'" in message


def test_runs_of_other_methods_are_refused(make_config, train, tmp_path):
    from nerfstudio.engine.trainer import TrainerConfig

    config = TrainerConfig(method_name="splatfacto", output_dir=tmp_path, timestamp="run")
    config.save_config()
    models = config.get_checkpoint_dir()
    models.mkdir()
    torch.save({"step": 1, "pipeline": {}}, models / "step-000000001.ckpt")
    ours = make_config()
    ours.load_dir = models
    with pytest.raises(SystemExit, match="goes on from runs of nerfacto or its own, got one of sp"):
        start(ours)


@pytest.mark.parametrize("option", ["load_dir", "load_checkpoint"])
def test_code_in_the_config_of_a_loaded_run_is_refused_before_anything_runs(
    make_config, train, tmp_path, monkeypatch, option
):
    monkeypatch.chdir(tmp_path)
    first = train(make_config("first"))
    path = first.base_dir / "config.yml"
    spoilt = "!!python/object/apply:os.system ['touch RAN']"
    path.write_text(path.read_text().replace("load_scheduler: true", f"load_scheduler: {spoilt}"))
    config = make_config("second")
    (checkpoint,) = first.checkpoint_dir.iterdir()
    setattr(config, option, first.checkpoint_dir if option == "load_dir" else checkpoint)
    with pytest.raises(SystemExit, match=r"csd-edit: .*it names os.system, .* \(line \d+\)"):
        start(config)
    assert not Path("RAN").exists()


def test_a_run_does_not_write_over_the_settings_of_the_run_that_it_loads(make_config, train):
    first = train(make_config())
    before = (first.base_dir / "config.yml").read_bytes()
    for option, value in (
        ("load_dir", first.checkpoint_dir),
        ("load_checkpoint", next(first.checkpoint_dir.iterdir())),
    ):
        again = make_config()
        setattr(again, option, value)
        with pytest.raises(SystemExit, match=r"csd-edit: .* needs a folder of its own, got"):
            again.save_config()
        assert (first.base_dir / "config.yml").read_bytes() == before


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_checkpoints_with_numpy_scalars_can_be_read(tmp_path, module):
    """numpy 1 and 2 pickle the same function under different names, as does each torch."""
    checkpoints.allow_nerfstudio_checkpoints()
    torch.save({"step": 1, "pipeline": {}, "lr": np.float64(0.5)}, tmp_path / "any.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "any.ckpt") as source,
        zipfile.ZipFile(tmp_path / "named.ckpt", "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                data, count = re.subn(rb"numpy\._?core\.multiarray", module, data)
                assert count == 1
            target.writestr(name, data)
    assert checkpoints.read_checkpoint(tmp_path / "named.ckpt")["lr"] == 0.5


def test_files_that_are_no_checkpoints_are_named(tmp_path):
    path = tmp_path / "step-000000001.ckpt"
    path.write_bytes(b"nothing")
    with pytest.raises(MethodError, match=r"step-000000001.ckpt can't be read as a checkpoint"):
        checkpoints.read_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(MethodError, match="is not a checkpoint of nerfstudio's"):
        checkpoints.read_checkpoint(path)


def test_files_with_odd_names_are_no_checkpoints(tmp_path):
    for name in ("step-000000002.ckpt", "step-best.ckpt", "step-000000009-old.ckpt", "step-.ckpt"):
        (tmp_path / name).touch()
    found = checkpoints.find_checkpoint(load_dir=tmp_path, load_step=None, load_checkpoint=None)
    assert found == tmp_path / "step-000000002.ckpt"


def test_the_newest_checkpoint_is_found_or_the_one_that_is_named(tmp_path):
    for step in (9, 10_000, 200):
        (tmp_path / f"step-{step:09d}.ckpt").touch()
    find = checkpoints.find_checkpoint
    assert find(load_dir=None, load_step=None, load_checkpoint=None) is None
    newest = find(load_dir=tmp_path, load_step=None, load_checkpoint=None)
    assert newest == tmp_path / "step-000010000.ckpt"
    named = find(load_dir=tmp_path, load_step=200, load_checkpoint=None)
    assert named == tmp_path / "step-000000200.ckpt"
    with pytest.raises(MethodError, match=r"no checkpoint of step 7, only of 9, 200, 10000"):
        find(load_dir=tmp_path, load_step=7, load_checkpoint=None)
    with pytest.raises(MethodError, match=r"--load-dir needs a folder with step-\*.ckpt"):
        find(load_dir=tmp_path / "none", load_step=None, load_checkpoint=None)
    with pytest.raises(MethodError, match=r"--load-checkpoint needs a file"):
        find(load_dir=None, load_step=None, load_checkpoint=tmp_path / "none")


def test_a_resumed_run_takes_over_what_the_first_was_told(make_config, train, capsys):
    usual = csd_edit_tiny.config.pipeline
    config = make_config("first")
    config.pipeline.negative_prompt, config.pipeline.start = "fog", "original"
    config.pipeline.edit = dataclasses.replace(usual.edit, iterations=2, image_scale=1.3)
    config.pipeline.prior = "other"
    config.pipeline.datamanager.edit_num_rays_per_batch = 192
    config.optimizers["fields"]["optimizer"].lr = 0.02
    first = train(config)

    config = make_config("second")
    config.load_dir = first.base_dir / "source_models"
    config.pipeline.edit = dataclasses.replace(usual.edit, iterations=1, text_scale=2.5)
    config.pipeline.prior = usual.prior
    rays = usual.datamanager.edit_num_rays_per_batch
    config.pipeline.datamanager.edit_num_rays_per_batch = rays
    capsys.readouterr()
    trainer = start(config)
    options = trainer.pipeline.config
    assert (options.negative_prompt, options.start, options.prior) == ("fog", "original", "other")
    assert (options.edit.image_scale, options.edit.iterations) == (1.3, 1)
    assert options.edit.text_scale == 2.5
    assert options.datamanager.edit_num_rays_per_batch == 192
    assert trainer.optimizers.config["fields"]["optimizer"].lr == 0.02
    told = "".join(capsys.readouterr().out.split())
    for text in (
        "--pipeline.negative-prompt fog is taken over from the loaded run.",
        "--pipeline.edit.image-scale 1.3 is taken over from the loaded run.",
    ):
        assert "".join(text.split()) in told
    # What is given stays, and what the first run left to its preset is not the user's.
    assert "iterations" not in told
    assert "text-scale" not in told


def test_a_preset_that_is_changed_brings_its_own_options(make_config, train):
    config = make_config("first")
    config.pipeline.edit = csd_edit_tiny.config.pipeline.edit
    first = train(config)
    config = make_config("second")
    config.load_dir = first.base_dir / "source_models"
    config.method_name = "csd-edit"
    config.pipeline.edit = csd_edit.config.pipeline.edit
    trainer = start(config)
    assert trainer.pipeline.config.edit == csd_edit.config.pipeline.edit
