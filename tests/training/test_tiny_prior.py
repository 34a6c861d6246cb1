from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import small_recipe
from PIL import Image
from safetensors.torch import load_file

from csd_nerf import priors
from csd_nerf.priors import Branch
from training import data, tiny_prior, unet, vae
from training.pairs import draw_pairs

WEIGHTS = [
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
]


def test_diffusers_own_pipeline_loads_the_folder_and_samples(recipe):
    from diffusers import StableDiffusionInstructPix2PixPipeline

    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        recipe.output, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    image = Image.fromarray(np.full((64, 64, 3), 128, np.uint8))
    result = pipeline("make it night", image=image, num_inference_steps=2, output_type="np")
    assert result.images.shape == (1, 64, 64, 3)
    assert np.isfinite(result.images).all()


def test_our_prior_predicts_finite_noise_of_its_latents(recipe):
    prior = priors.load(recipe.output)
    assert (prior.latent_channels, prior.cell_size, prior.preferred_size) == (8, 4, 64)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    noisy = torch.randn(prior.encode(image).shape, generator=torch.Generator().manual_seed(1))
    _, image_rows = prior.encode_source(image)
    branches = [
        Branch(noisy, {**prior.encode_text(["make it night"]), **image_rows}),
        Branch(noisy, prior.encode_text([""])),
    ]
    noise = prior.predict(branches, torch.tensor([20, 900]))
    assert noise.shape == (2, *noisy.shape)
    assert noise.isfinite().all()
    assert not noise[0].equal(noise[1])


def test_the_folder_is_in_half_precision_and_complete(recipe):
    for name in WEIGHTS:
        tensors = load_file(recipe.output / name).values()
        assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float16}
    assert not [*recipe.output.parent.glob("*.part")]


def test_the_folder_is_small_enough_to_be_bundled(recipe):
    size = sum(path.stat().st_size for path in recipe.output.rglob("*") if path.is_file())
    assert size <= 20e6


def test_the_card_and_the_record_tell_how_it_was_made(recipe):
    record = json.loads((recipe.output / "training.json").read_text())
    shards = [data.read_shard(path) for path in sorted((recipe.work / "pairs").iterdir())]
    assert record["pairs"] == sum(len(shard.source) for shard in shards)
    assert record["train_seeds"] == [0, 4]
    assert (record["recipe"]["steps"], record["recipe"]["seeds_a_shard"]) == (2, 2)
    assert str(recipe.work) not in json.dumps(record)
    card = (recipe.output / "README.md").read_text()
    assert f"{record['pairs']} pairs of seeds 0 to 3" in " ".join(card.split())
    assert "Not measured yet." in card


def test_a_finished_prior_is_trained_further(recipe, tmp_path):
    further = dataclasses.replace(
        small_recipe(tmp_path), start=recipe.output, steps=3, first_seed=50
    )
    tiny_prior.main(further)
    for name, alike in zip(WEIGHTS, (False, True, False), strict=True):
        before, after = (load_file(r.output / name) for r in (recipe, further))
        assert before.keys() == after.keys()
        assert all(before[key].equal(after[key]) for key in before) == alike, name
        # Two steps at the start of the warm-up change little: it did not begin anew.
        for key, value in before.items():
            torch.testing.assert_close(after[key], value, atol=0.03, rtol=0.03)
    record, first = (
        json.loads((r.output / "training.json").read_text()) for r in (further, recipe)
    )
    assert record["before"] == first
    assert record["train_seeds"] == [50, 54]
    shard = data.read_shard(further.work / "pairs" / "00001.npz")
    pairs = [pair for seed in (52, 53) for pair in draw_pairs(seed, height=64, width=64)]
    assert shard.asked == [pair.asked.name for pair in pairs]
    assert not [name for name in record["recipe"] if name.startswith("vae")]
    assert str(tmp_path) not in json.dumps(record)
    for path in further.output.glob("*/*.json"):
        assert recipe.output.parent.name not in path.read_text(), path
    card = (further.output / "README.md").read_text()
    assert card.count("`python -m training.tiny_prior`") == 2
    config, before = (
        json.loads((r.output / "vae" / "config.json").read_text()) for r in (further, recipe)
    )
    assert config["scaling_factor"] == before["scaling_factor"]


def test_latents_have_unit_variance_in_the_scale_that_was_exported(recipe):
    config = json.loads((recipe.output / "vae" / "config.json").read_text())
    rows = torch.load(recipe.work / "latents.pt", weights_only=True)
    latents = torch.cat([row["edited"] for row in rows]).float()
    assert abs(float(latents.std()) * config["scaling_factor"] - 1) < 1e-3


def test_a_training_that_was_killed_ends_like_one_that_was_not(recipe, tmp_path, monkeypatch):
    again = small_recipe(tmp_path)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(unet, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny_prior.main(again)
    assert not again.output.exists()
    done = [again.work / name for name in ("vae.pt", "latents.pt", "pairs/00001.npz")]
    times = [path.stat().st_mtime_ns for path in done]
    tiny_prior.main(again)
    assert [path.stat().st_mtime_ns for path in done] == times
    for name in WEIGHTS:
        one, other = (load_file(r.output / name) for r in (recipe, again))
        assert one.keys() == other.keys()
        assert all(one[key].equal(other[key]) for key in one), name


def test_a_shard_holds_the_pairs_of_its_own_seeds(recipe):
    shard = data.read_shard(recipe.work / "pairs" / "00001.npz")
    pairs = [pair for seed in (2, 3) for pair in draw_pairs(seed, height=64, width=64)]
    assert shard.asked == [pair.asked.name for pair in pairs]
    for row, pair in enumerate(pairs):
        for array, image in ((shard.source, pair.source01), (shard.edited, pair.edited01)):
            stored = data.image01(array[row], torch.device("cpu"))
            assert (stored - image).abs().max() <= 0.5 / 255 + 1e-6


def test_the_autoencoder_starts_as_a_near_linear_map_that_keeps_the_signal():
    model = vae.build(0)
    image = 2 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        latent = model.encode(image).latent_dist.mode()
    assert latent.shape == (2, 8, 8, 8)
    assert latent.std() > 0.05 * image.std()
    assert vae.build(0).encoder.conv_in.weight.equal(model.encoder.conv_in.weight)
