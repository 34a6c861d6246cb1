"""Priors whose text encoder sees the source images are handed each particle's own."""

from __future__ import annotations

from dataclasses import replace

import torch
from tint_prior import TintPrior

from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.editor import edit, edit_images
from csd_nerf.priors.estimates import PICTURES_AT_ONCE


class SeeingPrior(TintPrior):
    """Its texts are the mean of the picture that they have seen, and its edit is that grey."""

    source_rows = ("condition", "picture")
    second_rows = ("condition_2", "picture_2")

    def __init__(self):
        self.seen = []

    def encode_source(self, image01):
        latent, rows = super().encode_source(image01)
        return latent, {**rows, "picture": image01}

    def encode_text(self, prompts, image_rows=None):
        assert image_rows is not None
        self.seen.append(image_rows)
        mean = image_rows["picture"].mean((1, 2, 3))
        asked = torch.tensor([float(prompt != "") for prompt in prompts])
        return {"text": torch.stack([asked.expand(len(mean)), mean], dim=1)}

    def _clean(self, branch):
        asked, mean = (column[:, None, None, None] for column in branch.rows["text"].T)
        grey = (2 * mean - 1).expand_as(branch.noisy)
        return torch.where(asked > 0, grey, branch.rows["condition"])


SETTINGS = EditSettings(
    iterations=60, learning_rate=1.0, text_scale=1.0, image_scale=1.0, mixing="none", batch_size=4
)


def images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 16, 16, generator=generator) * torch.linspace(0.3, 1, count).view(
        -1, 1, 1, 1
    )


def test_each_image_s_texts_have_seen_that_image():
    """More images than are handed over at once, in batches of other sizes."""
    source01 = images(PICTURES_AT_ONCE + 3)
    prior = SeeingPrior()
    settings = replace(SETTINGS, iterations=240)
    result = edit_images(
        prior,
        source01,
        prompt="grey",
        settings=settings,
        generator=torch.Generator().manual_seed(0),
    )
    wanted = source01.mean((1, 2, 3), keepdim=True).expand_as(source01)
    assert (result.image01 - wanted).abs().mean((1, 2, 3)).max() < 0.02
    # Two texts, each beside all images: at most so many at once.
    assert [len(rows["picture"]) for rows in prior.seen] == [8, 8, 3, 3]


def test_each_window_s_texts_have_seen_that_window():
    """Windows that don't overlap: each becomes the grey of its own part of the picture."""
    picture01 = images(1).repeat(1, 1, 1, 4) * torch.linspace(0.2, 1, 64)
    prior = SeeingPrior()
    latent, rows = prior.encode_source(picture01)
    canvas = WindowCanvas(
        latent[0].clone(),
        latent[0],
        {name: whole[0] for name, whole in rows.items()},
        window=(16, 16),
        stride=16,
        batch_size=3,
        taper=0,
    )
    edit(
        prior,
        canvas,
        prompts=["grey"],
        settings=replace(SETTINGS, iterations=120),
        randomness=SeededRandomness(torch.Generator().manual_seed(0)),
    )
    found = prior.decode(canvas.latent[None])[0]
    for column in range(0, 64, 16):
        own = picture01[0, :, :, column : column + 16].mean()
        assert (found[:, :, column : column + 16] - own).abs().mean() < 0.02


def test_the_second_image_is_seen_beside_every_one_of_them():
    prior, second01 = SeeingPrior(), images(2)[1:]
    edit_images(
        prior,
        images(PICTURES_AT_ONCE + 1),
        prompt="grey",
        settings=replace(SETTINGS, iterations=1),
        reference01=second01,
        generator=torch.Generator().manual_seed(0),
    )
    # The first call encodes nothing but the second image's own rows.
    assert all(torch.equal(rows["picture_2"], second01) for rows in prior.seen)
    assert [len(rows["picture"]) for rows in prior.seen] == [8, 8, 1, 1]
