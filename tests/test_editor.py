"""The edit loop on a small analytic prior, against a slow reference that shares no code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import jaxtyping
import pytest
import torch
from slow_edit import (
    TEXTS,
    AnalyticPrior,
    RecordedRandomness,
    estimate_noise,
    images,
    make_stack,
    slow_edit,
)

from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.editor import EditSettings, edit, edit_images

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run(prior, source, settings, *, prompt="make it night", seed=3, **options):
    generator = torch.Generator().manual_seed(seed)
    return edit_images(
        prior, source, prompt=prompt, settings=settings, generator=generator, **options
    )


BASE = EditSettings(iterations=7, learning_rate=0.4, decay_every=3, text_scale=2.0)


@pytest.mark.parametrize(
    "settings",
    [
        BASE,
        replace(BASE, mixing="none"),
        replace(BASE, residual="sds"),
        replace(BASE, noise="independent"),
        replace(BASE, noise="independent", kernel_on="clean", repulsion=30.0),
        replace(BASE, normalize="rowsum", repulsion_scale="one", repulsion=30.0),
        replace(BASE, batch_size=3, noise="independent", t_range=(0.2, 0.9)),
        replace(BASE, image_scale=1.0),
        replace(BASE, image_scale=0.0, text_scale=0.0),
        replace(BASE, residual="dds"),
        replace(BASE, source_share=0.3),
        replace(BASE, source_share=0.3, residual="dds", noise="independent"),
        replace(BASE, t_order="falling", batch_size=3),
        replace(BASE, mixing="patch", batch_size=3, repulsion=30.0),
        replace(BASE, mixing="patch", patch_bandwidth=2.0, noise="independent"),
    ],
    ids=[
        "default",
        "none",
        "sds",
        "independent",
        "clean",
        "rowsum",
        "batch",
        "w_s=1",
        "zero",
        "dds",
        "share",
        "share of dds",
        "falling",
        "patch",
        "patch bandwidth",
    ],
)
@pytest.mark.parametrize("prompts", [["make it night"], ["make it night", "make it snow"]])
def test_every_step_is_that_of_a_slow_reference(settings, prompts):
    """Same randomness, no shared code: particle after particle in float64."""
    source01 = images(5)
    shares = torch.tensor([[0.25, 0.75], [1, 0], [0.5, 0.5], [0, 1], [0.1, 0.9]])
    shares = shares if len(prompts) == 2 else torch.ones(5, 1)
    prior, canvas_latents = AnalyticPrior(), []
    if settings.residual == "dds":
        prior.source_rows = ()
    record = RecordedRandomness(SeededRandomness(torch.Generator().manual_seed(1)))
    stack = make_stack(prior, source01, settings)

    edit(
        prior,
        stack,
        prompts=prompts,
        prompt_weights=shares,
        negative_prompt="blurry",
        source_prompt="a day",
        settings=settings,
        randomness=record,
        after_step=lambda done, total: canvas_latents.append(stack.latent.clone()),
    )

    batch = settings.batch_size or len(source01)
    count = 1 if settings.noise == "shared" else batch
    assert {len(noise) for noise in record.noises} == {count}
    texts = [TEXTS[prompt] for prompt in prompts]
    expected = slow_edit(
        source01, settings, record, prompts=texts, shares=shares.double(),
        negative=TEXTS["blurry"],
    )  # fmt: skip
    steps = list(expected)
    assert len(steps) == len(canvas_latents) == settings.iterations
    for fast, slow in zip(canvas_latents, steps, strict=True):
        assert torch.allclose(fast.double(), slow, atol=2e-5)
    assert not torch.allclose(canvas_latents[-1], 2 * source01, atol=1e-2)


@pytest.mark.parametrize(
    "settings", [BASE, replace(BASE, batch_size=2, noise="independent")], ids=["all", "batch"]
)
def test_cells_move_by_their_factors_and_images_without_any_cost_nothing(settings):
    source01 = images(4)
    editable = torch.rand(4, *source01.shape[2:], generator=torch.Generator().manual_seed(3))
    editable[:, 0] = 0
    prior, canvas_latents = AnalyticPrior(), []
    record = RecordedRandomness(SeededRandomness(torch.Generator().manual_seed(1)))
    stack = make_stack(prior, source01, settings, editable=editable)
    edit(
        prior, stack, prompts=["make it night"], negative_prompt="blurry", settings=settings,
        randomness=record, after_step=lambda *_: canvas_latents.append(stack.latent.clone()),
    )  # fmt: skip
    expected = slow_edit(
        source01, settings, record, prompts=[TEXTS["make it night"]], shares=torch.ones(4, 1),
        negative=TEXTS["blurry"], factors=editable,
    )  # fmt: skip
    for fast, slow in zip(canvas_latents, expected, strict=True):
        assert torch.allclose(fast.double(), slow, atol=2e-5)
    assert torch.equal(stack.latent[:, :, 0], stack.source[:, :, 0])
    assert not torch.allclose(stack.latent, stack.source, atol=1e-2)

    # The others go as they would alone.
    editable[2] = 0
    some = run(AnalyticPrior(), source01, settings, editable=editable)
    others = [0, 1, 3]
    alone = run(AnalyticPrior(), source01[others], settings, editable=editable[others])
    assert torch.equal(some.latent[others], alone.latent)
    assert torch.equal(some.latent[2], some.source_latent[2])
    assert some.evaluations == alone.evaluations


def test_images_of_which_nothing_may_change_are_not_edited_at_all():
    prior = AnalyticPrior()
    result = run(prior, images(2), BASE, editable=torch.zeros(2, *images(2).shape[2:]))
    assert result.evaluations == prior.evaluations == 0
    assert torch.equal(result.latent, result.source_latent)
    with pytest.raises(ValueError, match=r"each latent cell, \(2, .* got shape \(2, 1"):
        run(prior, images(2), BASE, editable=torch.zeros(2, 1, 1))


# What is evaluated.


def test_five_evaluations_a_particle_and_iteration_in_one_call():
    prior = AnalyticPrior()
    result = run(prior, images(3), EditSettings(iterations=4))
    assert len(prior.calls) == 4
    assert result.evaluations == prior.evaluations == 5 * 3 * 4
    night = TEXTS["make it night"]
    assert sorted(prior.calls[0]) == sorted(
        [(0.0, False), (0.0, True), (night, True), (0.0, False), (0.0, True)]
    )


@pytest.mark.parametrize(
    ("options", "branches"),
    [
        ({"image_scale": 1.0}, 3),
        ({"image_scale": 0.0}, 4),
        ({"image_scale": 0.0, "text_scale": 0.0}, 2),
        ({"image_scale": 1.5, "text_scale": 1.5}, 4),
        ({"image_scale": 1.0, "text_scale": 1.0}, 2),
        ({"text_scale": 0.0}, 4),
        ({"residual": "sds"}, 3),
        ({"residual": "sds", "image_scale": 1.0, "text_scale": 1.0}, 1),
        ({"source_share": 0.5}, 5),
        ({"source_share": 0.0}, 3),
    ],
)
def test_a_branch_without_a_say_is_not_run(options, branches):
    prior = AnalyticPrior()
    result = run(prior, images(2), EditSettings(iterations=1, **options))
    assert [len(call) for call in prior.calls] == [branches]
    assert result.evaluations == 2 * branches


def test_delta_denoising_takes_four_evaluations_and_sees_no_image():
    prior = AnalyticPrior(source_rows=())
    settings = EditSettings(iterations=1, residual="dds")
    run(prior, images(2), settings, source_prompt="a day")
    night, day = TEXTS["make it night"], TEXTS["a day"]
    assert sorted(prior.calls[0]) == sorted(
        [(0.0, False), (night, False), (0.0, False), (day, False)]
    )


def test_without_a_share_csd_is_sds_to_the_last_bit():
    """Also in what is drawn, and where a particle has no prompt."""
    settings = EditSettings(iterations=4, batch_size=3, text_scale=2.0)
    shares = {"prompt_weights": torch.tensor([[1.0], [0.5], [0.0], [1.0], [1.0]])}
    without, sds = AnalyticPrior(), AnalyticPrior()
    first = run(without, images(5), replace(settings, source_share=0.0), **shares)
    second = run(sds, images(5), replace(settings, residual="sds"), **shares)
    assert torch.equal(first.latent, second.latent)
    assert without.calls == sds.calls
    assert first.evaluations == second.evaluations == without.evaluations == sds.evaluations


def test_delta_denoising_without_a_share_needs_no_source_prompt():
    prior = AnalyticPrior(source_rows=())
    run(prior, images(2), EditSettings(iterations=1, residual="dds", source_share=0.0))
    assert sorted(prior.calls[0]) == sorted([(0.0, False), (TEXTS["make it night"], False)])


def test_delta_denoising_leaves_alone_what_no_prompt_covers():
    prior = AnalyticPrior(source_rows=())
    settings = EditSettings(iterations=3, residual="dds", mixing="none")
    shares = torch.tensor([[1.0], [0.0]])
    source = images(2)
    result = run(prior, source, settings, source_prompt="a day", prompt_weights=shares)
    assert torch.allclose(result.latent[1], 2 * source[1], atol=1e-5)
    assert not torch.allclose(result.latent[0], 2 * source[0], atol=1e-3)


@pytest.mark.parametrize("source_prompt", [None, " "])
def test_delta_denoising_without_a_source_prompt_is_refused(source_prompt):
    settings = EditSettings(iterations=1, residual="dds")
    with pytest.raises(ValueError, match="dds needs a source prompt that says what the source"):
        run(AnalyticPrior(source_rows=()), images(2), settings, source_prompt=source_prompt)


def test_a_prior_that_sees_no_image_can_not_serve_eq_9():
    with pytest.raises(ValueError, match="csd needs a prior that sees the source image, got 'an"):
        run(AnalyticPrior(source_rows=()), images(2), EditSettings(iterations=1))


def test_each_further_prompt_costs_one_branch():
    prior = AnalyticPrior()
    run(prior, images(2), EditSettings(iterations=1), prompt=["make it night", "make it snow"])
    assert [len(call) for call in prior.calls] == [6]


def test_a_prompt_is_run_only_for_the_images_that_ask_for_it():
    prior = AnalyticPrior()
    shares = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 0.0]])
    weights = {"prompt": ["make it night", "make it snow"], "prompt_weights": shares}
    result = run(prior, images(3), EditSettings(iterations=2), **weights)
    assert [len(call) for call in prior.calls] == [6, 6]
    assert result.evaluations == prior.evaluations == 2 * (4 * 3 + 2)


def test_a_share_without_instruction_follows_the_source_alone():
    """By hand: the missing share of the text's estimate is the image's, so the guidance shrinks."""
    settings = EditSettings(iterations=3, mixing="none", text_scale=6.0)
    half = run(AnalyticPrior(), images(2), settings, prompt_weights=torch.full((2, 1), 0.5))
    weaker = run(AnalyticPrior(), images(2), replace(settings, text_scale=3.0))
    assert torch.allclose(half.latent, weaker.latent, atol=1e-5)
    kept = run(AnalyticPrior(), images(2), settings, prompt_weights=torch.zeros(2, 1))
    assert torch.allclose(kept.latent, 2 * images(2), atol=1e-6)


def test_splitting_changes_the_batches_and_nothing_else():
    source, whole, split = images(5), AnalyticPrior(), AnalyticPrior()
    settings = EditSettings(iterations=3)
    at_once = run(whole, source, settings, start01=images(5, seed=1))
    in_parts = run(split, source, replace(settings, max_batch=2), start01=images(5, seed=1))
    assert (whole.largest_batch, whole.largest_coding) == (25, 5)
    assert (split.largest_batch, split.largest_coding) == (2, 2)
    assert torch.equal(at_once.latent, in_parts.latent)
    assert torch.equal(at_once.image01, in_parts.image01)
    assert at_once.evaluations == in_parts.evaluations


# The outcome.


def test_a_seed_repeats_a_run_and_another_does_not():
    settings = EditSettings(iterations=3, batch_size=2)
    first, second, other = (
        run(AnalyticPrior(), images(4), settings, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first.latent, second.latent)
    assert not torch.equal(first.latent, other.latent)


def test_one_image_goes_with_and_without_mixing_alike():
    settings = EditSettings(iterations=3)
    mixed = run(AnalyticPrior(), images(1), settings)
    alone = run(AnalyticPrior(), images(1), replace(settings, mixing="none"))
    assert torch.equal(mixed.latent, alone.latent)
    by_patch = run(AnalyticPrior(), images(1), replace(settings, mixing="patch"))
    torch.testing.assert_close(by_patch.latent, alone.latent, atol=1e-5, rtol=1e-5)


def test_a_mixer_of_one_s_own_takes_the_place_of_the_settings():
    asked = []

    class Still:
        def direction(self, index, residual, particles, noisy, timestep):
            asked.append((index.tolist(), residual.shape, particles.source.shape, noisy.shape))
            return torch.zeros_like(residual)

    prior, settings = AnalyticPrior(), EditSettings(iterations=4, batch_size=2)
    stack = make_stack(prior, images(3), settings)
    before = stack.latent.clone()
    edit(
        prior, stack, prompts=["make it night"], settings=settings,
        randomness=SeededRandomness(torch.Generator().manual_seed(0)), mixer=Still(),
    )  # fmt: skip
    assert stack.latent.equal(before)
    assert len(asked) == 4
    assert all(len(index) == 2 and len({*shapes}) == 1 for index, *shapes in asked)


def test_large_latents_are_mixed_by_patches_at_a_lower_resolution():
    settings = EditSettings(iterations=2, mixing="patch")
    fine, coarse = (
        run(AnalyticPrior(), images(3), replace(settings, patch_cells=cells)) for cells in (4096, 3)
    )
    assert (fine.latent - coarse.latent).abs().max() > 1e-3


def test_an_instruction_without_effect_leaves_the_images_alone():
    """Eq. 9 from the source: both sides of the difference are the same estimate."""
    prior = AnalyticPrior()
    settings = EditSettings(iterations=5, repulsion=0.0)
    result = run(prior, images(3), settings, prompt="")
    assert torch.allclose(result.image01, images(3), atol=1e-5)


def test_the_result_keeps_source_and_target_apart():
    source, start = images(2), images(2, seed=1)
    result = run(AnalyticPrior(), source, EditSettings(iterations=1), start01=start)
    assert torch.equal(result.source_latent, 2 * source)
    assert not torch.equal(result.latent, 2 * start)
    assert torch.equal(result.image01, (result.latent / 2).clamp(0, 1))
    assert result.seconds > 0
    assert not result.latent.requires_grad


class InOrder(SeededRandomness):
    """Batches in order, and nothing drawn for them."""

    def choice(self, total, count):
        return torch.arange(count)


def test_the_loop_runs_over_windows_of_one_canvas():
    """The model acts on each cell by itself, so overlapping windows agree where they overlap."""
    source = 2 * images(1, height=4, width=12)[0]
    settings = EditSettings(iterations=4, mixing="none")

    def edited(window):
        canvas = WindowCanvas(
            source.clone(), source, {"condition": source / 2 - 0.5}, window,
            stride=3, batch_size=9, drawing="uniform", taper=0,
        )  # fmt: skip
        edit(
            AnalyticPrior(), canvas, prompts=["make it snow"], settings=settings,
            randomness=InOrder(torch.Generator().manual_seed(5)),
        )  # fmt: skip
        return canvas.latent

    whole = edited((4, 12))
    assert not torch.allclose(whole, source, atol=1e-2)
    assert torch.allclose(edited((4, 6)), whole, atol=1e-6)


@pytest.mark.parametrize("t_order", ["random", "falling", "falling-first"])
@pytest.mark.parametrize("stop", [2, 3, 4])
def test_an_edit_goes_on_where_it_was_left(stop, t_order):
    settings = EditSettings(iterations=6, batch_size=2, decay_every=2, t_order=t_order)
    prior = AnalyticPrior()

    def run_from(stack, generator, start, stop):
        def after_step(done, total):
            if done == stop:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            edit(
                prior, stack, prompts=["make it night"], settings=settings, done=start,
                randomness=SeededRandomness(generator), after_step=after_step,
            )  # fmt: skip

    whole = make_stack(prior, images(5), settings, drawing="balanced")
    run_from(whole, torch.Generator().manual_seed(1), 0, None)
    first = make_stack(prior, images(5), settings, drawing="balanced")
    generator = torch.Generator().manual_seed(1)
    run_from(first, generator, 0, stop)
    second = make_stack(prior, images(5), settings, drawing="balanced")
    second.restore(first.state())
    saved = torch.Generator().set_state(generator.get_state())
    run_from(second, saved, stop, None)
    assert torch.equal(second.latent, whole.latent)
    assert torch.equal(second.updates, whole.updates)
    assert not torch.allclose(first.latent, whole.latent)


# The order of timesteps.


@dataclass
class WatchedCanvas:
    """A canvas that keeps each iteration's timestep."""

    canvas: ImageStack | WindowCanvas
    timesteps: list[int] = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.canvas, name)

    def draw_timestep(self, randomness, low, high):
        self.timesteps.append(self.canvas.draw_timestep(randomness, low, high))
        return self.timesteps[-1]


def falling_timesteps(canvas, *, iterations, seed=1, t_order="falling"):
    settings = EditSettings(iterations=iterations, t_order=t_order, t_range=(0.1, 0.9))
    watched = WatchedCanvas(canvas)
    edit(
        AnalyticPrior(), watched, prompts=["make it night"], settings=settings,
        randomness=SeededRandomness(torch.Generator().manual_seed(seed)),
    )  # fmt: skip
    return watched.timesteps


def slow_band(iteration, total):
    """From the definition, for timesteps from 100 to 900: 200 wide, cut off at both ends."""
    centre = 900 - 800 * iteration / (total - 1)
    return range(round(max(100, centre - 100)), round(min(900, centre + 100)) + 1)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_falling_timesteps_are_drawn_from_a_band_that_moves_from_the_top_to_the_bottom(batch_size):
    total, seen = 9, [set() for _ in range(9)]
    for seed in range(20):
        stack = make_stack(AnalyticPrior(), images(4), EditSettings(batch_size=batch_size))
        timesteps = falling_timesteps(stack, iterations=total, seed=seed)
        assert all(t in slow_band(k, total) for k, t in enumerate(timesteps))
        for k, t in enumerate(timesteps):
            seen[k].add(t)
    # The whole band is used, not only its middle.
    assert all(max(s) - min(s) > 0.6 * len(slow_band(k, total)) for k, s in enumerate(seen))


def test_falling_first_falls_in_the_first_half_and_is_random_in_the_second():
    total, seen = 9, [set() for _ in range(9)]
    for seed in range(30):
        stack = make_stack(AnalyticPrior(), images(1), EditSettings())
        timesteps = falling_timesteps(stack, iterations=total, seed=seed, t_order="falling-first")
        assert all(timesteps[k] in slow_band(2 * k, total) for k in range(5))
        for k, t in enumerate(timesteps):
            seen[k].add(t)
    assert all(max(s) > 750 and min(s) < 250 for s in seen[5:])


def test_a_single_falling_step_is_drawn_from_the_top():
    stack = make_stack(AnalyticPrior(), images(2), EditSettings())
    assert falling_timesteps(stack, iterations=1)[0] >= 800


def test_a_sweep_has_one_falling_timestep_from_the_band_of_its_beginning():
    stack = make_stack(AnalyticPrior(), images(6), EditSettings(batch_size=2), drawing="balanced")
    source = 2 * images(1, height=4, width=12)[0]
    windows = WindowCanvas(
        source.clone(), source, {"condition": source / 2 - 0.5}, (4, 4), stride=2, batch_size=2
    )
    for canvas in (stack, windows):
        length = canvas.batches_per_sweep
        assert length > 1
        timesteps = falling_timesteps(canvas, iterations=5 * length)
        for begin in range(0, 5 * length, length):
            assert len(set(timesteps[begin : begin + length])) == 1
            assert timesteps[begin] in slow_band(begin, 5 * length)


# Faults.


def test_a_non_finite_estimate_stops_the_run_and_names_step_and_particle():
    """Between two looks at the device: step and particle are still those of the fault."""
    prior = AnalyticPrior(poison={3: 1})
    with pytest.raises(FloatingPointError, match=r"step 3 of 40 .* in particle 1;"):
        run(prior, images(4), EditSettings(iterations=40))
    assert len(prior.calls) < 20


def test_a_non_finite_estimate_in_the_last_steps_is_found():
    prior = AnalyticPrior(poison={2: 0})
    with pytest.raises(FloatingPointError, match=r"step 2 of 3 .* in particle 0;"):
        run(prior, images(2), EditSettings(iterations=3))


def test_a_fault_in_a_drawn_batch_names_the_image_not_its_place_in_the_batch():
    record = RecordedRandomness(SeededRandomness(torch.Generator().manual_seed(0)))
    settings = EditSettings(iterations=5, batch_size=2)
    prior = AnalyticPrior(poison={4: 1})
    stack = make_stack(prior, images(7), settings)
    with pytest.raises(FloatingPointError) as error:
        edit(prior, stack, prompts=["make it night"], settings=settings, randomness=record)
    assert record.batches[4][1] > 1
    assert f"step 4 of 5 (counted from 0) in particle {record.batches[4][1]};" in str(error.value)


def test_an_overflow_without_a_faulty_estimate_is_found_as_well():
    settings = EditSettings(iterations=4, learning_rate=1e38, decay=1.0)
    with pytest.raises(FloatingPointError, match=r"step [123] of 4"):
        run(AnalyticPrior(), images(3), settings)


def test_images_that_do_not_fit_are_refused(monkeypatch):
    # Users run without the shape checks of the tests, and meet our own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"multiples of 2 pixels, got shape \(1, 3, 4, 5\)"):
        run(AnalyticPrior(), images(1, width=5), EditSettings())
    with pytest.raises(ValueError, match=r"start01 needs .*\(2, 3, 4, 6\), got \(1, 3, 4, 6\)"):
        run(AnalyticPrior(), images(2), EditSettings(), start01=images(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_range": (0.5, 0.2)}, r"t_range needs 0 <= low < high <= 1.*\(0.5, 0.2\)"),
        ({"iterations": 0}, "iterations needs to be at least 1, got 0"),
        ({"decay_every": 0}, "decay_every needs to be at least 1, got 0"),
        ({"max_batch": 0}, "max_batch needs to be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate needs to be positive, got -1.0"),
        ({"decay": math.nan}, "decay needs to be finite, got nan"),
        ({"learning_rate": math.inf}, "learning_rate needs to be finite, got inf"),
        ({"text_scale": -math.inf}, "text_scale needs to be finite, got -inf"),
        ({"repulsion": math.nan}, "repulsion needs to be finite, got nan"),
        ({"t_range": (0.1, math.nan)}, r"t_range needs to be finite, got \(0.1, nan\)"),
        ({"source_share": 1.5}, r"source_share needs 0 <= source_share <= 1 .*, got 1.5\."),
        ({"source_share": -0.1}, r"source_share needs 0 <= source_share <= 1 .*, got -0.1\."),
        ({"source_share": math.nan}, "source_share needs to be finite, got nan"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EditSettings(**options)


def test_an_unknown_variant_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(
        ValueError, match="mixing needs to be one of stein, patch, none, got 'svgd'"
    ):
        EditSettings(mixing="svgd")  # pyright: ignore


@pytest.mark.gpu
@needs_cuda
def test_a_generator_has_to_be_on_the_cpu():
    with pytest.raises(ValueError, match=r"has to be on the CPU, .* got one on cuda"):
        SeededRandomness(torch.Generator("cuda"))


class DeviceSidePrior(AnalyticPrior):
    """The same model for all particles at once, so that it doesn't wait for the device."""

    def predict(self, branches, timestep, *, max_batch=None):
        t = timestep.view(-1, 1, 1, 1)
        return torch.stack(
            [estimate_noise(b.noisy, b.rows["text"], b.rows.get("condition"), t) for b in branches]
        )

    def encode_text(self, prompts: Sequence[str]):
        return super().encode_text(prompts).to(self.device)


@pytest.mark.gpu
@needs_cuda
def test_the_loop_does_not_wait_for_the_device():
    """PyTorch raises where the host would wait; the loop's own look comes after step 10."""
    prior = DeviceSidePrior(device=torch.device("cuda"))
    settings = EditSettings(iterations=20, batch_size=3, kernel_on="clean")
    stack = make_stack(prior, images(5).cuda(), settings)

    def forbid_waiting_until_the_first_look(done, total):
        torch.cuda.set_sync_debug_mode("error" if done < 9 else "default")

    try:
        edit(
            prior,
            stack,
            prompts=["make it night"],
            settings=settings,
            randomness=SeededRandomness(torch.Generator().manual_seed(0)),
            after_step=forbid_waiting_until_the_first_look,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Watching.


def test_the_callback_sees_the_images_as_they_are():
    seen = []

    def watch(done, total, preview):
        seen.append((done, total, preview()))

    result = run(
        AnalyticPrior(), images(2), EditSettings(iterations=6), callback=watch, callback_every=3
    )
    assert [(done, total) for done, total, _ in seen] == [(3, 6), (6, 6)]
    assert torch.equal(seen[1][2], result.image01)
    assert not torch.equal(seen[0][2], result.image01)


def test_the_progress_bar_shows_only_when_it_has_a_label(capsys):
    run(AnalyticPrior(), images(1), EditSettings(iterations=2))
    assert capsys.readouterr().err == ""
    run(AnalyticPrior(), images(1), EditSettings(iterations=2), progress="Round 1")
    assert "Round 1: 100%" in capsys.readouterr().err
