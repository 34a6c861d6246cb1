"""A prior shown as a flow is the same model, and its benchmark asks the flow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.engine.trials import Store
from benchmarks.truth.domains import Job
from benchmarks.truth.flow_videos import FlowVideoDomain
from benchmarks.truth.flow_view import FlowView
from benchmarks.truth.grids import GRIDS, grid_of
from benchmarks.truth.tuned import tuned_arm
from benchmarks.truth.videos import draw_video
from csd_nerf import priors
from csd_nerf.core.schedules import FlowSchedule, add_noise
from csd_nerf.priors.base import Branch, Prior


@pytest.fixture(scope="module")
def tiny():
    return priors.load("tiny")


def test_its_estimates_are_the_model_s_at_the_same_noise(tiny):
    view = FlowView(tiny)
    assert isinstance(view, Prior)
    assert isinstance(view.schedule, FlowSchedule)
    images01 = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latent, rows = tiny.encode_source(images01)
    rows = {**rows, **tiny.encode_text(["make it night"])}
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    for own in (0, 30, 400, 999):
        ratio = float(
            tiny.schedule.sigma(torch.tensor(own)) / tiny.schedule.alpha(torch.tensor(own))
        )
        # The flow's timestep of the same ratio, which is no integer.
        timestep = torch.full((2,), 1000 * ratio / (1 + ratio))
        noisy = add_noise(tiny.schedule, latent, noise, torch.full((2,), own))
        in_flow = (1 - timestep[0] / 1000) * latent + timestep[0] / 1000 * noise
        scale = float(view.schedule.scale(timestep[:1]))
        assert torch.allclose(in_flow / scale, noisy, atol=1e-5)
        expected = tiny.predict([Branch(noisy, rows)], torch.full((2,), own))
        assert view.own_timestep(timestep[:1]).item() == pytest.approx(own, abs=0.01)
        found = view.predict([Branch(noisy, rows)], timestep)
        assert torch.allclose(found, expected, atol=2e-4)


def test_levels_without_a_timestep(tiny):
    view = FlowView(tiny)
    assert view.highest_level == pytest.approx(0.936, abs=1e-3)
    assert view.own_timestep(torch.tensor([0, 3])).tolist()[0] == 0
    with pytest.raises(
        ValueError, match=r"tiny needs levels up to 0.936, got 0.940; lower the top"
    ):
        view.own_timestep(torch.tensor([940]))


class WatchedPrior:
    """Keeps the timesteps that it is asked at."""

    def __init__(self, prior):
        self._prior, self.timesteps = prior, []

    def __getattr__(self, name):
        return getattr(self._prior, name)

    def predict(self, branches, timestep, **options):
        self.timesteps.append(float(timestep[0]))
        return self._prior.predict(branches, timestep, **options)


def test_every_arm_edits_through_the_flow_at_its_own_settings(tiny, tmp_path):
    watched = WatchedPrior(tiny)
    domain = FlowVideoDomain(watched, {"updates": 2}, Store(tmp_path))
    given = draw_video(0, "validation")
    results = {}
    for arm in domain.arms:
        if arm.method is None:
            continue
        watched.timesteps.clear()
        tuned = tuned_arm("flow-video", arm)
        job = Job(tuned)
        options = domain.options(job)
        wanted = "velocity" if arm.name.startswith("velocity") else "noise"
        assert options.values().quantity == wanted
        assert options.values().shift == tuned.options.get("shift", 1.0)
        results[arm.name] = domain.measure(job, given, Path()).row["psnr"]
        # Fractional timesteps are the view's.
        assert any(t != round(t) for t in watched.timesteps)
        assert domain.decides(job, given)["schedule"] == "flow"
    assert len({*results.values()}) == len(results)


def test_the_grid_of_an_arm_leaves_what_defines_it():
    arms = {arm.name: arm for arm in FlowVideoDomain.arms}
    assert all("shift" not in s for s in grid_of("flow-video", arms["velocity-no-shift"]).stages)
    assert any("shift" in s for s in grid_of("flow-video", arms["velocity"]).stages)
    assert {*GRIDS["flow-video"].arms} <= {*arms}
