from __future__ import annotations

import pytest
import torch

from csd_nerf.core.guidance import (
    classifier_free,
    composed_noise,
    dds_residual,
    edit_residual,
    edit_weights,
    generation_residual,
    guided_noise,
    prompt_shares,
)


@pytest.fixture
def estimates():
    """Five estimates: target null, image, text; source null, image."""
    return torch.randn(5, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def test_guidance_at_its_limits(estimates):
    null, image, text = estimates[:3]
    assert torch.allclose(classifier_free(null, text, scale=0.0), null)
    assert torch.allclose(classifier_free(null, text, scale=1.0), text)
    assert torch.allclose(guided_noise(null, image, text, image_scale=0.0, text_scale=0.0), null)
    assert torch.allclose(guided_noise(null, image, text, image_scale=1.0, text_scale=0.0), image)
    assert torch.allclose(guided_noise(null, image, text, image_scale=1.0, text_scale=1.0), text)


def test_three_way_guidance_by_hand():
    null, image, text = (torch.tensor([v]) for v in (1.0, 3.0, 4.0))
    # 1 + 1.5 (3 - 1) + 7.5 (4 - 3)
    assert guided_noise(null, image, text, image_scale=1.5, text_scale=7.5).item() == 11.5


def test_residuals_by_hand():
    null, image, text, source_null, source_image = (
        torch.tensor([v]) for v in (1.0, 3.0, 4.0, 2.0, 6.0)
    )
    # 11.5 - (2 + 1.5 (6 - 2))
    residual = edit_residual(
        null, image, text, source_null, source_image, image_scale=1.5, text_scale=7.5
    )
    assert residual.item() == 3.5
    # 1 + 2 (4 - 1) - 0.5
    noise = torch.tensor([0.5])
    assert generation_residual(null, text, noise, text_scale=2.0).item() == 6.5
    # 7 - (2 + 2 (6 - 2))
    assert dds_residual(null, text, source_null, source_image, text_scale=2.0).item() == -3.0


@pytest.mark.parametrize(("image_scale", "text_scale"), [(1.5, 7.5), (1.0, 3.0), (0.0, 0.0)])
def test_edit_weights_sum_to_the_printed_equation(estimates, image_scale, text_scale):
    scales = {"image_scale": image_scale, "text_scale": text_scale}
    noise = torch.ones_like(estimates[0])
    weights = edit_weights(**scales)
    total = sum(w * e for w, e in zip(weights, [*estimates, noise], strict=True))
    assert torch.allclose(total, edit_residual(*estimates, **scales))

    weights = edit_weights(**scales, baseline="noise")
    total = sum(w * e for w, e in zip(weights, [*estimates, noise], strict=True))
    assert torch.allclose(total, guided_noise(*estimates[:3], **scales) - noise)


def test_an_unedited_particle_is_moved_by_the_instruction_alone(estimates):
    null, image, text = estimates[:3]
    residual = edit_residual(null, image, text, null, image, image_scale=1.5, text_scale=7.5)
    assert torch.allclose(residual, 7.5 * (text - image))


def test_composition_takes_each_particle_s_own_shares(estimates):
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    composed = composed_noise(estimates[:2], weights)
    first, second = estimates[:2]
    assert torch.allclose(composed[0], first[0])
    assert torch.allclose(composed[1], second[1])
    assert torch.allclose(composed[2], 0.25 * first[2] + 0.75 * second[2])


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
