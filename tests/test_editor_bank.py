"""The bank of source estimates and the early end of an edit, against slow references."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from slow_edit import TEXTS, AnalyticPrior, RecordedRandomness, images, make_stack, slow_edit

from csd_nerf import editor
from csd_nerf.core.bank import SourceBank
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.editor import edit, edit_images

BASE = EditSettings(iterations=9, learning_rate=0.4, decay_every=3, text_scale=2.0, source_bank=4)


def randomness(seed=1):
    return SeededRandomness(torch.Generator().manual_seed(seed))


@dataclass
class Draws:
    """What the iterations drew, as `slow_edit` reads it."""

    batches: list[list[int]] = field(default_factory=list)
    timesteps: list[int] = field(default_factory=list)
    noises: list[torch.Tensor] = field(default_factory=list)


def recorded(monkeypatch) -> Draws:
    """Record batches, timesteps and noises where they are used: as latents become noisy."""
    draws, calls, known = Draws(), [], editor.add_noise

    def add_noise(schedule, latent, noise, timestep):
        calls.append(None)
        # The source follows the target, with the same noise.
        if len(calls) % 2:
            draws.timesteps.append(int(timestep[0]))
            draws.noises.append(noise.clone())
        return known(schedule, latent, noise, timestep)

    monkeypatch.setattr(editor, "add_noise", add_noise)
    return draws


@pytest.mark.parametrize(
    "settings",
    [
        BASE,
        replace(BASE, noise="independent"),
        replace(BASE, noise="independent", batch_size=3),
        replace(BASE, batch_size=3, source_share=0.3),
        replace(BASE, residual="dds", batch_size=3),
        replace(BASE, t_order="falling", noise="independent"),
    ],
    ids=["shared", "independent", "batches", "share", "dds", "falling"],
)
@pytest.mark.parametrize("prompts", [["make it night"], ["make it night", "make it snow"]])
def test_a_bank_gives_what_computing_the_source_anew_gives(monkeypatch, settings, prompts):
    source01 = images(5)
    rows = torch.tensor([[0.25, 0.75], [1, 0], [0.5, 0.5], [0, 1], [0.1, 0.9]])
    shares = rows if len(prompts) == 2 else torch.ones(5, 1)
    prior, draws, latents = AnalyticPrior(), recorded(monkeypatch), []
    if settings.residual == "dds":
        prior.source_rows = ()
    stack = make_stack(prior, source01, settings)
    record = RecordedRandomness(randomness())
    done = edit(
        prior,
        stack,
        prompts=prompts,
        prompt_weights=shares,
        negative_prompt="blurry",
        source_prompt="a day",
        settings=settings,
        randomness=record,
        after_step=lambda *_: latents.append(stack.latent.clone()),
    )
    draws.batches = record.batches
    expected = slow_edit(
        source01,
        settings,
        draws,
        prompts=[TEXTS[prompt] for prompt in prompts],
        shares=shares.double(),
        negative=TEXTS["blurry"],
    )
    steps = list(expected)
    assert len(steps) == len(latents) == 9
    for fast, slow in zip(latents, steps, strict=True):
        # Half precision of the source's error, which a step of 0.4 times the weight takes on.
        assert torch.allclose(fast.double(), slow, atol=2e-3)
    assert not torch.allclose(latents[-1], 2 * source01, atol=1e-2)
    assert len(set(draws.timesteps)) <= 4 < 9
    assert done == prior.evaluations


def test_the_source_is_evaluated_once_for_each_pair_that_an_image_meets():
    prior, settings = AnalyticPrior(), replace(BASE, iterations=40)
    stack = make_stack(prior, images(5), settings)
    done = edit(prior, stack, prompts=["make it night"], settings=settings, randomness=randomness())
    assert done == prior.evaluations == 5 * (3 * 40 + 2 * 4)


def test_half_precision_rounds_the_error_alone(monkeypatch):
    """With the errors in full precision the result is that of the slow loop to its rounding."""
    exact, latents = SourceBank.keep, {}

    def keep(self, pair, index, errors):
        exact(self, pair, index, errors)
        if pair not in wide:
            wide[pair] = torch.zeros(self.size, *errors.shape[1:])
        wide[pair][index] = errors

    for name in ("half", "full"):
        wide = {}
        with monkeypatch.context() as patch:
            if name == "full":
                patch.setattr(SourceBank, "keep", keep)
                patch.setattr(SourceBank, "read", lambda self, pair, index: wide[pair][index])  # noqa: B023
            stack = make_stack(AnalyticPrior(), images(5), BASE)
            edit(
                AnalyticPrior(),
                stack,
                prompts=["make it night"],
                settings=BASE,
                randomness=randomness(),
            )
            latents[name] = stack.latent
    difference = (latents["half"] - latents["full"]).abs().max()
    assert 0 < difference < 1e-3


@pytest.mark.parametrize("drawing", ["balanced", "uniform"])
@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_windows_of_a_bank_are_those_without(monkeypatch, drawing, noise):
    """A bank that forgets at once computes all anew."""

    def run():
        latent = images(1, height=8, width=20)[0] * 2
        canvas = WindowCanvas(
            latent.clone(), latent, {"condition": latent / 2 - 0.5}, (8, 8), 4, 2, drawing=drawing
        )
        settings = replace(BASE, noise=noise, iterations=20, source_bank=2)
        done = edit(
            AnalyticPrior(),
            canvas,
            prompts=["make it night"],
            settings=settings,
            randomness=randomness(),
        )
        return canvas.latent, done

    kept, fewer = run()
    monkeypatch.setattr(SourceBank, "missing", lambda self, pair, index: torch.arange(len(index)))
    anew, more = run()
    assert torch.allclose(kept, anew, atol=1e-6)
    assert fewer < more


def test_an_edit_that_resumes_with_its_seed_goes_on():
    def run(*parts, seeds):
        stack = make_stack(AnalyticPrior(), images(4), BASE)
        source = randomness()
        done = 0
        for until, seed in zip(parts, seeds, strict=True):
            stops = {"after_step": lambda now, _, until=until: _stop(now, until)}
            with suppress(_StoppedError):
                edit(
                    AnalyticPrior(), stack, prompts=["make it night"], settings=BASE,
                    randomness=source, bank_seed=seed, done=done, **stops,
                )  # fmt: skip
            done = until
        return stack.latent

    whole = run(9, seeds=[5])
    assert torch.allclose(run(4, 9, seeds=[5, 5]), whole, atol=1e-3)
    assert not torch.allclose(run(4, 9, seeds=[5, 6]), whole, atol=1e-2)


class _StoppedError(Exception):
    pass


def _stop(now, until):
    if now == until < 9:
        raise _StoppedError


def test_a_bank_for_residuals_without_a_source_is_refused():
    for differ in ({"residual": "sds"}, {"source_share": 0.0}):
        with pytest.raises(ValueError, match="source_bank keeps estimates for the source, got 4"):
            replace(BASE, **differ)


# The early end.


def test_an_edit_ends_when_its_mean_step_over_ten_iterations_is_small():
    """Steps shrink with the rate; the first ten whose mean is below the bound are the last."""
    settings = EditSettings(iterations=100, learning_rate=0.4, decay=0.5, decay_every=10)
    latents, told = [], []

    def run(**differ):
        latents.clear()
        told.clear()
        prior = AnalyticPrior()
        stack = make_stack(prior, images(3), settings)

        def after_step(done, total):
            latents.append(stack.latent.clone())
            told.append((done, total))

        return edit(
            prior, stack, prompts=["make it night"], settings=replace(settings, **differ),
            randomness=randomness(), after_step=after_step,
        )  # fmt: skip

    assert run() == 100 * 5 * 3
    points = [2 * images(3), *latents[9::10]]
    means = [float(((b - a) / 10).square().mean().sqrt()) for a, b in pairwise(points)]
    assert means[3] > means[4] > means[5]
    whole = [latent.clone() for latent in latents]
    done = run(stop_below=(means[4] + means[3]) / 2)
    assert done == 50 * 5 * 3
    assert torch.equal(latents[-1], whole[49])
    assert told == [*((n, 100) for n in range(1, 50)), (100, 100)]


def test_an_edit_that_resumes_between_checks_waits_for_ten_iterations():
    settings = EditSettings(iterations=40, learning_rate=1e-6, stop_below=1e-4)
    stack, told = make_stack(AnalyticPrior(), images(2), settings), []
    edit(
        AnalyticPrior(), stack, prompts=["make it night"], settings=settings, done=15,
        randomness=randomness(), after_step=lambda done, _: told.append(done),
    )  # fmt: skip
    assert told == [*range(16, 30), 40]


def test_an_early_end_reaches_edits_of_images():
    settings = EditSettings(iterations=40, learning_rate=1e-6, stop_below=1e-4)
    result = edit_images(
        AnalyticPrior(), images(2), prompt="make it night", settings=settings,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert result.evaluations == 10 * 5 * 2
