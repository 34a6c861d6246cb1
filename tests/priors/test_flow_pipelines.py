"""Flow transformers: our sampler on our priors against diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from diffusers import DiffusionPipeline, QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from PIL import Image

from csd_nerf import priors
from csd_nerf.priors import flow, flux2, flux_kontext, qwen_image
from csd_nerf.priors.base import Branch
from csd_nerf.priors.halving import HalvingPrior
from csd_nerf.priors.sampling import sample_edit, sample_latents

STEPS = 4
TOLERANCE = 1e-4
PROMPTS = ["make the sphere blue", "make it a snowy winter night with fog"]
FAMILIES = ("flux2", "kontext", "qwen")


@cache
def theirs(folder: Path) -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if isinstance(pipeline, QwenImageEditPlusPipeline):
        hand_over_the_positions(pipeline)
    return pipeline


def hand_over_the_positions(pipeline: QwenImageEditPlusPipeline) -> None:
    """Mend github.com/huggingface/diffusers/issues/14194: pictures have rows and columns."""
    encoder = pipeline.text_encoder
    forward, picture = encoder.forward, encoder.config.image_token_id

    def mended(input_ids, **options):
        kinds = (input_ids == picture).int()
        return forward(input_ids=input_ids, mm_token_type_ids=kinds, **options)

    encoder.forward = mended


@cache
def ours(folder: Path):
    return priors.load(folder)


def pictures(n: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator) / 255


def picture_of(image01: torch.Tensor) -> Image.Image:
    return Image.fromarray((255 * image01).round().byte().permute(1, 2, 0).numpy())


def noise_for(prior, image01: torch.Tensor) -> torch.Tensor:
    size = [edge // prior.cell_size for edge in image01.shape[2:]]
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(image01), prior.latent_channels, *size, generator=generator)


def pipeline_edit(
    family: str, folder: Path, image01, noise, text_scale: float, *, second01=None
) -> torch.Tensor:
    """diffusers' own result, one picture after the other, with a second reference if given."""
    results = []
    for number, prompt in enumerate(PROMPTS[: len(noise)]):
        options = {"num_inference_steps": STEPS, "output_type": "pt", "prompt": prompt}
        own = noise[number : number + 1]
        if image01 is not None:
            options["image"] = picture_of(image01[number])
            if second01 is not None:
                options["image"] = [options["image"], picture_of(second01)]
        height, width = (edge * ours(folder).cell_size for edge in own.shape[2:])
        options |= {"height": height, "width": width}
        if family == "qwen":
            packed = flow.tokens_of([torch.nn.functional.pixel_unshuffle(own, 2)])
            options |= {"true_cfg_scale": text_scale, "negative_prompt": "", "latents": packed}
            with patch.object(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", height * width):
                results.append(theirs(folder)(**options).images)
            continue
        if family == "flux2":
            options |= {"guidance_scale": text_scale, "latents": own}
        else:
            packed = flow.tokens_of([torch.nn.functional.pixel_unshuffle(own, 2)])
            options |= {"guidance_scale": flux_kontext.GUIDANCE, "latents": packed}
            options |= {"true_cfg_scale": text_scale, "negative_prompt": ""}
            options |= {"max_area": height * width, "_auto_resize": False}
        results.append(theirs(folder)(**options).images)
    return torch.cat(results)


@cache
def expected_edit(
    family: str, folder: Path, text_scale: float, size: tuple[int, int]
) -> torch.Tensor:
    """diffusers' result for the first pictures of a size; faults are in what is ours alone."""
    image01 = pictures(2, *size)
    return pipeline_edit(family, folder, image01, noise_for(ours(folder), image01), text_scale)


def our_edit(prior, image01, noise, **options) -> torch.Tensor:
    options = {"image_scale": 1.0, "steps": STEPS, **options}
    return sample_edit(prior, image01, PROMPTS[: len(noise)], noise=noise, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text_scale", [1.0, 2.5, 7.0])
@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_reproduces_the_pipeline(editing_folder, family, text_scale, size):
    folder = editing_folder(family)
    prior, image01 = ours(folder), pictures(2, *size)
    noise = noise_for(prior, image01)
    expected = expected_edit(family, folder, text_scale, size)
    found = our_edit(prior, image01, noise, text_scale=text_scale)
    assert float((found - expected).abs().max()) < TOLERANCE
    assert float(expected.std()) > 0.05


@pytest.mark.parametrize("family", ["flux2", "qwen"])
def test_reproduces_the_pipeline_with_a_second_reference(editing_folder, family):
    """One for both pictures; turned round or left out it's another result."""
    folder = editing_folder(family)
    prior, image01 = ours(folder), pictures(2, 64, 64)
    second01 = pictures(3, 64, 64)[2]
    noise = noise_for(prior, image01)
    expected = pipeline_edit(family, folder, image01, noise, 2.5, second01=second01)
    options = {"text_scale": 2.5, "reference01": second01[None]}
    found = our_edit(prior, image01, noise, **options)
    assert float((found - expected).abs().max()) < TOLERANCE
    for other in (None, second01[None].flip(3)):
        found = our_edit(prior, image01, noise, **{**options, "reference01": other})
        assert float((found - expected).abs().max()) > 10 * TOLERANCE


def test_a_model_that_sees_one_image_refuses_a_second(editing_folder):
    prior, image01 = ours(editing_folder("kontext")), pictures(2, 64, 64)
    with pytest.raises(ValueError, match="needs a prior that takes two images, got"):
        our_edit(prior, image01, noise_for(prior, image01), reference01=image01[:1])


@pytest.mark.parametrize("family", ["flux2", "kontext"])
def test_without_its_reference_the_model_makes_images_from_text(editing_folder, family):
    folder = editing_folder(family)
    prior = ours(folder)
    noise = noise_for(prior, pictures(2, 64, 96))
    expected = pipeline_edit(family, folder, None, noise, 3.0)
    latent = sample_latents(
        prior, {}, PROMPTS, noise=noise, steps=STEPS, text_scale=3.0, image_scale=1.0
    )
    assert float((prior.decode(latent) - expected).abs().max()) < TOLERANCE


def test_texts_are_those_of_the_pipeline_with_and_without_the_picture(editing_folder):
    """Qwen-Image-Edit's pipeline needs a picture, but encodes texts without one too."""
    folder = editing_folder("qwen")
    prior, image01 = ours(folder), pictures(2, 64, 96)
    _, rows = prior.encode_source(image01)
    found = prior.encode_text(PROMPTS, rows)
    for number, prompt in enumerate(PROMPTS):
        shown = theirs(folder).image_processor.resize(picture_of(image01[number]), 320, 480)
        for name, images in (("text", None), ("seen", [shown])):
            with torch.no_grad():
                expected, _ = theirs(folder).encode_prompt([prompt], image=images)
            kept = found[name][number][found[f"{name}_mask"][number]]
            torch.testing.assert_close(kept, expected[0], atol=1e-5, rtol=1e-4)
    one = prior.encode_text(PROMPTS[:1], rows)
    assert one["text"].shape[0] == 1
    assert one["seen"].shape[0] == 2
    assert not {"text_mask", "seen_mask"} & one.keys()


def test_texts_of_many_pictures_are_those_of_each(editing_folder):
    prior = ours(editing_folder("qwen"))
    _, rows = prior.encode_source(pictures(6, 64, 64))
    together = prior.encode_text(["fog"], rows)["seen"]
    for number in range(6):
        own = {"picture": rows["picture"][number : number + 1]}
        torch.testing.assert_close(
            prior.encode_text(["fog"], own)["seen"][0], together[number], atol=1e-5, rtol=1e-4
        )
    with pytest.raises(ValueError, match=r"one a picture \(6\), got 2"):
        prior.encode_text(PROMPTS, rows)


FAULTS = {
    "flux2": ["planes", "packing", "guidance", "text", "reference", "axes", "scale", "layers"],
    "kontext": ["planes", "packing", "guidance", "text", "reference", "axes", "scale", "distilled"],
    "qwen": [
        *("packing", "guidance", "text", "reference", "scale", "norm", "positions", "unseen"),
        *("other", "turned"),
    ],
}


@pytest.mark.parametrize(("family", "fault"), [(f, x) for f in FAULTS for x in FAULTS[f]])
def test_a_fault_is_seen(editing_folder, monkeypatch, family, fault):
    """Each is ten times the tolerance and more."""
    folder = editing_folder(family)
    prior, image01 = ours(folder), pictures(2, 64, 96)
    # The norm changes with the scale.
    options = {"text_scale": 7.0 if fault == "norm" else 2.5}
    noise = noise_for(prior, image01)
    expected = expected_edit(family, folder, options["text_scale"], (64, 96))
    module = {"flux2": flux2, "kontext": flux_kontext, "qwen": qwen_image}[family]
    places = getattr(module, "places_of", None)
    if fault == "planes":
        monkeypatch.setattr(
            module, "places_of", lambda one, plane, axes: places(one, plane=0, axes=axes)
        )
    elif fault == "axes":
        turned = [0, 2, 1, 3]
        monkeypatch.setattr(
            module,
            "places_of",
            lambda one, plane, axes: places(one, plane=plane, axes=axes)[:, turned[:axes]],
        )
    elif fault == "packing":
        plain = module.pixel_unshuffle
        monkeypatch.setattr(
            module, "pixel_unshuffle", lambda x, n: plain(x.transpose(2, 3), n).transpose(2, 3)
        )
    elif fault == "guidance":
        # The two branches change places: their weights are 1 - w and w.
        options["text_scale"] = 1 - options["text_scale"]
    elif fault == "text":
        plain_text = prior.encode_text
        monkeypatch.setattr(
            prior, "encode_text", lambda prompts, *rows: plain_text([""] * len(prompts), *rows)
        )
    elif fault == "reference":
        plain_source = prior.encode_source

        def without_reference(image01):
            latent, rows = plain_source(image01)
            return latent, {name: row for name, row in rows.items() if name != "reference"}

        monkeypatch.setattr(prior, "encode_source", without_reference)
    elif fault == "norm":
        monkeypatch.setattr(prior, "bound_guidance", lambda guided, conditional: guided)
    elif fault == "positions":
        monkeypatch.setattr(prior._texts._processor, "return_mm_token_type_ids", False)
    elif fault == "unseen":
        plain_text = prior.encode_text
        monkeypatch.setattr(prior, "encode_text", lambda prompts, *_: plain_text(prompts))
    elif fault == "other":
        plain_text = prior.encode_text

        def of_others(prompts, rows):
            return plain_text(prompts, {name: row.flip(0) for name, row in rows.items()})

        monkeypatch.setattr(prior, "encode_text", of_others)
    elif fault == "turned":
        run = prior.transformer.forward

        def turned(img_shapes, **inputs):
            shapes = [[(f, w, h) for f, h, w in one] for one in img_shapes]
            return run(img_shapes=shapes, **inputs)

        monkeypatch.setattr(prior.transformer, "forward", turned)
    elif fault == "scale" and family != "kontext":
        monkeypatch.setattr(prior, "_statistics", lambda like: (0 * like[:1, :1, :1, :1], 1.0))
    elif fault == "scale":
        monkeypatch.setattr(flux_kontext, "scale_mode", lambda vae, mode: mode)
    elif fault == "layers":
        monkeypatch.setattr("csd_nerf.priors.texts.QWEN3_LAYERS", (9, 27, 18))
    elif fault == "distilled":
        monkeypatch.setattr(flux_kontext, "GUIDANCE", 1.0)
    found = our_edit(prior, image01, noise, **options)
    assert float((found - expected).abs().max()) > 10 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_is_noise_in_the_editors_scale(editing_folder, family):
    """z = alpha x + sigma e with the x and e of one velocity; and velocity is e - x."""
    prior = ours(editing_folder(family))
    image01 = pictures(3, 64, 64)
    source, rows = prior.encode_source(image01)
    noisy = noise_for(prior, image01)
    timestep = torch.tensor([30, 400, 970])
    branch = Branch(noisy, {**prior.encode_text(["make the sphere blue"]), **rows})
    (noise,) = prior.predict([branch], timestep)
    (velocity,) = prior.predict_velocity([branch], timestep)
    alpha, sigma = (
        level(timestep).view(-1, 1, 1, 1) for level in (prior.schedule.alpha, prior.schedule.sigma)
    )
    clean = noise - velocity
    torch.testing.assert_close(alpha * clean + sigma * noise, noisy, atol=1e-5, rtol=1e-5)
    whole = prior.predict([branch], timestep, max_batch=2)
    torch.testing.assert_close(whole[0], noise, atol=1e-5, rtol=1e-5)
    assert source.shape == noisy.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_images_survive_the_autoencoder_as_diffusers_has_it(editing_folder, family):
    folder = editing_folder(family)
    prior, image01 = ours(folder), pictures(2, 64, 96)
    vae = theirs(folder).vae
    # A video's autoencoder is shown videos of one frame.
    frames = image01[:, :, None] if family == "qwen" else image01
    with torch.no_grad():
        mode = vae.encode(2 * frames - 1).latent_dist.mode()
        expected = (vae.decode(mode).sample / 2 + 0.5).clamp(0, 1).view_as(image01)
    found = prior.decode(prior.encode(image01))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="needs heights and widths that are multiples of"):
        prior.encode(image01[:, :, :62])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_options_of_loading_are_heeded_or_refused(editing_folder, family):
    folder = editing_folder(family)
    with pytest.raises(ValueError, match="condition scaled needs a model whose U-Net takes"):
        priors.load(folder, condition="scaled")
    assert priors.load(folder, vae_tiling=True)._vae.use_tiling
    assert not ours(folder)._vae.use_tiling
    half = priors.load(folder, dtype="bfloat16")
    assert half.transformer.dtype == half._vae.dtype == torch.bfloat16
    noisy = noise_for(half, pictures(1, 64, 64))
    branch = Branch(noisy, half.encode_text(["fog"]))
    (rough,), (exact,) = (p.predict([branch], torch.tensor([500])) for p in (half, ours(folder)))
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_can_not_work_is_refused_before_it_is_loaded(editing_folder, tmp_path, family):
    folder = tmp_path / "model"
    for path, key, value, what in (
        ("transformer/config.json", "in_channels", 20, "needs 16 input channels"),
        ("scheduler/scheduler_config.json", "_class_name", "DDIMScheduler", "got DDIMScheduler"),
        ("vae/config.json", "_class_name", "AutoencoderTiny", "The vae of .* must be"),
        ("model_index.json", "is_distilled", True, "which is distilled to a few steps"),
        ("text_encoder/config.json", "model_type", "bert", "The text_encoder of .* must be"),
    ):
        shutil.copytree(editing_folder(family), folder)
        content = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps({**content, key: value}))
        with pytest.raises(ValueError, match=what):
            priors.fetch(folder)
        shutil.rmtree(folder)


def test_sampling_halves_its_batches_when_memory_runs_out(editing_folder):
    prior = priors.load(editing_folder("flux2"))
    run, told = prior.run, []

    def small_memory(noisy, timestep, rows):
        if len(noisy) > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return run(noisy, timestep, rows)

    image01 = pictures(2, 64, 64)
    noise = noise_for(prior, image01)
    expected = our_edit(ours(editing_folder("flux2")), image01, noise, text_scale=2.5)
    prior.run = small_memory
    halving = HalvingPrior(prior, tell=told.append)
    found = our_edit(halving, image01, noise, text_scale=2.5)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert "it is 1" in told[0]
