"""Predicted peaks against measured ones, and the choice by free memory."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from csd_nerf import priors
from csd_nerf.core.residuals import csd_edit
from csd_nerf.core.settings import EditSettings
from csd_nerf.editor import edit_images
from csd_nerf.priors.costs import LiveBytes
from csd_nerf.priors.memory import choose, free_bytes
from csd_nerf.priors.predictions import (
    OVERHEAD_BYTES,
    Edit,
    edit_flops,
    further_peak_bytes,
    most_evaluations,
    peak_bytes,
)
from csd_nerf.priors.prior_costs import prior_costs
from csd_nerf.priors.splitting import split_bytes

TERMS = csd_edit(image_scale=1.5, text_scale=7.5)
GUIDED = csd_edit(image_scale=1.0, text_scale=4.0)
LARGE = {
    "instruct-pix2pix": ("float16", TERMS),
    "sdxl-instruct-pix2pix": ("float16", TERMS),
    "flux2-klein": ("bfloat16", GUIDED),
    "flux-kontext": ("bfloat16", csd_edit(image_scale=1.0, text_scale=1.0)),
}
ORDER = [("none", "none"), ("text", "none"), ("model", "none"), ("none", "8bit"), ("text", "8bit")]
ORDER += [("none", "4bit"), ("text", "4bit")]


def large(name, views=16, size=None):
    dtype, terms = LARGE[name]
    return prior_costs(name, getattr(torch, dtype)), Edit(views, terms, size)


@pytest.mark.parametrize("family", ["pix2pix", "xl", "flux2", "kontext"])
@pytest.mark.parametrize("max_batch", [None, 3])
def test_a_real_edit_takes_no_more_than_predicted_and_not_much_less(
    editing_folder, family, max_batch
):
    folder = editing_folder(family)
    costs = prior_costs(folder, torch.float32)
    edge = 2 * costs.preferred_size
    image01 = torch.rand(4, 3, edge, edge)
    settings = EditSettings(iterations=2, max_batch=max_batch, mixing="none")
    prior = priors.load(folder)
    gc.collect()
    # Weights aren't made in here, so that they don't count.
    with LiveBytes([image01, *weights_of(prior)]) as live:
        edit_images(
            prior,
            image01,
            prompt="x",
            settings=settings,
            generator=torch.Generator().manual_seed(0),
        )
    edit = Edit(4, TERMS, (edge, edge), iterations=2)
    weights = sum(part.kept_bytes for part in costs.parts.values())
    predicted = peak_bytes(costs, edit, max_batch=max_batch) - OVERHEAD_BYTES - weights
    assert live.peak <= predicted <= 2 * live.peak


def weights_of(prior):
    held = [m for m in gc.get_objects() if isinstance(m, torch.nn.Module)]
    return [t for module in held for t in [*module.parameters(), *module.buffers()]]


def test_operations_of_an_edit_by_hand():
    costs, edit = large("instruct-pix2pix")
    # 16 views, 5 evaluations, 200 iterations of 0.8034 TFLOP; the autoencoder's 1.12 and 2.51.
    assert edit_flops(costs, edit) == pytest.approx(
        16 * 5 * 200 * 0.8034e12 + 16 * (1.117e12 + 2.515e12), rel=1e-3
    )
    assert most_evaluations(costs, edit) == 80


def test_a_bank_keeps_a_latent_in_half_precision_for_each_source_and_pair():
    costs, edit = large("instruct-pix2pix")
    plain = peak_bytes(costs, edit, max_batch=8)
    # 16 views and 32 pairs of 4 x 64 x 64 numbers of 2 bytes; no more pairs than iterations.
    kept = peak_bytes(costs, replace(edit, source_bank=32), max_batch=8)
    assert kept - plain == pytest.approx(16 * 32 * 4 * 64 * 64 * 2, rel=1e-3)
    few = replace(edit, source_bank=999, iterations=32)
    assert peak_bytes(costs, few, max_batch=8) == kept


def test_evaluations_without_the_source_cost_a_flow_less():
    costs, _ = large("flux2-klein")
    size = (1024, 1024)
    with_it, without = (costs.evaluation(1, size, image=i).flops for i in (True, False))
    assert without < 0.6 * with_it


# One after the other, since a large model is made and counted once in a process.
@pytest.mark.parametrize("name", LARGE)
def test_predictions_hold_for_calls_of_all_sizes_and_for_any_memory(name):
    no_less_than_counted(*large(name))
    for views, size in ((1, None), (16, None), (16, (512, 512))):
        more_memory_never_leads_to_a_later_choice(*large(name, views, size))


def no_less_than_counted(costs, edit):
    """Between one evaluation and all."""
    size = edit.size_for(costs)
    most = most_evaluations(costs, edit)
    ends = [costs.evaluation(b, size, image=True).peak_bytes for b in (1, most)]
    middle = costs.evaluation(most // 2, size, image=True).peak_bytes
    between = ends[0] + (ends[1] - ends[0]) * (most // 2 - 1) / (most - 1)
    assert middle <= between * (1 + 1e-9)


def more_memory_never_leads_to_a_later_choice(costs, edit):
    """And what fits is predicted to."""
    places, before = [], None
    for gigabytes in (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 80, 141, 400):
        choice = choose(costs, edit, free_bytes=gigabytes * 10**9, can_quantize=True)
        options = {n: getattr(choice, n) for n in ("max_batch", "offload", "quantize")}
        assert choice.peak_bytes == peak_bytes(costs, edit, **options)
        assert choice.fits == (choice.peak_bytes <= gigabytes * 10**9)
        if choice.fits:
            batch = choice.max_batch or most_evaluations(costs, edit)
            places.append((ORDER.index((choice.offload, choice.quantize)), -batch))
        else:
            assert before is None or not before.fits
            assert "still more than" in choice.reason
        before = choice
    assert places == sorted(places, reverse=True)
    assert places[-1][0] == 0
    assert choice.max_batch is None


def test_the_border_is_exact():
    costs, edit = large("instruct-pix2pix")
    whole = peak_bytes(costs, edit)
    assert choose(costs, edit, free_bytes=whole).max_batch is None
    assert choose(costs, edit, free_bytes=whole - 1).max_batch == 40
    least = peak_bytes(costs, edit, max_batch=1)
    at = choose(costs, edit, free_bytes=least, can_quantize=False)
    assert (at.offload, at.fits) == ("none", True)
    below = choose(costs, edit, free_bytes=least - 1, can_quantize=False)
    assert (below.offload, below.fits) == ("text", True)


@pytest.mark.parametrize(("name", "share"), [("instruct-pix2pix", 0.9), ("flux-kontext", 0.65)])
def test_a_split_denoiser_takes_a_part_of_each_device(name, share):
    costs, edit = large(name)
    whole = peak_bytes(costs, edit, max_batch=1)
    kept, loaded = costs.denoiser.kept_bytes, costs.denoiser.loaded_bytes
    blocks = costs.denoiser.block_bytes
    assert 0.8 * kept < sum(blocks) <= kept
    # Neither device holds all of it; both together do.
    free = round(share * whole)
    assert not choose(costs, edit, free_bytes=free, fixed={"offload": "none"}).fits
    choice = choose(costs, edit, free_bytes=free, split=[free], can_quantize=True)
    ((further, room),) = choice.further
    assert (choice.fits, room, choice.free_bytes) == (True, free, free)
    assert choice.quantize == "none"
    own, other = split_bytes(blocks, [free, free], rest=kept - sum(blocks))
    assert own + other == kept
    options = {"max_batch": choice.max_batch, "offload": choice.offload}
    assert choice.peak_bytes == peak_bytes(costs, edit, **options, denoiser_bytes=own)
    assert further == further_peak_bytes(costs, edit, other, max_batch=choice.max_batch)
    assert further > other + OVERHEAD_BYTES
    numbers = f"about {choice.peak_bytes / 1e9:.1f} and {further / 1e9:.1f} GB of"
    assert f"{numbers} {free / 1e9:.1f} and {free / 1e9:.1f} GB" in choice.reason
    # A part is loaded to the CPU, and the device gets its own.
    loading = peak_bytes(costs, edit, max_batch=1) - peak_bytes(
        costs, edit, max_batch=1, denoiser_bytes=0
    )
    assert kept <= loading <= loaded


def test_a_split_fits_if_each_device_has_room():
    costs, edit = large("flux-kontext")
    ample, little = 400 * 10**9, 2 * 10**9
    assert choose(costs, edit, free_bytes=ample, split=[ample]).fits
    # The first device takes more where it has more.
    much = choose(costs, edit, free_bytes=ample, split=[ample // 10])
    even = choose(costs, edit, free_bytes=ample, split=[ample])
    assert much.further[0][0] < even.further[0][0]
    none = choose(costs, edit, free_bytes=little, split=[little], can_quantize=True)
    assert (none.fits, none.max_batch, none.offload, none.quantize) == (False, 1, "text", "none")
    assert "still more than the 2.0 and 2.0 GB that are free" in none.reason
    # What is left to others is not part of what is free, and no part of the split's shares.
    left = choose(costs, edit, free_bytes=ample, reserve=10**9, split=[ample])
    assert (left.free_bytes, left.further) == (ample - 10**9, even.further)
    assert not replace(even, further=((2, 1),)).fits


def test_what_the_user_gave_stays():
    costs, edit = large("flux-kontext")
    fixed = {"max_batch": 7, "offload": "text"}
    choice = choose(costs, edit, free_bytes=10**9, fixed=fixed, can_quantize=False)
    assert (choice.max_batch, choice.offload, choice.quantize) == (7, "text", "none")


def test_without_the_packages_nothing_is_quantised():
    costs, edit = large("flux-kontext")
    for free in (1, 5, 9):
        choice = choose(costs, edit, free_bytes=free * 10**9, can_quantize=False)
        assert choice.quantize == "none"


def test_on_a_cpu_nothing_is_offloaded():
    costs, edit = large("instruct-pix2pix")
    choice = choose(costs, edit, free_bytes=10**9, device="cpu", can_quantize=True)
    assert (choice.offload, choice.quantize, choice.fits) == ("none", "none", False)


def test_free_memory_of_the_cpu():
    assert 1 << 26 < free_bytes(torch.device("cpu")) < 1 << 45
