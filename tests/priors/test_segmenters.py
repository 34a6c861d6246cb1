"""CLIPSeg of random weights, in a folder as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_pipelines import make_tokenizer
from torch.nn import functional
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    ViTImageProcessor,
)

from csd_nerf.adapters.weights import WeightsSettings
from csd_nerf.priors import flat_models
from csd_nerf.priors.hub import HubError
from csd_nerf.priors.segmenters import SegmenterNotFoundError, find_segmenter, load_segmenter


@pytest.fixture(scope="session")
def segmenter_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clipseg")
    tokenizer = make_tokenizer()
    tower = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = CLIPSegConfig(
        text_config=text,
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    torch.manual_seed(0)
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    edges = {"height": 32, "width": 32}
    CLIPSegProcessor(ViTImageProcessor(size=edges), tokenizer).save_pretrained(folder)
    return folder


def test_shares_are_those_of_transformers_own_pipeline(segmenter_folder):
    image01 = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0))
    share = load_segmenter(segmenter_folder)(image01, "the sphere")

    processor = CLIPSegProcessor.from_pretrained(segmenter_folder)
    model = CLIPSegForImageSegmentation.from_pretrained(segmenter_folder).eval()
    picture = (image01.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    inputs = processor(text=["the sphere"], images=[picture], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    expected = functional.interpolate(
        logits.view(1, 1, 32, 32).sigmoid(), (40, 56), mode="bilinear"
    )
    assert share.shape == (40, 56)
    assert torch.allclose(share, expected[0, 0], atol=1e-5)
    # The word and the image both matter.
    assert not torch.allclose(share, load_segmenter(segmenter_folder)(image01, "the cube"))
    assert not torch.allclose(share, load_segmenter(segmenter_folder)(1 - image01, "the sphere"))


def test_missing_weights_are_one_line_with_the_command_that_fetches_them(tmp_path, monkeypatch):
    def refuse(repo):
        raise HubError(f"{repo} is out of reach")

    monkeypatch.setattr(flat_models, "list_files", refuse)
    monkeypatch.setattr(flat_models, "cached_file", lambda *_: None)
    with pytest.raises(SegmenterNotFoundError, match="csd-nerf weights clipseg") as told:
        find_segmenter("clipseg")
    assert "CIDAS/clipseg-rd64-refined is out of reach" in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(SegmenterNotFoundError, match="does not exist"):
        find_segmenter(tmp_path / "nowhere")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_a_folder_that_lacks_a_file_is_told_by_its_name(segmenter_folder, tmp_path, lost):
    for path in segmenter_folder.iterdir():
        if path.name != lost:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(SegmenterNotFoundError, match=f"lacks {lost}"):
        find_segmenter(tmp_path)


def test_a_model_of_another_class_is_refused(segmenter_folder, tmp_path):
    for path in segmenter_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="of the type clipseg, got clip"):
        find_segmenter(tmp_path)


def test_weights_are_fetched_by_their_short_name(monkeypatch, tmp_path, capsys):
    files = dict.fromkeys(("config.json", "preprocessor_config.json", "vocab.json"), 1000)
    files |= dict.fromkeys(("tokenizer_config.json", "merges.txt", "README.md"), 1000)
    files |= {"model.safetensors": 600_000_000, "pytorch_model.bin": 600_000_000}
    asked = []

    def download(repo, needed, *, folder):
        asked.append((repo, sorted(needed), folder))
        return folder

    monkeypatch.setattr(flat_models, "list_files", lambda _: files)
    monkeypatch.setattr(flat_models, "download", download)
    WeightsSettings("clipseg", output=tmp_path).run()
    expected = {*files} - {"README.md", "pytorch_model.bin"}
    assert asked == [("CIDAS/clipseg-rd64-refined", sorted(expected), tmp_path)]
    assert "6 files of 0.6 GB go to" in capsys.readouterr().out
