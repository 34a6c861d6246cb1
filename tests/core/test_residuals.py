from __future__ import annotations

import pytest
import torch

from csd_nerf.core.residuals import (
    DRAWN_NOISE,
    EDIT_RESIDUALS,
    Estimate,
    Terms,
    baseline,
    csd_edit,
    dds_edit,
    edit_guidance,
    estimate,
    generation,
    prompt_shares,
    sds_edit,
    text_guidance,
)

NULL = Estimate("target", False, "empty")
IMAGE = Estimate("target", True, "empty")
BOTH = Estimate("target", True, "prompt")
PROMPT = Estimate("target", False, "prompt")
SOURCE_NULL = Estimate("source", False, "empty")
SOURCE_IMAGE = Estimate("source", True, "empty")
SOURCE_TEXT = Estimate("source", False, "source")

VALUES = {NULL: 1.0, IMAGE: 3.0, BOTH: 4.0, PROMPT: 4.0}
VALUES |= {SOURCE_NULL: 2.0, SOURCE_IMAGE: 6.0, SOURCE_TEXT: 6.0}


def value(terms: Terms, *, noise: float = 0.5) -> float:
    """What the terms come to with scalars as estimates."""
    return sum(w * VALUES[name] for name, w in terms.weights.items()) + terms.noise * noise


def test_guidance_at_its_limits():
    assert text_guidance("target", "prompt", text_scale=0.0) == Terms({NULL: 1.0})
    assert text_guidance("target", "prompt", text_scale=1.0) == Terms({PROMPT: 1.0})
    assert edit_guidance("target", image_scale=0.0, text_scale=0.0) == Terms({NULL: 1.0})
    assert edit_guidance("target", image_scale=1.0, text_scale=0.0) == Terms({IMAGE: 1.0})
    assert edit_guidance("target", image_scale=1.0, text_scale=1.0) == Terms({BOTH: 1.0})


def test_the_printed_equations_by_hand():
    # Eq. 3: 1 + 1.5 (3 - 1) + 7.5 (4 - 3)
    assert value(edit_guidance("target", image_scale=1.5, text_scale=7.5)) == 11.5
    # Eq. 9: the above less 2 + 1.5 (6 - 2)
    assert value(csd_edit(image_scale=1.5, text_scale=7.5)) == 3.5
    # SDS: the above less the noise
    assert value(sds_edit(image_scale=1.5, text_scale=7.5)) == 11.0
    # Eq. 8: 1 + 2 (4 - 1) - 0.5
    assert value(generation(text_scale=2.0)) == 6.5
    # Appendix A: 7 less 2 + 2 (6 - 2)
    assert value(dds_edit(image_scale=1.5, text_scale=2.0)) == -3.0


def test_eq_9_takes_five_evaluations_and_fewer_where_a_weight_is_zero():
    assert set(csd_edit(image_scale=1.5, text_scale=7.5).weights) == {
        NULL, IMAGE, BOTH, SOURCE_NULL, SOURCE_IMAGE
    }  # fmt: skip
    assert set(csd_edit(image_scale=1.0, text_scale=1.0).weights) == {BOTH, SOURCE_IMAGE}
    assert set(sds_edit(image_scale=1.0, text_scale=1.0).weights) == {BOTH}


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_share_of_the_source_s_estimate_by_hand(share):
    scales = {"image_scale": 1.5, "text_scale": 7.5, "source_share": share}
    # Eq. 3 is 11.5, the source's estimate 2 + 1.5 (6 - 2) = 8, the noise 0.5.
    assert value(csd_edit(**scales)) == 11.5 - 8 * share - 0.5 * (1 - share)
    # The target's is 1 + 7.5 (4 - 1) = 23.5, the source's 2 + 7.5 (6 - 2) = 32.
    assert value(dds_edit(**scales)) == 23.5 - 32 * share - 0.5 * (1 - share)


def test_at_the_ends_of_the_share_are_sds_and_the_paper():
    scales = {"image_scale": 1.5, "text_scale": 7.5}
    assert csd_edit(**scales, source_share=0.0) == sds_edit(**scales)
    assert csd_edit(**scales, source_share=1.0) == csd_edit(**scales)
    assert dds_edit(**scales, source_share=1.0) == dds_edit(**scales)
    generated = generation(text_scale=7.5)
    assert dds_edit(**scales, source_share=0.0) == generated
    assert not generated.needs_source_text
    assert sds_edit(**scales, source_share=0.5) == sds_edit(**scales)


def test_the_best_share_leaves_the_least_variance():
    """The law of `baseline`'s docstring, on estimates that err alike, over a grid of shares."""
    generator = torch.Generator().manual_seed(0)
    noise, error, other = torch.randn(3, 4000, 2, generator=generator)
    target, source = noise + 0.6 * error + 0.2 * other, noise + error + 0.3

    def variance(share):
        terms = baseline(estimate("source", image=True, text="empty"), source_share=share)
        (weight,) = terms.weights.values() or (0.0,)
        return float((target - weight * source - terms.noise * noise).var(0).sum())

    u, v = target - noise, source - noise
    best = float(((u - u.mean(0)) * (v - v.mean(0))).sum() / (v - v.mean(0)).square().sum())
    grid = [k / 50 for k in range(51)]
    assert min(grid, key=variance) == pytest.approx(best, abs=0.011)
    assert best == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("name", ["csd", "dds"])
@pytest.mark.parametrize(("image_scale", "text_scale"), [(1.5, 7.5), (1.0, 3.0), (0.3, 0.0)])
def test_a_residual_with_a_source_branch_moves_nothing_where_all_estimates_agree(
    name, image_scale, text_scale
):
    terms = EDIT_RESIDUALS[name](image_scale=image_scale, text_scale=text_scale)
    assert sum(terms.weights.values()) == pytest.approx(0)
    assert terms.noise == 0


def test_an_unedited_particle_is_moved_by_the_instruction_alone():
    """With the source's estimates equal to the target's, Eq. 9 leaves w_y (text - image)."""
    terms = csd_edit(image_scale=1.5, text_scale=7.5)
    merged = {}
    for name, weight in terms.weights.items():
        same = name._replace(latent="target")
        merged[same] = merged.get(same, 0.0) + weight
    assert {name: w for name, w in merged.items() if w} == {BOTH: 7.5, IMAGE: -7.5}


def test_what_terms_need_is_read_off_them():
    assert csd_edit(image_scale=1.5, text_scale=7.5).needs_image
    assert not dds_edit(image_scale=1.5, text_scale=7.5).needs_image
    assert dds_edit(image_scale=1.5, text_scale=7.5).text_without_prompt == "source"
    assert csd_edit(image_scale=1.5, text_scale=7.5).text_without_prompt == "empty"
    assert csd_edit(image_scale=1.5, text_scale=7.5).needs_source_latent
    assert not sds_edit(image_scale=1.5, text_scale=7.5).needs_source_latent


def test_terms_add_and_scale_as_vectors_do():
    a = estimate("target", image=True, text="prompt")
    b = 2.0 * a + DRAWN_NOISE
    assert b - a == a + DRAWN_NOISE
    assert b - b == Terms()
    assert 0.0 * b == Terms()


def test_shares_default_to_equal_and_sum_to_one_at_most():
    assert prompt_shares(None, size=2, prompts=4).tolist() == [[0.25] * 4] * 2
    with pytest.raises(ValueError, match=r"rows summing to one at most.*\(1, 2\).*\[1\.5\]"):
        prompt_shares(torch.tensor([[1.0, 0.5]]), size=1, prompts=2)
    with pytest.raises(ValueError, match="no less than zero"):
        prompt_shares(torch.tensor([[1.0, -0.5]]), size=1, prompts=2)
    some = torch.tensor([[0.5, 0.25], [0.0, 0.0]])
    assert prompt_shares(some, size=2, prompts=2) is some
    with pytest.raises(ValueError, match=r"each of 2 particles.*got shape \(1, 2\)"):
        prompt_shares(torch.tensor([[0.5, 0.5]]), size=2, prompts=2)
