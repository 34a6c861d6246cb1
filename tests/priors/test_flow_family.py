"""A new family: one file (`toy_flow.py`) and one line in the table, edited end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from toy_flow import ToyFlow

from csd_nerf import cli, priors
from csd_nerf.core.schedules import FlowSchedule, add_noise
from csd_nerf.editor import EditSettings, edit_images
from csd_nerf.priors.families import FAMILIES, Family


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The registration, and a model's folder of that family."""
    monkeypatch.setitem(FAMILIES, "ToyFlowPipeline", Family("toy_flow:ToyFlow", "edit", {}))
    (tmp_path / "model").mkdir()
    index = {"_class_name": "ToyFlowPipeline"}
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    return tmp_path / "model"


def images(n, *, seed=0):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_a_registered_class_is_what_a_folder_s_index_loads(folder):
    prior = priors.load(folder)
    assert isinstance(prior, ToyFlow)
    assert isinstance(prior, priors.Prior)
    assert isinstance(prior.schedule, FlowSchedule)


def test_its_noise_estimate_is_the_exact_one_in_the_editors_scale(folder):
    """By Gaussian conditioning in float64 on z = alpha x + sigma e, without velocities."""
    prior = priors.load(folder)
    latent, rows = prior.encode_source(images(2))
    timestep = torch.tensor([120, 870])
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    noisy = add_noise(prior.schedule, latent, noise, timestep)
    text = prior.encode_text(["swap"])
    (estimate,) = prior.predict([priors.Branch(noisy, {**text, **rows})], timestep)
    s = (timestep.double() / 1000).view(-1, 1, 1, 1)
    n = ((1 - s) ** 2 + s**2).sqrt()
    alpha, sigma = (1 - s) / n, s / n
    off = noisy.double() - alpha * latent.double().flip(1)
    expected = sigma * off / (alpha**2 * 0.3**2 + sigma**2)
    assert torch.allclose(estimate.double(), expected, atol=1e-5)


@pytest.mark.parametrize("mixing", ["stein", "none"])
@pytest.mark.parametrize("residual", ["csd", "sds"])
def test_the_fixed_point_of_an_edit_is_the_mean_asked_for(folder, residual, mixing):
    settings = EditSettings(
        iterations=300,
        learning_rate=1.0,
        decay=0.9,
        decay_every=10,
        text_scale=1.0,
        image_scale=1.0,
        t_range=(0.2, 0.8),
        residual=residual,
        mixing=mixing,
        normalize="rowsum",
        repulsion=0.0,
    )
    source = images(3)
    result = edit_images(
        priors.load(folder),
        source,
        prompt="swap",
        settings=settings,
        generator=torch.Generator().manual_seed(0),
    )
    # SDS keeps a little of the noise that was drawn.
    tolerance = {"csd": 1e-5, "sds": 0.02}[residual]
    assert (result.image01 - source.flip(1)).abs().max() < tolerance


def test_a_panorama_is_edited_by_it_from_the_command_line(folder, tmp_path):
    pixels = np.random.default_rng(0).integers(40, 216, (4, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((56, 32), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "source.png")
    options = (
        f"--prior {folder} --preset tiny --prompt swap --device cpu --text-scale 1 "
        "--image-scale 1 --updates 20 --t-range 0.2 0.8 --source-share 1"
    )
    files = [str(tmp_path / "source.png"), "--output", str(tmp_path / "edited.png")]
    cli.main(["panorama", *files, *options.split()])
    edited = np.asarray(Image.open(tmp_path / "edited.png")).astype(float)
    wanted = np.asarray(picture)[..., ::-1].astype(float)
    before = np.abs(np.asarray(picture).astype(float) - wanted).mean()
    assert np.abs(edited - wanted).mean() < 0.05 * before
