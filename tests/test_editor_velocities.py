"""The edit loop with the quantity velocity, against velocities that the model itself gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tint_prior import TintPrior
from toy_flow import DEVIATION, ToyFlow

from csd_nerf import priors
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.editor import edit, edit_images
from csd_nerf.priors.base import Branch

SETTINGS = EditSettings(
    iterations=4,
    learning_rate=0.8,
    decay=0.5,
    decay_every=2,
    text_scale=3.0,
    image_scale=1.5,
    t_range=(0.1, 0.9),
    mixing="none",
    quantity="velocity",
)


def images(n, *, size, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def slow_edit(prior, source01, prompt, settings, *, seed):
    """By the definition, in the flow's own scale, with `predict_velocity`."""
    source, rows = prior.encode_source(source01)
    texts = [prior.encode_text([text]) for text in (prompt, "")]
    randomness = SeededRandomness(torch.Generator().manual_seed(seed))
    x, eta, q = source.clone(), settings.shift, settings.source_share
    low, high = settings.t_range
    for k in range(settings.iterations):
        t = randomness.timestep(round(1000 * low), round(1000 * high))
        e = randomness.normal((1, *x.shape[1:])).expand_as(x)
        s = t / 1000
        n = ((1 - s) ** 2 + s**2) ** 0.5
        y = (1 - s) * x + s * e + eta * s * (x - source)
        y0 = (1 - s) * source + s * e
        both, seen, null = ({**texts[0], **rows}, {**texts[1], **rows}, texts[1])

        def velocity(own, row, t=t, n=n):
            steps = torch.full((len(own),), t)
            return prior.predict_velocity([Branch(own / n, row)], steps)[0]

        v_null, v_seen, v_both = (velocity(y, row) for row in (null, seen, both))
        v = v_null + settings.image_scale * (v_seen - v_null)
        v = v + settings.text_scale * (v_both - v_seen)
        v0_null, v0_seen = (velocity(y0, row) for row in (null, seen))
        v0 = v0_null + settings.image_scale * (v0_seen - v0_null)
        drawn = (y - (1 - s) * x) / s - x
        rate = settings.learning_rate * settings.decay ** (k // settings.decay_every)
        step = rate * (high - low) / settings.iterations
        x = x - step * (v - q * v0 - (1 - q) * drawn)
    return x


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("family", ["flux2", "kontext"])
def test_it_follows_the_difference_of_velocities(editing_folder, family, shift, share):
    prior = priors.load(editing_folder(family))
    source01 = images(2, size=2 * prior.size_multiple)
    settings = replace(SETTINGS, shift=shift, source_share=share)
    prompt = "make the sphere blue"
    generator = torch.Generator().manual_seed(3)
    result = edit_images(prior, source01, prompt=prompt, settings=settings, generator=generator)
    expected = slow_edit(prior, source01, prompt, settings, seed=3)
    change = (expected - result.source_latent).abs().max()
    assert (result.latent - expected).abs().max() < 1e-4 * change

    others = [{"quantity": "noise"}]
    others += [{"shift": 1 - shift}, {"source_share": 0.6}]
    for other in others:
        differs = edit_images(
            prior,
            source01,
            prompt=prompt,
            settings=replace(settings, **other),
            generator=torch.Generator().manual_seed(3),
        )
        assert (differs.latent - expected).abs().max() > 0.01 * change


def toy() -> ToyFlow:
    return ToyFlow.from_folder(Path(), name="toy", device=torch.device("cpu"))


def toy_gain(source01=None, *, start01=None, **changes):
    """(x - x~) / (m - x~): how far an edit of the toy went, in units of the way to its answer."""
    source01 = images(1, size=32) if source01 is None else source01
    known = {"iterations": 200, "learning_rate": 1.0, "decay": 1.0, "noise": "independent"}
    known |= {"text_scale": 1.0, "image_scale": 1.0, "t_range": (0.0, 1.0), "mixing": "none"}
    result = edit_images(
        toy(),
        source01,
        prompt="swap",
        settings=EditSettings(**{**known, **changes}),
        generator=torch.Generator().manual_seed(0),
        start01=start01,
    )
    way = result.source_latent.flip(1) - result.source_latent
    moved = result.latent - result.source_latent
    gain = float((way * moved).sum() / way.square().sum())
    return gain, float((moved - gain * way).abs().max())


def test_the_noise_s_fixed_point_is_the_answer_at_every_level():
    for low, high in ((0.15, 0.16), (0.5, 0.51), (0.8, 0.81), (0.02, 0.98)):
        asked = {"t_range": (low, high), "iterations": 100, "learning_rate": 2.0}
        gain, rest = toy_gain(**asked, quantity="noise")
        assert gain == pytest.approx(1, abs=1e-3)
        assert rest < 1e-3


@pytest.mark.parametrize("level", [0.15, 0.5, 0.8])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_velocity_s_fixed_point_lies_beyond_the_answer_and_depends_on_the_level(level, shift):
    """Many passes of almost one level, so that the edit comes to rest."""
    asked = {"quantity": "velocity", "shift": shift, "t_range": (level, level + 0.001)}
    gain, rest = toy_gain(**asked, learning_rate=2e4)
    c = shift * level
    expected = level / ((level - (1 - level) * DEVIATION**2) * (1 - level + c))
    assert gain == pytest.approx(expected, rel=0.01)
    assert gain > 1.02
    assert rest < 1e-3


def test_one_falling_pass_with_the_shift_1_ends_at_the_answer():
    asked = {"quantity": "velocity", "t_order": "falling", "iterations": 100}
    assert toy_gain(**asked, shift=1.0)[0] == pytest.approx(1, abs=0.02)
    assert toy_gain(**asked, shift=0.0)[0] == pytest.approx(1.2, abs=0.1)
    # Twice the path is not a refinement but more of the edit.
    assert toy_gain(**asked, shift=1.0, learning_rate=2.0)[0] > 1.05


def test_a_pass_that_begins_at_the_answer_goes_beyond_it():
    source01 = images(1, size=32)
    asked = {"quantity": "velocity", "t_order": "falling", "shift": 1.0}
    gain = toy_gain(source01, start01=source01.flip(1), **asked)[0]
    assert gain == pytest.approx(1 + DEVIATION, abs=0.03)
    noise = toy_gain(source01, start01=source01.flip(1), quantity="noise", t_range=(0.02, 0.98))
    assert noise[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "drawing"),
    [("images", "balanced"), ("images", "uniform"), ("windows", "balanced")],
)
def test_the_path_of_a_particle_is_as_long_in_batches_as_in_one(kind, drawing):
    prior, generator = toy(), torch.Generator().manual_seed(0)
    settings = EditSettings(
        iterations=300,
        learning_rate=1.0,
        decay=1.0,
        text_scale=1.0,
        image_scale=1.0,
        t_range=(0.0, 1.0),
        t_order="falling",
        mixing="none",
        quantity="velocity",
        shift=1.0,
    )
    if kind == "images":
        source, rows = prior.encode_source(images(3, size=16))
        canvas = ImageStack(source.clone(), source, rows, 2, drawing=drawing)
    else:
        source, rows = prior.encode_source(images(1, size=48))
        canvas = WindowCanvas(
            source[0].clone(),
            source[0],
            {name: row[0] for name, row in rows.items()},
            window=(32, 32),
            stride=8,
            batch_size=2,
            drawing=drawing,
        )
    randomness = SeededRandomness(generator)
    edit(prior, canvas, prompts=["swap"], settings=settings, randomness=randomness)
    axis = 1 if kind == "images" else 0
    way = canvas.source.flip(axis) - canvas.source
    gain = ((canvas.latent - canvas.source) * way).sum() / way.square().sum()
    assert float(gain) == pytest.approx(1, abs=0.05)


def test_a_schedule_that_is_no_flow_is_refused():
    with pytest.raises(
        ValueError, match=r"quantity velocity needs a flow model, got 'tint'.* take"
    ):
        edit_images(
            TintPrior(),
            images(1, size=32),
            prompt="swap",
            settings=SETTINGS,
            generator=torch.Generator(),
        )


@pytest.mark.parametrize("shift", [-0.1, 1.1])
def test_shifts_out_of_range_are_refused(shift):
    with pytest.raises(ValueError, match="shift needs 0 <= shift <= 1, got"):
        EditSettings(quantity="velocity", shift=shift)
