from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.text_to_3d.judging import measure, require
from benchmarks.text_to_3d.object_truth import AMBIENT, VIEWS, true_views
from benchmarks.text_to_3d.views import RunViews, read_views
from csd_nerf.evaluation.networks import Networks


def views_of(prompt: str, *, size: int = 16) -> RunViews:
    truth, lit = (true_views(prompt, size=size, ambient=ambient) for ambient in (1.0, AMBIENT))
    grey = truth.coverage[:, None].expand(-1, 3, -1, -1)
    return RunViews(truth.image01, lit.image01, grey, truth.coverage)


def test_only_known_objects_are_compared_with_the_truth():
    row = measure(views_of("a red cube"), "a red cube", Networks(clip=None))
    assert row.keys() == {"overlap", "scale", "shift", "colour_distance"}
    assert row["overlap"] == 1
    assert row["colour_distance"] == pytest.approx(0, abs=1e-6)
    assert measure(views_of("a red cube"), "a corgi", Networks(clip=None)) == {}


def test_clip_judges_colour_and_depth_views_and_fid_the_colours(monkeypatch):
    """A stand-in whose features are the mean colour, and (1, 0, 0) for any text."""
    clip: Any = SimpleNamespace(
        image_features=lambda image01: image01.mean((2, 3)),
        text_features=lambda texts: torch.tensor([[1.0, 0.0, 0.0]] * len(texts)),
    )
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(VIEWS, 3, 8, 8)
    views = RunViews(red, red, torch.ones(VIEWS, 3, 8, 8), torch.ones(VIEWS, 8, 8))
    networks = Networks(clip="stub")
    monkeypatch.setattr(Networks, "clip", clip)
    monkeypatch.setattr(networks, "fid", lambda images: float(torch.cat([*images]).mean()))
    row = measure(views, "a corgi", networks, ["CLIP", "Inception"])
    assert row["clip_colour"] == pytest.approx(1)
    assert row["clip_geometry"] == pytest.approx(1 / math.sqrt(3))
    assert row["fid"] == pytest.approx(1 / 3)


def test_fid_is_that_of_the_references_features(tmp_path, monkeypatch):
    """With the mean colour as the features, and covariances by numpy."""
    from scipy.linalg import sqrtm

    generator = np.random.default_rng(0)
    for index in range(6):
        pixels = generator.integers(0, 256, (5 + index, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    monkeypatch.setattr(
        "csd_nerf.evaluation.fid.load_inception",
        lambda weights, device: lambda image01: image01.mean((2, 3)),
    )
    networks = Networks(clip=None, reference=tmp_path)
    require(networks, ["Inception"])
    mine = torch.rand(VIEWS, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    views = RunViews(mine, mine, mine, mine[:, 0])
    first = mine.double().mean((2, 3)).numpy()
    pictures = [np.array(Image.open(path)) / 255 for path in sorted(tmp_path.glob("*.png"))]
    second = np.stack([picture.mean((0, 1)) for picture in pictures])
    covariances = [np.cov(x, rowvar=False) for x in (first, second)]
    mixed = np.trace(np.real(sqrtm(covariances[0] @ covariances[1])))
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum()
    expected += sum(np.trace(c) for c in covariances) - 2 * mixed
    found = measure(views, "a corgi", networks, ["Inception"])
    assert found["fid"] == pytest.approx(expected, abs=1e-5)


def test_views_are_read_as_they_were_saved(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 4, 3, 8, 8, generator=generator)
    views = RunViews(*images, torch.rand(4, 8, 8, generator=generator))
    views.save(tmp_path)
    read = read_views(tmp_path)
    for name, image01 in vars(views).items():
        assert torch.equal(getattr(read, name), image01)


def test_a_network_that_is_missing_is_told_of(monkeypatch):
    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("weights are not there")

    monkeypatch.setattr("csd_nerf.evaluation.clip.load_clip", missing)
    with pytest.raises(FileNotFoundError, match="weights are not there"):
        require(Networks(clip="ViT-B-32"), ["CLIP"])
