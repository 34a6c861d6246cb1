"""Our text-to-image sampler on our priors against diffusers' own pipelines, from the same noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, IFPipeline, StableDiffusionPipeline
from torch import Tensor

from csd_nerf import priors
from csd_nerf.core import DiscreteSchedule
from csd_nerf.priors import text_sampling
from csd_nerf.priors.text_sampling import sample_text

TOLERANCE = 1e-4
STEPS = 5
PROMPTS = ["Make the sphere BLUE ", "make it a snowy winter night"]
SIZES = {"pixels": (16, 24), "latents": (32, 48)}
BOUNDS = {"clipped": None, "thresholded": (0.95, 1.5)}


@cache
def load_pipeline(folder: Path) -> IFPipeline | StableDiffusionPipeline:
    pipeline_class = StableDiffusionPipeline if (folder / "vae").is_dir() else IFPipeline
    pipeline = pipeline_class.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def load_prior(folder: Path) -> priors.Prior:
    return priors.load(folder, kind="text")


def pipeline_images(
    folder: Path, prompts: list[str], *, text_scale: float, negative_prompt: str = ""
) -> Tensor:
    """diffusers' own result, with the scheduler that the folder names."""
    pipeline = load_pipeline(folder)
    in_pixels = isinstance(pipeline, IFPipeline)
    height, width = SIZES["pixels" if in_pixels else "latents"]
    images = pipeline(
        prompts,
        height=height,
        width=width,
        negative_prompt=[negative_prompt] * len(prompts),
        guidance_scale=text_scale,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(1),
        output_type="pt",
        **({"clean_caption": False} if in_pixels else {}),
    ).images
    return (images / 2 + 0.5).clamp(0, 1) if in_pixels else images


def our_images(prior: priors.Prior, prompts: list[str], **options) -> Tensor:
    return sample_text(
        prior,
        prompts,
        **{
            "steps": STEPS,
            "size": SIZES["pixels" if prior.cell_size == 1 else "latents"],
            "solver": "ddpm" if prior.cell_size == 1 else "ddim",
            "generator": torch.Generator().manual_seed(1),
            **options,
        },
    )


def worst(images: Tensor, expected: Tensor) -> float:
    # A saturated picture would hide differences.
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.5
    return float((images - expected).abs().max())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("bound", list(BOUNDS))
@pytest.mark.parametrize("text_scale", [1.5, 7.5])
def test_reproduces_ifs_pipeline(make_text_folder, bound, prediction_type, text_scale):
    folder = make_text_folder("pixels", bound, prediction_type)
    expected = pipeline_images(folder, PROMPTS, text_scale=text_scale)
    ours = our_images(load_prior(folder), PROMPTS, text_scale=text_scale, threshold=BOUNDS[bound])
    assert worst(ours, expected) < TOLERANCE


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
@pytest.mark.parametrize("text_scale", [1.5, 7.5])
def test_reproduces_stable_diffusions_pipeline(
    make_text_folder, solver, prediction_type, text_scale
):
    folder = make_text_folder("latents", solver, prediction_type)
    expected = pipeline_images(folder, PROMPTS, text_scale=text_scale)
    ours = our_images(load_prior(folder), PROMPTS, text_scale=text_scale, solver=solver)
    assert worst(ours, expected) < TOLERANCE


@pytest.mark.parametrize("model", ["pixels", "latents"])
def test_reproduces_the_pipeline_with_a_negative_prompt(make_text_folder, model):
    folder = make_text_folder(model)
    expected = pipeline_images(folder, PROMPTS[:1], text_scale=4.0, negative_prompt="fog")
    ours = our_images(load_prior(folder), PROMPTS[:1], text_scale=4.0, negative_prompt="fog")
    assert worst(ours, expected) < TOLERANCE


def scale_the_text_more(_: priors.Prior, patch: pytest.MonkeyPatch) -> None:
    right = text_sampling.text_guidance
    patch.setattr(
        text_sampling,
        "text_guidance",
        lambda *what, text_scale: right(*what, text_scale=1.1 * text_scale),
    )


def take_the_variance(prior: priors.Prior, _: pytest.MonkeyPatch) -> None:
    right = prior.run
    prior.run = lambda *args: right(*args)[:, 3:]


def attend_to_padding(prior: priors.Prior, _: pytest.MonkeyPatch) -> None:
    encoder = prior._texts._model
    encoder.forward = lambda ids, attention_mask: type(encoder).forward(encoder, ids)


def take_another_schedule(prior: priors.Prior, _: pytest.MonkeyPatch) -> None:
    prior.schedule = DiscreteSchedule(DDPMScheduler().alphas_cumprod)


def shift_the_timestep(prior: priors.Prior, _: pytest.MonkeyPatch) -> None:
    right = prior.predict
    prior.predict = lambda branches, timestep, max_batch=None: right(branches, timestep + 20)


def mistake_the_prediction(prior: priors.Prior, _: pytest.MonkeyPatch) -> None:
    prior._prediction_type = "v_prediction"


def forget_the_latent_scale(prior: priors.Prior, _: pytest.MonkeyPatch) -> None:
    prior._vae.register_to_config(scaling_factor=1.0)


SHARED = [
    scale_the_text_more,
    take_another_schedule,
    shift_the_timestep,
    mistake_the_prediction,
]
FAULTS: list[tuple[str, Callable[[priors.Prior, pytest.MonkeyPatch], None]]] = [
    *(("pixels", fault) for fault in [*SHARED, take_the_variance, attend_to_padding]),
    *(("latents", fault) for fault in [*SHARED, forget_the_latent_scale]),
]


@pytest.mark.parametrize(("model", "fault"), FAULTS)
def test_the_comparison_notices(make_text_folder, model, fault, monkeypatch):
    folder = make_text_folder(model)
    expected = pipeline_images(folder, PROMPTS, text_scale=7.5)
    prior = priors.load(folder, kind="text")
    assert worst(our_images(prior, PROMPTS, text_scale=7.5), expected) < TOLERANCE
    fault(prior, monkeypatch)
    wrong = worst(our_images(prior, PROMPTS, text_scale=7.5), expected)
    assert wrong > 50 * TOLERANCE


@pytest.mark.parametrize("model", ["pixels", "latents"])
def test_noise_can_be_handed_in_and_batches_split(make_text_folder, model):
    prior = load_prior(make_text_folder(model))
    cells = tuple(edge // prior.cell_size for edge in SIZES[model])
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, prior.latent_channels, *cells, generator=generator)
    given = our_images(prior, "fog", noise=noise, size=None, generator=generator, max_batch=3)
    assert worst(given, our_images(prior, ["fog", "fog"])) < TOLERANCE


@pytest.mark.parametrize("model", ["pixels", "latents"])
def test_images_have_the_models_own_size_unless_told(make_text_folder, model):
    prior = load_prior(make_text_folder(model))
    own = our_images(prior, ["fog"], size=None, steps=1)
    assert own.shape == (1, 3, prior.preferred_size, prior.preferred_size)
    told = our_images(prior, ["fog"], size=prior.size_multiple * 3, steps=1)
    assert told.shape[-2:] == (prior.size_multiple * 3,) * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "1 to 1000 steps, got 0"),
        ({"steps": 1001}, "1 to 1000 steps, got 1001"),
        ({"solver": "euler"}, "one of ddpm, ddim, got 'euler'"),
        ({"size": 44}, "size needs positive multiples of 8 .* got 44 x 44"),
        ({"size": (0, 32)}, "got 0 x 32"),
    ],
)
def test_bad_options_are_named(make_text_folder, options, message):
    with pytest.raises(ValueError, match=message):
        our_images(load_prior(make_text_folder("latents")), ["fog"], **options)
