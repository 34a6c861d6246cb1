"""The bundled text-to-image prior: it is there, it is small, and it draws what it is told."""

from __future__ import annotations

from importlib.resources import files

import pytest
import torch

from csd_nerf import priors
from csd_nerf.synthetic.palette import COLOURS
from training.text_sampling import sample_text

FOLDER = files("csd_nerf") / "assets" / "tiny_text"


@pytest.fixture(scope="module")
def tiny_text():
    return priors.load("tiny-text", kind="text")


def test_the_bundled_folder_stays_within_ten_megabytes():
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert 1e6 < sum(sizes) < 10e6


def test_it_works_on_pixels_and_is_a_text_to_image_prior(tiny_text):
    assert isinstance(tiny_text, priors.Prior)
    assert tiny_text.source_rows == ()
    assert (tiny_text.latent_channels, tiny_text.cell_size, tiny_text.preferred_size) == (3, 1, 32)


@pytest.mark.parametrize("shape", ["sphere", "cube"])
def test_the_middle_of_a_picture_has_the_colour_that_was_asked_for(tiny_text, shape):
    colours = ["red", "blue", "yellow", "green"]
    images = sample_text(
        tiny_text,
        [f"a {colour} {shape}, front view" for colour in colours],
        steps=15,
        text_scale=2.0,
        solver="ddim",
        generator=torch.Generator().manual_seed(0),
    )
    middle = images[:, :, 13:19, 13:19].mean((2, 3))
    names = [c for c in COLOURS if c not in ("orange", "pink", "turquoise", "purple")]
    table = torch.tensor([COLOURS[name] for name in names])
    nearest = [names[int(i)] for i in torch.cdist(middle, table).argmin(1)]
    assert nearest == colours


def test_the_text_matters_more_the_less_there_is_to_see(tiny_text):
    from csd_nerf.priors.base import Branch

    noisy = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    red, blue = (tiny_text.encode_text([f"a {c} cube"]) for c in ("red", "blue"))

    def difference(t):
        one, two = tiny_text.predict([Branch(noisy, red), Branch(noisy, blue)], torch.tensor([t]))
        alpha, sigma = (
            f(torch.tensor(t)) for f in (tiny_text.schedule.alpha, tiny_text.schedule.sigma)
        )
        # In terms of the clean picture that each estimate means.
        return float((sigma / alpha * (one - two)).abs().mean())

    assert difference(900) > 3 * difference(100)
