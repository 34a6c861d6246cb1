"""ControlNet beside Stable Diffusion: our sampler on our prior against diffusers' pipeline."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from torch import Tensor

from csd_nerf import priors
from csd_nerf.core.residuals import dds_edit
from csd_nerf.core.structure import CONTROL, pack_structure
from csd_nerf.priors import estimates
from csd_nerf.priors.controlnet import canny_edges
from csd_nerf.priors.estimates import ModelInputs, Texts, weighted_sum
from csd_nerf.priors.families import FAMILIES
from csd_nerf.priors.halving import HalvingPrior
from csd_nerf.priors.sampling import sample_edit

STEPS = 5
TOLERANCE = 1e-4
PROMPTS = ["make the sphere blue", "make it a snowy winter night"]


def pictures(height: int, width: int, *, seed: int = 7) -> Tensor:
    """Two pictures of blocks of 8 bits, so that there are edges and planes."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (2, 3, height // 8, width // 8), generator=generator)
    return torch.nn.functional.interpolate(blocks.float(), (height, width)) / 255


def theirs_of_edges(image01: Tensor) -> Tensor:
    """What the documentation of diffusers hands to the pipeline, with a loop over the pictures."""
    found = []
    for image in image01:
        grey = cv2.Canny((255 * image).round().byte().permute(1, 2, 0).numpy(), 100, 200)
        found.append(torch.from_numpy(np.stack([grey] * 3)).float() / 255)
    return torch.stack(found)


@cache
def pipeline(base: Path, net: Path) -> StableDiffusionControlNetPipeline:
    loaded = StableDiffusionControlNetPipeline.from_pretrained(
        base, controlnet=ControlNetModel.from_pretrained(net), safety_checker=None
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


def expected_images(folders, control01: Tensor, *, text_scale, scale=1.0, negative="") -> Tensor:
    return pipeline(*folders)(
        PROMPTS,
        image=control01,
        height=control01.shape[2],
        width=control01.shape[3],
        negative_prompt=[negative] * 2,
        guidance_scale=text_scale,
        controlnet_conditioning_scale=scale,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(1),
        output_type="pt",
    ).images


def load(folders, *, control="canny", scale=1.0):
    base, net = folders
    return priors.load(
        base, kind="text", control=control, control_model=str(net), control_scale=scale
    )


@pytest.fixture(scope="module")
def prior(control_folders):
    return load(control_folders)


def our_images(prior, image01: Tensor, **options) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return sample_edit(prior, image01, PROMPTS, steps=STEPS, generator=generator, **options)


def worst(images: Tensor, expected: Tensor) -> float:
    # A saturated picture would hide differences.
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.5
    return float((images - expected).abs().max())


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
@pytest.mark.parametrize("text_scale", [1.5, 4.0, 7.5])
# With an image_scale other than 1 the estimate without the source's condition is evaluated too,
# which sees the structure as the others do: the scale makes no difference.
@pytest.mark.parametrize("image_scale", [1.0, 1.7])
def test_reproduces_the_pipeline(control_folders, prior, image_scale, text_scale, size):
    image01 = pictures(*size)
    expected = expected_images(control_folders, theirs_of_edges(image01), text_scale=text_scale)
    found = our_images(prior, image01, text_scale=text_scale, image_scale=image_scale)
    assert worst(found, expected) < TOLERANCE


def test_reproduces_the_pipeline_with_another_scale_and_a_negative_prompt(control_folders):
    image01 = pictures(64, 96)
    edges01 = theirs_of_edges(image01)
    options = {"text_scale": 4.0, "scale": 0.5}
    expected = expected_images(control_folders, edges01, **options, negative="fog")
    prior = load(control_folders, scale=0.5)
    found = our_images(prior, image01, text_scale=4.0, image_scale=1.0, negative_prompt="fog")
    assert worst(found, expected) < TOLERANCE


def _change_rows(change):
    """Change the row `control` that `encode_source` returns."""

    def apply(prior):
        right = prior.encode_source

        def encode_source(image01):
            latent, rows = right(image01)
            return latent, {CONTROL: change(rows[CONTROL], image01)}

        prior.encode_source = encode_source

    return apply


def _without(prior):
    prior.beside = lambda *_: {}


def _not_in_the_empty_branch(prior):
    """As a condition of the source image would be: black where the text is empty."""
    right, empty = prior.model_rows, prior.encode_text([""])["text"]

    def model_rows(branch):
        rows = right(branch)
        is_empty = torch.equal(rows["text"], empty)
        return {**rows, CONTROL: 0 * rows[CONTROL]} if is_empty else rows

    prior.model_rows = model_rows


def _transposed(rows, _):
    n, _, height, width = rows.shape
    return rows.view(n, 4, 4, height, width).transpose(1, 2).reshape(rows.shape)


def _not_scaled(prior):
    prior.control_scale = 1.0


FAULTS = {
    "no control": _without,
    "no control in the empty branch": _not_in_the_empty_branch,
    "pixels of a cell transposed": _change_rows(_transposed),
    "cells transposed": _change_rows(lambda rows, _: rows.flip(2)),
    "no scale": _not_scaled,
    "edges of another picture": _change_rows(
        lambda _, image01: pack_structure(canny_edges(image01.flip(0)), cell_size=4)
    ),
    "white background": _change_rows(lambda rows, _: 1 - rows),
    "bytes": _change_rows(lambda rows, _: 255 * rows),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(control_folders, fault):
    image01 = pictures(64, 96)
    options = {"text_scale": 4.0, "image_scale": 1.7}
    expected = expected_images(control_folders, theirs_of_edges(image01), text_scale=4.0, scale=0.7)
    prior = load(control_folders, scale=0.7)
    assert worst(our_images(prior, image01, **options), expected) < TOLERANCE
    FAULTS[fault](prior)
    assert worst(our_images(prior, image01, **options), expected) > 10 * TOLERANCE


def test_an_estimate_without_the_structure_is_refused(prior, monkeypatch):
    monkeypatch.setattr(estimates, "STRUCTURE_ROWS", ())
    with pytest.raises(ValueError, match=r"needs the rows 'control' .* for canny, got text;"):
        our_images(prior, pictures(64, 64), text_scale=4.0, image_scale=1.7)


def test_every_estimate_of_dds_sees_the_structure(prior, monkeypatch):
    image01 = pictures(64, 64)
    latent, rows = prior.encode_source(image01)
    texts = Texts.encode(prior, ["a blue sphere"], source_prompt="a red sphere")
    seen = []
    right = prior.predict

    def predict(branches, timestep, **options):
        seen.extend(branches)
        return right(branches, timestep, **options)

    monkeypatch.setattr(prior, "predict", predict)
    inputs = ModelInputs({"target": latent, "source": latent}, rows, texts, torch.ones(2, 1))
    terms = dds_edit(image_scale=1.0, text_scale=4.0)
    timestep = torch.tensor([300, 300])
    weighted_sum(prior, terms, inputs, timestep)
    assert len(seen) == 4
    assert all(branch.rows[CONTROL] is rows[CONTROL] for branch in seen)


def test_the_edges_are_opencvs_and_packed_by_cells(prior):
    image01 = pictures(64, 96)
    latent, rows = prior.encode_source(image01)
    assert torch.equal(latent, prior.encode(image01))
    packed = rows[CONTROL]
    assert packed.shape == (2, 16, 16, 24)
    edges01 = theirs_of_edges(image01)[:, 0]
    assert 0.05 < float(edges01.mean()) < 0.5
    for y in range(64):
        for x in range(96):
            cell = packed[:, 4 * (y % 4) + x % 4, y // 4, x // 4]
            assert torch.equal(cell, edges01[:, y, x])


def test_a_structure_of_depth_is_the_callers(control_folders):
    prior = load(control_folders, control="depth")
    _, rows = prior.encode_source(pictures(64, 64))
    assert rows == {}
    assert prior.source_rows == ()


def test_halving_and_small_batches_make_no_difference(prior):
    told: list[str] = []
    halving = HalvingPrior(prior, max_batch=1, tell=told.append)
    image01 = pictures(64, 64)
    options = {"text_scale": 4.0, "image_scale": 1.0}
    assert worst(our_images(halving, image01, **options), our_images(prior, image01, **options)) < (
        TOLERANCE
    )


def test_the_precision_is_the_models(control_folders):
    base, net = control_folders
    options = {"control": "canny", "control_model": str(net)}
    prior = priors.load(base, kind="text", dtype="bfloat16", **options)
    assert prior._control_net.dtype == prior.unet.dtype == torch.bfloat16
    assert not any(weight.requires_grad for weight in prior._control_net.parameters())
    latent, rows = prior.encode_source(pictures(64, 64))
    branch = priors.Branch(latent, {**prior.encode_text(["fog"]), **rows})
    assert prior.predict([branch], torch.tensor([300, 300])).isfinite().all()


def test_families_say_who_takes_one():
    controlled = [name for name, family in FAMILIES.items() if family.controlled]
    assert controlled == ["StableDiffusionPipeline"]
