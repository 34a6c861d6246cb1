"""InstructPix2Pix in the size of SDXL: our sampler on our prior against diffusers' pipeline."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLInstructPix2PixPipeline

from csd_nerf import priors
from csd_nerf.priors.sampling import sample_edit

STEPS = 5
TOLERANCE = 1e-4
PROMPTS = ["make the sphere blue", "make it a snowy winter night"]


@cache
def theirs(folder: Path) -> StableDiffusionXLInstructPix2PixPipeline:
    pipeline = StableDiffusionXLInstructPix2PixPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def ours(folder: Path):
    return priors.load(folder)


def images(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(7))


def pipeline_edit(folder, image01, *, text_scale, image_scale, negative_prompt=None):
    if negative_prompt is None and not theirs(folder).config.force_zeros_for_empty_prompt:
        negative_prompt = ""
    return theirs(folder)(
        PROMPTS,
        image=image01,
        height=image01.shape[2],
        width=image01.shape[3],
        negative_prompt=None if negative_prompt is None else [negative_prompt] * 2,
        guidance_scale=text_scale,
        image_guidance_scale=image_scale,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(1),
        output_type="pt",
    ).images


def our_edit(prior, image01, **options):
    generator = torch.Generator().manual_seed(1)
    return sample_edit(
        prior,
        image01,
        PROMPTS,
        steps=STEPS,
        generator=generator,
        solver="euler-ancestral",
        **options,
    )


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
@pytest.mark.parametrize("scales", [(3.0, 1.5), (7.5, 1.0)], ids=str)
@pytest.mark.parametrize("zeros", [True, False])
def test_reproduces_the_pipeline(make_xl_folder, zeros, scales, size):
    folder, image01 = make_xl_folder(zeros=zeros), images(*size)
    options = {"text_scale": scales[0], "image_scale": scales[1]}
    expected = pipeline_edit(folder, image01, **options)
    found = our_edit(ours(folder), image01, **options)
    assert float((found - expected).abs().max()) < TOLERANCE
    assert float(expected.std()) > 0.05


def test_reproduces_the_pipeline_with_a_negative_prompt(make_xl_folder):
    folder, image01 = make_xl_folder(), images(64, 64)
    options = {"text_scale": 4.0, "image_scale": 1.2, "negative_prompt": "fog"}
    expected = pipeline_edit(folder, image01, **options)
    assert float((our_edit(ours(folder), image01, **options) - expected).abs().max()) < TOLERANCE


def _drop_the_size(prior):
    right = prior.additions

    def without(noisy, rows):
        found = right(noisy, rows)
        return {**found, "time_ids": 0 * found["time_ids"]}

    prior.additions = without


def _turn_the_size(prior):
    right = prior.additions

    def turned(noisy, rows):
        found = right(noisy, rows)
        return {**found, "time_ids": found["time_ids"][:, [1, 0, 2, 3, 5, 4]]}

    prior.additions = turned


def _with_texts(change):
    def apply(prior):
        right = prior.encode_text
        prior.encode_text = lambda prompts, *_: change(prompts, right)

    return apply


FAULTS = {
    "no size": _drop_the_size,
    "a turned size": _turn_the_size,
    "no text": _with_texts(lambda prompts, right: right([""] * len(prompts))),
    "encoders swapped": _with_texts(
        lambda prompts, right: {**(r := right(prompts)), "text": r["text"].roll(16, 2)}
    ),
    "no summary": _with_texts(
        lambda prompts, right: {**(r := right(prompts)), "pooled": 0 * r["pooled"]}
    ),
    "an encoded empty text": lambda prior: setattr(prior, "_zeros_for_empty", False),
    "a scaled condition": lambda prior: setattr(prior, "condition", "scaled"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(make_xl_folder, fault):
    folder, image01 = make_xl_folder(), images(64, 96)
    options = {"text_scale": 3.0, "image_scale": 1.5}
    expected = pipeline_edit(folder, image01, **options)
    prior = priors.load(folder)
    FAULTS[fault](prior)
    assert float((our_edit(prior, image01, **options) - expected).abs().max()) > 10 * TOLERANCE


def test_the_size_of_a_batch_makes_no_difference(make_xl_folder):
    prior = ours(make_xl_folder())
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(3, 4, 16, 24, generator=generator)
    _, rows = prior.encode_source(torch.rand(3, 3, 64, 96, generator=generator))
    texts = [prior.encode_text([text]) for text in ("", "fog", *PROMPTS)]
    branches = [priors.Branch(noisy, {**text, **rows}) for text in texts]
    branches.append(priors.Branch(noisy, texts[0], torch.tensor([1])))
    timestep = torch.tensor([30, 500, 900])
    whole = prior.predict(branches, timestep)
    for size in (1, 2, 5):
        parts = prior.predict(branches, timestep, max_batch=size)
        assert float((whole - parts).abs().max()) < 1e-3 * float(whole.abs().max())


def test_tiles_are_decoded_by_the_statistics_of_their_sample(make_xl_folder):
    prior = ours(make_xl_folder())
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latent = latent * torch.tensor([0.2, 2.0]).view(2, 1, 1, 1)
    alone = prior.decode(latent)
    with prior.decoding_tiles(latent):
        together = prior.decode(latent)
    assert not torch.allclose(alone, together, atol=1e-2)


def test_the_autoencoder_stays_in_single_precision(make_xl_folder):
    prior = priors.load(make_xl_folder(), dtype="float16")
    assert prior._vae.dtype == torch.float32
    assert prior.unet.dtype == torch.float16


def test_a_schedule_of_cosxl_is_refused(make_xl_folder, tmp_path):
    folder = tmp_path / "cosxl"
    shutil.copytree(make_xl_folder(), folder)
    path = folder / "scheduler/scheduler_config.json"
    edm = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 120.0}
    path.write_text(json.dumps({**edm, "prediction_type": "v_prediction"}))
    with pytest.raises(ValueError, match=r"needs betas .* got EDMEulerScheduler"):
        priors.load(folder)
