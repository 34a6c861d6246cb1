"""Models that can't work are refused when they are fetched, before anything is trained."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from csd_nerf import priors
from csd_nerf.priors import WeightsNotFoundError
from csd_nerf.priors.families import FAMILIES, missing_shards


def change(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    ("part", "values", "told"),
    [
        ("unet", {"_class_name": "SD3Transformer2DModel"}, "unet of .* UNet2D.*, got SD3Transf"),
        ("vae", {"_class_name": "VQModel"}, "vae of .* must be AutoencoderKL, got VQModel"),
        (
            "text_encoder",
            {"model_type": "t5"},
            "text_encoder of .* clip_text_model or clip, got t5",
        ),
        ("unet", {"in_channels": 4}, r"needs 8 input channels \(latent and condition\) .*, got 4"),
        ("vae", {"latent_channels": 16}, "needs 32 input channels .*, got 8"),
        ("unet", {"out_channels": 3}, "needs 4 output channels, or twice as many .*, got 3"),
        ("unet", {"addition_embed_type": "text_time"}, "got addition_embed_type text_time"),
        ("unet", {"class_embed_type": "projection"}, "got class_embed_type projection"),
        ("unet", {"num_class_embeds": 1000}, "source image only, got num_class_embeds 1000"),
        ("unet", {"encoder_hid_dim_type": "image_proj"}, "got encoder_hid_dim_type image_proj"),
        ("unet", {"time_cond_proj_dim": 256}, "got time_cond_proj_dim 256"),
        ("unet", {"sample_size": [16, 24]}, r"one integer .*, got \[16, 24\]"),
        ("text_encoder", {"hidden_size": 48}, "texts of width 32, got 48"),
        ("scheduler", {"prediction_type": "sample"}, "got 'sample'"),
        ("scheduler", {"prediction_type": "flow_prediction"}, "got 'flow_prediction'"),
        (
            "scheduler",
            {"beta_schedule": "exp"},
            "betas .*, got DDIMScheduler with beta_sched.* exp",
        ),
    ],
)
def test_configurations_that_do_not_fit(copy, part, values, told):
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    change(copy / part / name, **values)
    with pytest.raises(ValueError, match=told) as error:
        priors.fetch(copy)
    assert "\n" not in str(error.value)


def test_a_schedule_without_betas(copy):
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}')
    with pytest.raises(ValueError, match=r"needs betas .*, got FlowMatchEulerDiscreteScheduler"):
        priors.fetch(copy)
    path.write_text('{"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]}')
    assert priors.fetch(copy)[0] == copy


def test_a_configuration_that_is_no_json(copy):
    (copy / "unet" / "config.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"unet/config\.json must be the configuration of a part"):
        priors.fetch(copy)


def test_a_file_of_torch_that_breaks_off(copy):
    path = copy / "vae" / "diffusion_pytorch_model.bin"
    torch.save({"weight": torch.zeros(100)}, path)
    assert priors.fetch(copy)[0] == copy
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"must be whole, got .*vae/diffusion_pytorch_model\.bin"):
        priors.fetch(copy)
    torch.save({"weight": torch.zeros(9)}, path, _use_new_zipfile_serialization=False)
    assert priors.fetch(copy)[0] == copy


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: b"\xff" * 40])
def test_weights_that_break_off(copy, damage):
    path = copy / "text_encoder" / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"must be whole, got .*text_encoder/model\.safetensors"):
        priors.fetch(copy)


def test_a_single_file_is_told_apart_from_a_folder(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "v1-5.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("models/v1-5.safetensors", tmp_path / "models" / "v1-5.safetensors"):
        with pytest.raises(
            WeightsNotFoundError, match=r"is a single file, .*from_single_file"
        ) as e:
            priors.fetch(name)
        assert "\n" not in str(e.value)


def test_shards_that_the_index_names_and_that_are_not_there(copy):
    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    names = sorted(weights)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    for shard, half in zip(shards, halves, strict=True):
        save_file({name: weights[name] for name in half}, whole.with_name(shard))
    index = copy / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    named = {n: shard for shard, half in zip(shards, halves, strict=True) for n in half}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": named}))
    assert priors.fetch(copy)[0] == copy
    # Names without a total: only the index tells.
    other = whole.with_name("the-other-half.safetensors")
    change(index, weight_map={n: s.replace(shards[1], other.name) for n, s in named.items()})
    with pytest.raises(WeightsNotFoundError, match=f"lacks unet/{other.name}"):
        priors.fetch(copy)
    index.write_text("broken")
    family = FAMILIES["StableDiffusionInstructPix2PixPipeline"]
    assert missing_shards(family, copy) == [f"an index that can be read in unet/{index.name}"]


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_a_parameter_without_a_weight_is_an_error_not_a_random_number(copy, part):
    (path,) = (copy / part).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({key: value for key, value in weights.items() if key != name}, path)
    told = rf"weights in .*{part} must have every parameter of .*, got none that fits for .*"
    with pytest.raises(ValueError, match=told + name.split(".")[-1]) as error:
        priors.load(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_a_weight_of_another_shape_ends_in_one_line(copy, part):
    (path,) = (copy / part).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({**weights, name: torch.zeros(3, 5)}, path)
    with pytest.raises(ValueError, match=rf"but .*{part} can't be loaded \(.*fetch it") as error:
        priors.load(copy)
    assert "\n" not in str(error.value)


def test_texts_of_t5_without_weights_are_an_error_too(make_text_folder, tmp_path):
    copy = shutil.copytree(make_text_folder("pixels"), tmp_path / "copy")
    path = copy / "text_encoder" / "model.safetensors"
    weights = {f"renamed.{key}": value for key, value in load_file(path).items()}
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"must have every parameter of T5EncoderModel, .* more"):
        priors.load(copy, kind="text")
