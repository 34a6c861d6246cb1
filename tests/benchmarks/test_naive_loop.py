"""The naive loop makes the editor's update, at the price that it is there to show."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.profile.naive_loop import naive_direction, naive_edit, sliced_attention
from csd_nerf import priors
from csd_nerf.adapters.costs import CountedPrior
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.kernels import rbf_kernel
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.stein import stein_direction
from csd_nerf.editor import edit

PROMPT = "make it night"


@pytest.fixture(scope="module")
def prior():
    return priors.load("tiny")


def make_stack(prior, n):
    generator = torch.Generator().manual_seed(1)
    shape = (n, prior.latent_channels, 8, 8)
    source, condition = (torch.randn(shape, generator=generator) for _ in range(2))
    return ImageStack(source.clone(), source, {"condition": condition})


def randomness():
    return SeededRandomness(torch.Generator().manual_seed(2))


@pytest.mark.parametrize("n", [1, 3])
def test_with_equal_noise_both_loops_make_the_same_edit(prior, n):
    settings = EditSettings(iterations=3, decay_every=2, noise="independent")
    ours, naive = make_stack(prior, n), make_stack(prior, n)
    edit(prior, ours, prompts=[PROMPT], settings=settings, randomness=randomness())
    naive_edit(prior, naive, prompt=PROMPT, settings=settings, randomness=randomness())
    assert (ours.latent - ours.source).abs().max() > 0.05
    torch.testing.assert_close(naive.latent, ours.latent, rtol=0, atol=1e-4)


def test_the_naive_loop_makes_six_evaluations_a_particle_and_ours_five(prior):
    settings = EditSettings(iterations=2)
    counted = CountedPrior(prior)
    told = naive_edit(
        counted, make_stack(prior, 2), prompt=PROMPT, settings=settings, randomness=randomness()
    )
    assert told == counted.evaluations == 6 * 2 * 2
    counted = CountedPrior(prior)
    edit(
        counted,
        make_stack(prior, 2),
        prompts=[PROMPT],
        settings=settings,
        randomness=randomness(),
    )
    assert counted.evaluations == 5 * 2 * 2


def test_the_naive_direction_is_the_sum_of_eq_8():
    generator = torch.Generator().manual_seed(0)
    z, r = (torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    pairs = sorted(float((z[i] - z[j]).square().sum()) for i in range(4) for j in range(i))
    h = (pairs[2] + pairs[3]) / 2 / math.log(5)
    expected = torch.zeros_like(z)
    for i in range(4):
        for j in range(4):
            k = math.exp(-float((z[i] - z[j]).square().sum()) / h)
            expected[i] += (k * r[j] + 0.7 * 2 / h * (z[j] - z[i]) * k) / 4
    torch.testing.assert_close(naive_direction(z, r, repulsion=0.7), expected)
    ours = stein_direction(rbf_kernel(z), r, repulsion=0.7)
    torch.testing.assert_close(ours, expected)


def test_sliced_attention_leaves_the_result_and_is_undone(prior):
    unet = prior.unet
    before = {name: type(processor) for name, processor in unet.attn_processors.items()}
    latent = torch.randn(2, unet.config.in_channels, 8, 8)
    text = torch.randn(2, 24, unet.config.cross_attention_dim)
    with torch.no_grad():
        whole = unet(latent, 100, encoder_hidden_states=text).sample
        with sliced_attention(unet):
            assert {type(p).__name__ for p in unet.attn_processors.values()} == {
                "SlicedAttnProcessor"
            }
            sliced = unet(latent, 100, encoder_hidden_states=text).sample
    torch.testing.assert_close(sliced, whole, rtol=0, atol=1e-4)
    assert {name: type(p) for name, p in unet.attn_processors.items()} == before
