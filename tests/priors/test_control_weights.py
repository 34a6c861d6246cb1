"""Where a ControlNet comes from, and what is refused before it is loaded: one line each."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from test_weights import open_hub, put_into_cache

from csd_nerf import cli, priors
from csd_nerf.priors import WeightsNotFoundError, find_controlled
from csd_nerf.priors.control_weights import HUB_CONTROLS


@pytest.fixture
def folders(control_folders, tmp_path) -> tuple[Path, Path]:
    """Copies that a test may damage."""
    base, net = control_folders
    return shutil.copytree(base, tmp_path / "base"), shutil.copytree(net, tmp_path / "net")


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def message(folders: tuple[Path, Path], **options) -> str:
    with pytest.raises((ValueError, WeightsNotFoundError)) as error:
        find_controlled(folders[0], "canny", **{"model": str(folders[1]), **options})
    assert "\n" not in str(error.value)
    assert "--pipeline" not in str(error.value)
    return str(error.value)


def test_a_pair_of_folders_is_found(folders):
    base, net = folders
    found, beside = find_controlled(base, "depth", model=str(net))
    assert (found.folder, beside, found.family.kind) == (base, net, "text")


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("_class_name", "UNet2DConditionModel", "must be ControlNetModel, got UNet2DCondition"),
        ("cross_attention_dim", 768, "needs cross_attention_dim 32 beside .* got 768"),
        ("in_channels", 9, "needs in_channels 4 beside .* got 9"),
        ("block_out_channels", [16, 64], r"needs block_out_channels \[16, 32\] .* got \[16, 64\]"),
        ("layers_per_block", 2, "needs layers_per_block 1 .* got 2"),
        ("conditioning_channels", 1, "needs conditioning_channels 3 .* got 1"),
        ("global_pool_conditions", True, "needs global_pool_conditions False .* got True"),
        ("addition_embed_type", "text_time", "needs addition_embed_type None .* got text_time"),
        ("conditioning_embedding_out_channels", [8, 8, 8, 16], "halvings of its image 2 .* got 3"),
    ],
)
def test_one_that_does_not_fit_is_refused(folders, field, value, line):
    change(folders[1] / "config.json", **{field: value})
    assert re.search(line, message(folders))
    with pytest.raises(ValueError, match=line):
        priors.load(folders[0], kind="text", control="canny", control_model=str(folders[1]))


def test_weights_that_break_off_are_refused(folders):
    weights = folders[1] / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "must be whole" in message(folders)


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(folders, name):
    (folders[1] / name).unlink()
    found = message(folders)
    assert f"the folder {folders[1]} lacks {name}" in found
    assert "`hf download lllyasviel/control_v11p_sd15_canny config.json diffusion_py" in found


def test_a_file_and_a_folder_that_is_not_there_are_refused(folders):
    file = folders[1] / "config.json"
    assert "is a single file, and a ControlNet is a folder" in message(folders, model=str(file))
    absent = f"{folders[1]}/nowhere/at/all"
    assert f"the folder {absent} does not exist" in message(folders, model=absent)


def test_other_families_take_none(editing_folder, folders, no_hub):
    found = message((editing_folder("pix2pix"), folders[1]))
    assert "needs a model of the class StableDiffusionPipeline" in found
    for name in ("tiny-text", "deepfloyd-if", "flux2-klein"):
        with pytest.raises(ValueError, match=f"class StableDiffusionPipeline .* got '{name}'"):
            find_controlled(name, "canny")
    with pytest.raises(ValueError, match="A ControlNet needs a text-to-image model, got"):
        priors.load("instruct-pix2pix", control="canny")
    # Nothing was asked of the hub.
    assert not no_hub


@pytest.mark.parametrize(
    ("control", "width", "repo"),
    [
        ("canny", 768, "lllyasviel/control_v11p_sd15_canny"),
        ("depth", 768, "lllyasviel/control_v11f1p_sd15_depth"),
        ("canny", 1024, "thibaud/controlnet-sd21-canny-diffusers"),
        ("depth", 1024, "thibaud/controlnet-sd21-depth-diffusers"),
    ],
)
def test_the_usual_one_is_chosen_by_the_width_of_texts(
    folders, control, width, repo, no_hub, empty_cache
):
    base, net = folders
    # All parts say so, since they are checked for fitting together.
    change(base / "unet/config.json", cross_attention_dim=width)
    change(base / "text_encoder/config.json", hidden_size=width)
    with pytest.raises(WeightsNotFoundError, match=f"ControlNet '{repo}'.*`hf download {repo} "):
        find_controlled(base, control)
    assert len(no_hub) == 1
    change(net / "config.json", cross_attention_dim=width)
    snapshot = put_into_cache(net, empty_cache, repo)
    assert find_controlled(base, control)[1] == snapshot
    assert len(no_hub) == 1


def test_there_is_no_usual_one_for_other_widths(folders):
    found = message(folders, model=None)
    assert "for texts of width 768 or 1024, got 32" in found


def test_it_is_downloaded_without_what_else_is_there(folders, monkeypatch, empty_cache):
    base, net = folders
    (net / "diffusion_pytorch_model.bin").write_bytes(b"the same weights")
    (net / "README.md").write_text("a card")
    downloads = open_hub(monkeypatch, net)
    found = find_controlled(base, "canny", model="someone/some-net")[1]
    assert found == net
    needed = ["config.json", "diffusion_pytorch_model.safetensors"]
    assert downloads == [("someone/some-net", needed)]


@pytest.mark.parametrize("name", HUB_CONTROLS)
def test_the_command_for_weights_fetches_one(folders, tmp_path, name, monkeypatch, capsys):
    downloads = open_hub(monkeypatch, folders[1])
    cli.main(["weights", name, "--output", str(tmp_path / "fetched")])
    needed = ["config.json", "diffusion_pytorch_model.safetensors"]
    assert downloads == [(HUB_CONTROLS[name], needed)]
    assert f"{HUB_CONTROLS[name]}: 2 files of" in capsys.readouterr().out


def test_the_command_for_weights_refuses_a_variant_of_one(capsys):
    with pytest.raises(SystemExit):
        cli.main(["weights", "controlnet-canny", "--variant", "fp16"])
    assert "plain files, got --variant fp16; leave it out." in capsys.readouterr().err
