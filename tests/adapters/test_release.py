"""The preset `release` against the update of the authors' published scripts, written out again.

The formulas are those of github.com/subin-kim-cv/CSD at 6c53266 (csdedit.py), in float64, an image
at a time and a pair of images at a time. Only the U-Net, text encoder and autoencoder are ours; the
release encodes by a sample instead of the mode, and is given our latents here.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from csd_nerf import cli, priors
from csd_nerf.adapters import editing
from csd_nerf.core.randomness import SeededRandomness

TEXT_SCALE, IMAGE_SCALE, RATE, DECAY = 7.5, 5.0, 2.0, 0.9
DONE = 45
"""Iterations before the one that is compared: it has two decays behind it, one every 20."""


class RecordedRandomness(SeededRandomness):
    """Remembers the timesteps, the noises and the chosen windows."""

    def __post_init__(self):
        object.__setattr__(self, "drawn", {"choice": [], "timestep": [], "normal": []})

    def _kept(self, name, *arguments):
        drawn = getattr(super(), name)(*arguments)
        self.drawn[name].append(drawn)
        return drawn

    def choice(self, total, count):
        return self._kept("choice", total, count)

    def timestep(self, low, high):
        return self._kept("timestep", low, high)

    def normal(self, shape):
        return self._kept("normal", shape)


def scales(t):
    """alpha_t and sigma_t of Stable Diffusion's schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = float((1 - betas)[: t + 1].prod())
    return math.sqrt(kept), math.sqrt(1 - kept)


class Models:
    """The noise estimate of the U-Net in float64, for one image; it predicts a velocity."""

    def __init__(self, prior, prompt: str) -> None:
        self.unet = copy.deepcopy(prior.unet).double()
        self.texts = {text: prior.encode_text([text])["text"].double() for text in ("", prompt)}

    def __call__(self, noisy, condition, text: str, t: int):
        alpha, sigma = scales(t)
        whole = torch.cat([noisy, condition])[None]
        velocity = self.unet(whole, t, encoder_hidden_states=self.texts[text]).sample[0]
        return alpha * velocity + sigma * noisy


def guided(models, noisy, latent, text, t):
    """Both guidances; the condition is the latent itself, in the scale of the noisy latents."""
    nothing = torch.zeros_like(latent)
    asked = models(noisy, latent, text, t)
    image, null = models(noisy, latent, "", t), models(noisy, nothing, "", t)
    return null + TEXT_SCALE * (asked - image) + IMAGE_SCALE * (image - null)


def released_scores(models, targets, sources, noises, prompt, t):
    """w(t)/N sum_j [k_ij r_j - 2 gamma k_ij (z_i - z_j)], for lists of single images."""
    alpha, sigma = scales(t)
    noisy = [alpha * x + sigma * e for x, e in zip(targets, noises, strict=True)]
    noisy_sources = [alpha * x + sigma * e for x, e in zip(sources, noises, strict=True)]
    residuals = [
        guided(models, z, x, prompt, t) - guided(models, z_source, x, "", t)
        for z, z_source, x in zip(noisy, noisy_sources, sources, strict=True)
    ]
    count = len(noisy)
    squared = sorted(float(((a - b) ** 2).sum()) for a, b in product(noisy, noisy))
    # The diagonal counts, and of two middle values the lower one is taken.
    gamma = math.log(count + 1) / squared[(count**2 - 1) // 2]
    scores = []
    for i in range(count):
        total = torch.zeros_like(noisy[i])
        for j in range(count):
            k = math.exp(-gamma * float(((noisy[i] - noisy[j]) ** 2).sum()))
            total += k * residuals[j] - 2 * gamma * k * (noisy[i] - noisy[j])
        scores.append(sigma**2 * total / count)
    return scores


def one_iteration(monkeypatch, *command: object) -> dict[str, Any]:
    """Run a command, of whose edit only iteration `DONE` is done, from a latent of its own."""
    seen: dict[str, Any] = {}

    def edit(prior, canvas, *, settings, randomness, done, **given):
        canvas.latent += 0.3 * torch.randn(
            canvas.latent.shape, generator=torch.Generator().manual_seed(3)
        )
        randomness = RecordedRandomness(torch.Generator().manual_seed(4))
        seen.update(settings=settings, before=canvas.latent.double(), canvas=canvas)
        once = dataclasses.replace(settings, iterations=DONE + 1)
        own_edit(prior, canvas, settings=once, randomness=randomness, done=DONE, **given)
        seen.update(drawn=randomness.drawn, after=canvas.latent.double())
        return 0

    own_edit = editing.edit
    monkeypatch.setattr(editing, "edit", edit)
    asked = ("--prompt", "make it night", "--preset", "release", "--prior", "tiny")
    cli.main([str(word) for word in (*command, *asked)])
    return seen


def pixels(height, width, *, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def relative(update, expected):
    return float((update - expected).norm() / expected.norm())


@pytest.fixture
def models():
    return Models(priors.load("tiny"), "make it night")


@torch.no_grad()
def test_an_iteration_on_a_video_is_the_release_s(monkeypatch, tmp_path, models):
    (tmp_path / "frames").mkdir()
    for number in range(5):
        pixels(64, 64, seed=number).save(tmp_path / "frames" / f"{number}.png")
    seen = one_iteration(monkeypatch, "video", tmp_path / "frames", "--output", tmp_path / "edited")
    settings, drawn, canvas = seen["settings"], seen["drawn"], seen["canvas"]
    assert (settings.iterations, settings.t_range, canvas.size) == (200, (0.02, 0.5), 5)
    (noise,), (t,) = drawn["normal"], drawn["timestep"]
    parts = seen["before"], canvas.source.double(), noise.double()
    scores = released_scores(models, *(list(part) for part in parts), "make it night", t)
    expected = -RATE * DECAY**2 * torch.stack(scores)
    assert relative(seen["after"] - seen["before"], expected) < 1e-5


@torch.no_grad()
def test_an_iteration_on_a_panorama_is_the_release_s(monkeypatch, tmp_path, models):
    pixels(64, 128).save(tmp_path / "picture.png")
    seen = one_iteration(
        monkeypatch, "panorama", tmp_path / "picture.png", "--output", tmp_path / "edited.png"
    )
    settings, drawn, canvas = seen["settings"], seen["drawn"], seen["canvas"]
    assert (settings.iterations, settings.t_range) == (200, (0.02, 0.5))
    (noise,), (t,), (chosen,) = drawn["normal"], drawn["timestep"], drawn["choice"]
    assert len(chosen) == 4
    cells = priors.load("tiny").preferred_size // priors.load("tiny").cell_size
    # Windows lie a quarter of a window apart: 16 cells of 64 in the release.
    lefts = [int(number) * cells // 4 for number in chosen]

    def cut(whole):
        return [whole.double()[:, :, left : left + cells] for left in lefts]

    parts = cut(seen["before"]), cut(canvas.source), list(noise.double())
    scores = released_scores(models, *parts, "make it night", t)
    value, count = torch.zeros_like(seen["before"]), torch.zeros_like(seen["before"])
    for left, score in zip(lefts, scores, strict=True):
        value[:, :, left : left + cells] += score
        count[:, :, left : left + cells] += 1
    expected = -RATE * DECAY**2 * value / count.clamp(min=1)
    assert relative(seen["after"] - seen["before"], expected) < 1e-5
