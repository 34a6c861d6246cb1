from __future__ import annotations

import json
import re

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from csd_nerf.evaluation.clip import (
    Clip,
    directional_similarity,
    image_consistency,
    image_similarity,
    load_clip,
    text_similarity,
)

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random CLIP in the hub's layout."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip")
    model = open_clip.CLIP(**CONFIG)
    save_file(model.state_dict(), path / "open_clip_model.safetensors")
    (path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS})
    )
    return path


@pytest.fixture(scope="module")
def clip(folder) -> Clip:
    return load_clip(str(folder))


def pictures(count: int, size: tuple[int, int]) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR) for pixels in coarse]


@pytest.mark.parametrize("size", [(50, 40), (40, 50), (24, 20), (32, 32)])
def test_features_are_those_of_openclips_own_transform_and_towers(clip, size):
    transform = open_clip.image_transform(
        32, is_train=False, mean=tuple(PREPROCESS["mean"]), std=tuple(PREPROCESS["std"])
    )
    images = pictures(3, size)
    with torch.no_grad():
        expected = clip.model.encode_image(torch.stack([transform(image) for image in images]))
    pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images])
    features = clip.image_features(pixels.permute(0, 3, 1, 2).float() / 255, max_batch=2)
    assert features.norm(dim=1).numpy() == pytest.approx(np.ones(3), abs=1e-5)
    # PIL rounds to 8 bits after it resizes.
    assert torch.cosine_similarity(features, expected).min() > 1 - 2e-4
    others = torch.cosine_similarity(features[[1, 2, 0]], expected)
    assert others.max() < 1 - 2e-3, "or the test could not tell pictures apart"


def test_texts_are_those_of_openclips_tokenizer(clip):
    texts = ["a fox at night", "a fox"]
    with torch.no_grad():
        expected = clip.model.encode_text(open_clip.tokenize(texts))
    features = clip.text_features(texts)
    assert torch.cosine_similarity(features, expected).min() > 1 - 1e-5
    assert features.norm(dim=1).numpy() == pytest.approx(np.ones(2), abs=1e-5)


def unit(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_similarities_of_features_at_known_angles():
    assert image_similarity(unit(0, 0), unit(60, 90)) == pytest.approx((0.5 + 0) / 2, abs=1e-6)
    assert image_consistency(unit(0, 60, 150)) == pytest.approx((0.5 + 0) / 2, abs=1e-6)
    assert text_similarity(unit(0, 60), unit(0)) == pytest.approx(0.75, abs=1e-6)
    # From 0 to 90 degrees a chord points at 135; from 90 to 180 at 225.
    turns = [
        directional_similarity(unit(0), unit(90), unit(before), unit(after))
        for before, after in ((0, 90), (90, 180), (90, 0))
    ]
    assert turns == pytest.approx([1, 0, -1], abs=1e-6)
    unchanged = directional_similarity(unit(0, 0), unit(90, 0), unit(0), unit(90))
    assert unchanged == pytest.approx(0.5), "what doesn't change counts 0"


def test_consistency_needs_two_images():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        image_consistency(unit(0))


def test_unknown_names_and_unfit_folders_are_told_in_one_line(tmp_path, folder):
    with pytest.raises(ValueError, match=r"OpenCLIP knows, such as .* got 'ViT-Z'"):
        load_clip("ViT-Z")
    with pytest.raises(FileNotFoundError, match=r"open_clip_config.json and .* doesn't hold both"):
        load_clip(str(tmp_path))
    config = {"model_cfg": {**CONFIG, "vision_cfg": {"timm_model_name": "vit"}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").touch()
    with pytest.raises(ValueError, match="needs a plain CLIP"):
        load_clip(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", "must be the config of an OpenCLIP model, but can't be read"),
        ("[]", "must be the config of an OpenCLIP model"),
        ('{"model_cfg": {"text_cfg": 3}}', r"model_cfg\.text_cfg: .* got 3; fetch"),
        (json.dumps({"model_cfg": {**CONFIG, "embed_dim": "wide"}}), "that OpenCLIP can load"),
        (json.dumps({"model_cfg": CONFIG}), "that OpenCLIP can load"),
    ],
)
def test_damaged_folders_are_told_in_one_line(tmp_path, config, told):
    (tmp_path / "open_clip_config.json").write_text(config)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=told) as failed:
        load_clip(str(tmp_path))
    assert "\n" not in str(failed.value)
    assert str(tmp_path) in str(failed.value)


def test_missing_weights_are_one_line_before_anything_is_built(monkeypatch, tmp_path):
    remedy = "hf download timm/vit_base_patch32_clip_224.openai"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: pytest.fail("built"))
    with pytest.raises(FileNotFoundError, match=f"with `{re.escape(remedy)}`") as raised:
        load_clip("ViT-B-32")
    assert "\n" not in str(raised.value)


def test_weights_in_the_cache_are_loaded_by_openclip(monkeypatch, clip):
    asked = []

    def create(name, pretrained):
        asked.append((name, pretrained))
        return clip.model

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a: "/somewhere/weights")
    monkeypatch.setattr(open_clip, "create_model", create)
    assert load_clip().name == "ViT-bigG-14"
    assert asked == [("ViT-bigG-14", "laion2b_s39b_b160k")]
