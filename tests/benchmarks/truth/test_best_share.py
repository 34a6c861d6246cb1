"""The share of the source's estimate that is measured at the true edit, and what it costs."""

from __future__ import annotations

import pytest
import torch

from benchmarks.engine.trials import Store
from benchmarks.truth.budgets import update_branches
from benchmarks.truth.grids import GRIDS
from benchmarks.truth.residuals import Guidance, best_share, residuals_at_truth
from benchmarks.truth.scene_plans import plan_arm
from benchmarks.truth.videos import VideoDomain
from csd_nerf import priors
from csd_nerf.adapters.options import VideoOptions
from csd_nerf.core.schedules import DiscreteSchedule


class AlikePrior:
    """Its estimates keep a part of the noise: more of it for the source than for the target."""

    name = "alike"
    schedule = DiscreteSchedule.scaled_linear()
    device = torch.device("cpu")
    latent_channels, cell_size, preferred_size, size_multiple = 3, 1, 16, 1
    source_rows = ("condition",)

    def encode(self, image01):
        return image01

    def encode_source(self, image01):
        return image01, {"condition": image01}

    decode = encoding_tiles = decoding_tiles = free_text_encoder = encode

    def encode_text(self, prompts, image_rows=None):
        return {"text": torch.tensor([float(prompt != "") for prompt in prompts])}

    def predict(self, branches, timestep, *, max_batch=None):
        return torch.stack([self.estimate(branch, timestep) for branch in branches])

    def estimate(self, branch, timestep):
        is_target = branch.noisy.mean() > 0
        clean = 1.0 if is_target else -1.0
        alpha, sigma = self.schedule.alpha(timestep[:1]), self.schedule.sigma(timestep[:1])
        noise = (branch.noisy - alpha * clean) / sigma
        if is_target:
            return 1.3 * noise + 0.7
        # An error of its own, which the target's estimate does not have.
        return 1.5 * noise + 0.4 * noise.roll(1, dims=-1) - 2.0


def test_the_best_share_is_that_of_a_prior_whose_errors_are_known():
    truth, source = torch.ones(3, 16, 16), -torch.ones(3, 16, 16)
    scales = {"csd": Guidance(1.0, 1.0), "sds": Guidance(1.0, 1.0)}
    rows = residuals_at_truth(
        AlikePrior(), source, truth, "night", scales, draws=400, levels=(0.5, 0.9)
    )
    # u = 0.3 e, v = 0.5 e + 0.4 e': Cov(u, v) = 0.15, Var v = 0.25 + 0.16.
    for level in (0.5, 0.9):
        assert rows["csd"][f"share_{level}"] == pytest.approx(0.15 / 0.41, abs=0.01)
        assert f"share_{level}" not in rows["sds"]


def test_the_best_share_against_a_grid_in_float64():
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(30, 2, 3, 3, generator=generator) + 5
    target = 0.4 * source + 0.3 * torch.randn(30, 2, 3, 3, generator=generator)
    shares = torch.linspace(-1, 2, 3001, dtype=torch.float64)
    spread = torch.stack([(target - s * source.double()).var(dim=0).sum() for s in shares])
    assert best_share(target, source) == pytest.approx(float(shares[spread.argmin()]), abs=0.001)


@pytest.mark.parametrize(("share", "branches"), [(1.0, 5), (0.5, 5), (0.0, 3)])
def test_an_update_without_a_share_costs_no_estimate_of_the_source(share, branches):
    scales = {"image_scale": 1.5, "text_scale": 7.5}
    assert update_branches("csd", **scales, source_share=share) == branches


def test_a_video_s_cost_counts_the_share(tmp_path):
    given = VideoDomain(priors.load("tiny"), {}, Store(tmp_path))
    # At scales of 1 the source and the target have one estimate each.
    costs = [given.cost(VideoOptions(preset="tiny", source_share=s)) for s in (1.0, 0.5, 0.0)]
    assert costs == [2, 2, 1]


def test_a_scene_s_plan_spends_what_the_share_saves():
    start = GRIDS["scene"].methods["csd"].start
    usual, without = (plan_arm("csd", {**start, "source_share": s}, csd={}) for s in (1.0, 0.0))
    assert (start["text_scale"], start["image_scale"]) == (1.0, 1.0)
    # One estimate instead of two; the budget is still that of csd.
    assert without.iterations == usual.iterations * 2
    assert without.evaluations == usual.evaluations
