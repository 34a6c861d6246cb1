"""Our sampler on our prior against diffusers' own pipeline, from the same folder and noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline
from torch import Tensor

from csd_nerf import priors
from csd_nerf.core.residuals import Terms
from csd_nerf.core.schedules import DiscreteSchedule, FlowSchedule, add_noise
from csd_nerf.priors import sampling
from csd_nerf.priors.instruct_pix2pix import InstructPix2Pix
from csd_nerf.priors.sampling import sample_edit, sample_latents, sample_windows

TOLERANCE = 1e-4
STEPS = 5
PROMPT = "make the sphere blue"


def images(n: int = 1, *, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(7))


@cache
def load_pipeline(folder: Path) -> StableDiffusionInstructPix2PixPipeline:
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def load_prior(folder: Path) -> priors.Prior:
    return priors.load(folder)


def pipeline_edit(
    folder: Path,
    image01: Tensor,
    prompts: list[str],
    *,
    text_scale: float,
    image_scale: float,
    negative_prompt: str = "",
) -> Tensor:
    """diffusers' own result, with the scheduler that the folder names."""
    return load_pipeline(folder)(
        prompts,
        image=image01,
        negative_prompt=[negative_prompt] * len(prompts),
        guidance_scale=text_scale,
        image_guidance_scale=image_scale,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(1),
        output_type="pt",
    ).images


def our_edit(prior: priors.Prior, image01: Tensor, prompts: list[str], **options) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return sample_edit(prior, image01, prompts, steps=STEPS, generator=generator, **options)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", ["ddim", "euler-ancestral"])
@pytest.mark.parametrize(("text_scale", "image_scale"), [(7.5, 1.5), (2.0, 1.0), (3.0, 4.0)])
def test_reproduces_the_pipeline(make_folder, solver, prediction_type, text_scale, image_scale):
    folder = make_folder(solver, prediction_type)
    scales = {"text_scale": text_scale, "image_scale": image_scale}
    prompts = [PROMPT, "make it a snowy winter night"]
    image01 = images(2, height=32, width=48)

    expected = pipeline_edit(folder, image01, prompts, **scales)
    ours = our_edit(load_prior(folder), image01, prompts, solver=solver, **scales)

    # A saturated picture would hide differences.
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.5
    assert (ours - expected).abs().max() < TOLERANCE


def test_reproduces_the_pipeline_with_a_negative_prompt_and_one_prompt_for_all(folder):
    image01 = images(3)
    scales = {"text_scale": 5.0, "image_scale": 1.2}
    expected = pipeline_edit(folder, image01, [PROMPT] * 3, negative_prompt="fog", **scales)
    ours = our_edit(load_prior(folder), image01, [PROMPT], negative_prompt="fog", **scales)
    assert (ours - expected).abs().max() < TOLERANCE


def take_as_condition(prior: InstructPix2Pix, make: Callable[[Tensor], Tensor]) -> None:
    prior.encode_source = lambda image01: (prior.encode(image01), {"condition": make(image01)})


def condition_of(prior: priors.Prior, image01: Tensor) -> Tensor:
    return prior.encode_source(image01)[1]["condition"]


def scale_the_condition(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    take_as_condition(prior, prior.encode)


def sample_the_condition(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    vae = prior._vae
    take_as_condition(prior, lambda image01: vae.encode(2 * image01 - 1).latent_dist.sample())


def keep_pixels_in_01(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    right = prior.encode_source
    take_as_condition(prior, lambda image01: right((image01 + 1) / 2)[1]["condition"])


def swap_the_scales(_: InstructPix2Pix, patch: pytest.MonkeyPatch) -> None:
    right = sampling.edit_guidance
    patch.setattr(
        sampling,
        "edit_guidance",
        lambda *what, image_scale, text_scale: right(
            *what, image_scale=text_scale, text_scale=image_scale
        ),
    )


def swap_the_estimates(_: InstructPix2Pix, patch: pytest.MonkeyPatch) -> None:
    right = sampling.edit_guidance

    def guidance(*what, **scales) -> Terms:
        terms = right(*what, **scales)
        swapped = {
            one._replace(image=one.text == "prompt" or not one.image): weight
            for one, weight in terms.weights.items()
        }
        return Terms(swapped)

    patch.setattr(sampling, "edit_guidance", guidance)


def condition_the_null_branch(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    right = prior.predict

    def predict(branches, timestep, *, max_batch=None):
        null = priors.Branch(branches[0].noisy, {**branches[1].rows, **branches[0].rows})
        return right([null, *branches[1:]], timestep)

    prior.predict = predict


def pad_the_text_less(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    def encode_text(prompts, _):
        tokens = prior._texts._tokenizer(
            list(prompts), padding="max_length", max_length=12, return_tensors="pt"
        )
        with torch.no_grad():
            return {"text": prior._texts._model(tokens.input_ids)[0]}

    prior.encode_text = encode_text


def drop_the_padding_states(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    right = prior.encode_text

    def encode_text(prompts, _):
        tokens = prior._texts._tokenizer(
            list(prompts), padding="max_length", max_length=24, return_tensors="pt"
        )
        return {"text": right(prompts)["text"] * tokens.attention_mask[..., None]}

    prior.encode_text = encode_text


def skip_the_final_norm(prior: InstructPix2Pix, patch: pytest.MonkeyPatch) -> None:
    for module in prior._texts._model.modules():
        if hasattr(module, "final_layer_norm"):
            module.final_layer_norm = torch.nn.Identity()


def take_another_schedule(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    prior.schedule = DiscreteSchedule(DDIMScheduler().alphas_cumprod)


def shift_the_timestep(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    right = prior.predict
    prior.predict = lambda branches, timestep, max_batch=None: right(branches, timestep + 20)


def forget_the_latent_scale(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    prior._vae.register_to_config(scaling_factor=1.0)


def mistake_the_prediction(prior: InstructPix2Pix, _: pytest.MonkeyPatch) -> None:
    prior._prediction_type = "v_prediction"


MUTATIONS: list[Callable[[InstructPix2Pix, pytest.MonkeyPatch], None]] = [
    scale_the_condition,
    sample_the_condition,
    keep_pixels_in_01,
    swap_the_scales,
    swap_the_estimates,
    condition_the_null_branch,
    pad_the_text_less,
    drop_the_padding_states,
    skip_the_final_norm,
    take_another_schedule,
    shift_the_timestep,
    forget_the_latent_scale,
    mistake_the_prediction,
]


@pytest.fixture(scope="module")
def expected(make_folder) -> Tensor:
    return pipeline_edit(make_folder(), images(), [PROMPT], text_scale=7.5, image_scale=1.5)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_the_comparison_notices(mutate, folder, expected, monkeypatch):
    prior = priors.load(folder)
    scales = {"text_scale": 7.5, "image_scale": 1.5}
    right = our_edit(prior, images(), [PROMPT], **scales)
    mutate(prior, monkeypatch)
    wrong = our_edit(prior, images(), [PROMPT], **scales)
    assert (right - expected).abs().max() < TOLERANCE
    assert (wrong - expected).abs().max() > 20 * TOLERANCE


@pytest.mark.parametrize("solver", ["ddim", "euler-ancestral"])
def test_noise_can_be_handed_in_and_batches_split(folder, solver):
    prior = priors.load(folder)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    drawn = our_edit(prior, images(2), [PROMPT], solver=solver)
    generator = torch.Generator().manual_seed(1)
    torch.randn(noise.shape, generator=generator)
    given = sample_edit(
        prior,
        images(2),
        PROMPT,
        steps=STEPS,
        solver=solver,
        noise=noise,
        generator=generator,
        max_batch=4,
    )
    torch.testing.assert_close(given, drawn, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("solver", "strength", "evaluations"),
    [("ddim", 0.6, 3), ("ddim", 0.2, 1), ("euler-ancestral", 0.2, 1), ("ddim", 0.01, 1)],
)
def test_a_lower_strength_starts_from_the_noised_source(
    folder, solver, strength, evaluations, monkeypatch
):
    # If every estimate is the very noise that was added, the solver leads back to the source.
    prior = priors.load(folder)
    image01 = images()
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    timesteps = []

    def predict(branches, timestep, *, max_batch=None):
        timesteps.append(timestep)
        return noise.expand(len(branches), *noise.shape)

    monkeypatch.setattr(prior, "predict", predict)
    result = sample_edit(
        prior, image01, PROMPT, steps=STEPS, solver=solver, strength=strength, noise=noise
    )

    assert len(timesteps) == evaluations
    target = prior.encode(image01)
    if solver == "ddim":
        # The published settings end at timestep 0, with a little of the noise left.
        target = add_noise(prior.schedule, target, noise, torch.tensor([0]))
    torch.testing.assert_close(result, prior.decode(target), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("level", "first"), [(0.98, 785), (0.34, 273), (0.005, 5)])
def test_a_level_takes_all_steps_below_it_from_the_noised_start(folder, level, first):
    """DDIM (Song et al. 2021, Eq. 12 without noise), written out."""
    prior = load_prior(folder)
    source01, start01 = images(2)
    source01, start01 = source01[None], start01[None]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    spacing = round(level * 1000) // STEPS
    squares = prior.schedule.alphas_cumprod.tolist()
    _, image_rows = prior.encode_source(source01)
    empty, text = prior.encode_text([""]), prior.encode_text([PROMPT])
    branches = [empty, {**empty, **image_rows}, {**text, **image_rows}]

    timestep = spacing * (STEPS - 1) + 1
    assert timestep == first
    alpha, sigma = squares[timestep] ** 0.5, (1 - squares[timestep]) ** 0.5
    latent = alpha * prior.encode(start01) + sigma * noise
    for _ in range(STEPS):
        null, image, both = (
            prior.predict([priors.Branch(latent, rows)], torch.tensor([timestep]))[0]
            for rows in branches
        )
        estimate = null + 1.3 * (image - null) + 3.0 * (both - image)
        clean = (latent - sigma * estimate) / alpha
        timestep = max(timestep - spacing, 0)
        alpha, sigma = squares[timestep] ** 0.5, (1 - squares[timestep]) ** 0.5
        latent = alpha * clean + sigma * estimate

    ours = sample_edit(
        prior,
        source01,
        PROMPT,
        steps=STEPS,
        level=level,
        start01=start01,
        noise=noise,
        text_scale=3.0,
        image_scale=1.3,
    )
    torch.testing.assert_close(ours, prior.decode(latent), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("solver", "last"), [("ddim", 1), ("euler-ancestral", 0)])
def test_both_solvers_stay_below_the_level(folder, solver, last, monkeypatch):
    prior, timesteps = priors.load(folder), []
    right = prior.predict

    def predict(branches, timestep, *, max_batch=None):
        timesteps.append(float(timestep[0]))
        return right(branches, timestep, max_batch=max_batch)

    monkeypatch.setattr(prior, "predict", predict)
    sample_edit(prior, images(), PROMPT, steps=STEPS, solver=solver, level=0.3)
    assert len(timesteps) == STEPS
    assert 200 < timesteps[0] < 300
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[-1] == last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0.05}, "room for 100 of 1000 timesteps.* from 0.1 to 1, got 0.05"),
        ({"level": 1.5}, "from 0.1 to 1, got 1.5"),
        ({"steps": 0}, "steps >= 1 .* got 0 and 1.0"),
        ({"strength": 0.0}, "0 < strength <= 1, got 100 and 0.0"),
        ({"solver": "heun"}, "one of ddim, euler-ancestral, got 'heun'"),
    ],
)
def test_bad_options_are_named(folder, options, message):
    with pytest.raises(ValueError, match=message):
        sample_edit(load_prior(folder), images(), PROMPT, **options)


def test_a_flow_that_spaces_no_levels_is_refused(folder):
    prior = priors.load(folder)
    prior.schedule = FlowSchedule()
    with pytest.raises(ValueError, match="sampling_levels and predict_velocity, got InstructPix2"):
        sample_edit(prior, images(), PROMPT, steps=STEPS)


WINDOW = (8, 8)
CANVAS = (8, 20)
POSITIONS = torch.tensor([[0, 0], [0, 4], [0, 8], [0, 12], [0, 16]])
"""The last one runs across the edge of a canvas that wraps."""
SHARES = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.5, 0.0], [0.0, 0.0], [0.0, 1.0]])


def edit_windows(prior: priors.Prior, condition: Tensor, **options) -> Tensor:
    """From noise that is the generator's first draw."""
    generator = options.pop("generator", None) or torch.Generator().manual_seed(3)
    if "noise" not in options:
        options["noise"] = torch.randn(1, 4, *CANVAS, generator=generator)[0]
    return sample_windows(
        prior,
        {"condition": condition},
        [PROMPT, "make it a snowy winter night"],
        SHARES,
        **{
            "positions": POSITIONS,
            "window": WINDOW,
            "steps": STEPS,
            "text_scale": 3.0,
            "image_scale": 1.5,
            "generator": generator,
            **options,
        },
    )


@pytest.fixture(scope="module")
def condition(folder) -> Tensor:
    return condition_of(load_prior(folder), images(height=32, width=80))[0]


@pytest.mark.parametrize("solver", ["ddim", "euler-ancestral"])
def test_one_window_is_the_plain_edit(folder, solver):
    prior, image01 = load_prior(folder), images(height=32, width=48)
    generator = torch.Generator().manual_seed(1)
    latent = sample_windows(
        prior,
        {"condition": condition_of(prior, image01)[0]},
        [PROMPT],
        torch.ones(1, 1),
        positions=torch.zeros(1, 2, dtype=torch.long),
        window=(8, 12),
        steps=STEPS,
        solver=solver,
        noise=torch.randn(1, 4, 8, 12, generator=generator)[0],
        generator=generator,
    )
    expected = our_edit(prior, image01, [PROMPT], solver=solver)
    assert torch.equal(prior.decode(latent[None]), expected)


def test_windows_against_a_loop_over_cells(folder, condition):
    """diffusers' solver on the whole, and for every cell the mean of the windows around it."""
    prior = load_prior(folder)
    solver = DDIMScheduler.from_pretrained(folder / "scheduler")
    solver.set_timesteps(STEPS)
    texts = [prior.encode_text([p]) for p in ("", PROMPT, "make it a snowy winter night")]
    latent = torch.randn(1, 4, *CANVAS, generator=torch.Generator().manual_seed(3))
    for step in solver.timesteps:
        total, count = torch.zeros(1, 4, *CANVAS), torch.zeros(CANVAS)
        for (top, left), shares in zip(POSITIONS.tolist(), SHARES, strict=True):
            turned = latent.roll(-left, 3)[:, :, top : top + 8, :8]
            beside = condition.roll(-left, 2)[None, :, top : top + 8, :8]
            shown = [texts[0], *({**text, "condition": beside} for text in texts)]
            null, image, first, second = (
                prior.predict([priors.Branch(turned, rows)], step[None])[0] for rows in shown
            )
            guided = null + 1.5 * (image - null)
            guided = guided + 3 * (shares[0] * (first - image) + shares[1] * (second - image))
            for column in range(8):
                total[..., top : top + 8, (left + column) % 20] += guided[..., column]
                count[top : top + 8, (left + column) % 20] += 1
        latent = solver.step(total / count, step, latent).prev_sample
    torch.testing.assert_close(edit_windows(prior, condition), latent[0], atol=1e-4, rtol=0)


def test_windows_go_in_small_batches_with_the_same_result(folder, condition):
    prior = load_prior(folder)
    small = edit_windows(prior, condition, max_batch=2)
    torch.testing.assert_close(small, edit_windows(prior, condition), atol=1e-5, rtol=0)


@pytest.mark.parametrize("solver", ["ddim", "euler-ancestral"])
def test_interrupted_windows_go_on_as_if_nothing_had_happened(folder, condition, solver):
    prior, generator, states = load_prior(folder), torch.Generator().manual_seed(3), {}

    def keep(done: int, latent: Tensor) -> None:
        states[done] = (latent.clone(), generator.get_state())

    whole = edit_windows(prior, condition, solver=solver, generator=generator, after_step=keep)
    assert list(states) == [1, 2, 3, 4, 5]
    latent, state = states[2]
    again = torch.Generator()
    again.set_state(state)
    how = {"solver": solver, "noise": torch.zeros(4, *CANVAS), "generator": again}
    resumed = edit_windows(prior, condition, **how, done=(2, latent))
    assert torch.equal(resumed, whole)


@pytest.mark.parametrize(("text_scale", "expected"), [(4.0, [5, 5, 3, 2]), (3.0, [5, 4, 3, 2])])
def test_estimates_without_a_weight_are_not_evaluated(
    folder, condition, monkeypatch, text_scale, expected
):
    """Instructions without a share, and the image's estimate where 1.5 - 3 + 3 (1 - 0.5) is 0."""
    prior, evaluated = priors.load(folder), []
    right = prior.predict

    def predict(branches, timestep, *, max_batch=None):
        evaluated.extend(branch.evaluations for branch in branches)
        return right(branches, timestep, max_batch=max_batch)

    monkeypatch.setattr(prior, "predict", predict)
    edit_windows(prior, condition, steps=1, text_scale=text_scale)
    assert evaluated == expected


@pytest.mark.parametrize("solver", ["ddim", "euler-ancestral"])
def test_interrupted_sampling_goes_on_as_if_nothing_had_happened(folder, solver):
    prior, generator, states = load_prior(folder), torch.Generator().manual_seed(1), {}
    _, image_rows = prior.encode_source(images())
    how = {"steps": STEPS, "solver": solver}
    noise = torch.randn(1, 4, 8, 8, generator=generator)

    def keep(done: int, latent: Tensor) -> None:
        states[done] = (latent.clone(), generator.get_state())

    whole = sample_latents(
        prior, image_rows, PROMPT, **how, noise=noise, generator=generator, after_step=keep
    )
    assert list(states) == list(range(1, STEPS + 1))
    expected = our_edit(prior, images(), [PROMPT], solver=solver)
    assert torch.equal(prior.decode(whole), expected)
    latent, state = states[2]
    again = torch.Generator()
    again.set_state(state)
    resumed = sample_latents(
        prior,
        image_rows,
        PROMPT,
        **how,
        noise=torch.zeros_like(noise),
        generator=again,
        done=(2, latent),
    )
    assert torch.equal(resumed, whole)
