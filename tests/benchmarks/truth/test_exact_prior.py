from __future__ import annotations

import pytest
import torch

from benchmarks.truth.choice_arms import CHOICE_ARMS, arm_options, run_arm
from benchmarks.truth.choice_scores import Judged
from benchmarks.truth.domains import Job
from benchmarks.truth.exact_prior import ExactPrior
from benchmarks.worlds.choices import draw_choice_set
from csd_nerf.priors import Branch, Prior

IMAGES, ANSWERS, SPREAD = 3, 4, 0.2


@pytest.fixture
def world() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    preferences = torch.rand(IMAGES, ANSWERS, 1, 1, generator=generator).softmax(1)
    return {
        "source01": torch.rand(IMAGES, 3, 8, 12, generator=generator),
        "truths01": torch.rand(ANSWERS, IMAGES, 3, 8, 12, generator=generator),
        "preferences": preferences.expand(-1, -1, 8, 12),
    }


def pooled(image01: torch.Tensor) -> torch.Tensor:
    """Means of squares of four pixels, from -1 to 1, by slices."""
    height, width = image01.shape[-2:]
    rows = [
        torch.stack(
            [image01[..., y : y + 4, x : x + 4].mean((-2, -1)) for x in range(0, width, 4)], -1
        )
        for y in range(0, height, 4)
    ]
    return 2 * torch.stack(rows, -2) - 1


def noise_by_autograd(
    noisy: torch.Tensor, centres: torch.Tensor, shares: torch.Tensor, alpha: float, spread: float
) -> torch.Tensor:
    """-sigma times the gradient of the log density of z, for one particle, in float64."""
    z = noisy.double().requires_grad_()
    sigma = (1 - alpha**2) ** 0.5
    variance = sigma**2 + alpha**2 * spread**2
    logs = [
        share.double().log() - (z - alpha * centre.double()).square().sum() / (2 * variance)
        for share, centre in zip(shares, centres, strict=True)
    ]
    (gradient,) = torch.autograd.grad(torch.stack(logs).logsumexp(0), z)
    return -sigma * gradient


@pytest.mark.parametrize("t", [100, 600, 950])
def test_the_estimates_are_the_scores_of_the_mixture(world, t):
    prior = ExactPrior(**world, spread=SPREAD)
    latent, rows = prior.encode_source(world["source01"])
    torch.testing.assert_close(latent, pooled(world["source01"]))
    alpha = float(prior.schedule.alpha(torch.tensor(t)).double())
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(t))
    noisy = alpha * pooled(world["truths01"][1]) + (1 - alpha**2) ** 0.5 * noise
    texts = {name: prior.encode_text([name]) for name in ("", "change it")}
    branches = [
        Branch(noisy, {**texts["change it"], **rows}),
        Branch(noisy, {**texts[""], **rows}),
        Branch(noisy, texts[""]),
    ]
    found = prior.predict(branches, torch.full((IMAGES,), t))
    for i in range(IMAGES):
        answers = pooled(world["truths01"])[:, i]
        shares = world["preferences"][i, :, 0, 0]
        one = torch.ones(1)
        expected = [
            noise_by_autograd(noisy[i], answers, shares, alpha, SPREAD),
            noise_by_autograd(noisy[i], latent[i][None], one, alpha, SPREAD),
            noise_by_autograd(noisy[i], torch.zeros(1, *latent[i].shape), one, alpha, 1.0),
        ]
        for estimate, right in zip(found[:, i], expected, strict=True):
            torch.testing.assert_close(estimate.double(), right, atol=2e-4, rtol=1e-3)


def test_an_image_is_known_by_its_content_wherever_it_stands(world):
    prior = ExactPrior(**world)
    _, rows = prior.encode_source(world["source01"])
    _, turned = prior.encode_source(world["source01"].flip(0))
    assert turned["condition"].equal(rows["condition"].flip(0))


def test_a_window_has_the_answers_of_its_place(world):
    prior = ExactPrior(**world)
    _, rows = prior.encode_source(world["source01"])
    latent, windows = prior.encode_source(world["source01"][1:2, :, 4:8, 4:12])
    torch.testing.assert_close(latent, pooled(world["source01"])[1:2, :, 1:2, 1:3])
    assert windows["condition"].equal(rows["condition"][1:2, :, 1:2, 1:3])


def test_it_is_a_prior(world):
    prior = ExactPrior(**world)
    assert isinstance(prior, Prior)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(prior.decode(prior.encode(flat)), flat)
    assert prior.decode(torch.full((1, 3, 2, 2), 9.0)).max() == 1


def test_a_panorama_s_windows_prefer_what_their_tiles_prefer():
    given = draw_choice_set("panorama", 0, "validation")
    prior = ExactPrior.of(given)
    for tile in (0, 2, 5):
        _, rows = prior.encode_source(given.source01[tile : tile + 1, :, 16:80])
        count = len(given.answers)
        shares = rows["condition"][0, 3 + 3 * count :].mean((1, 2)).softmax(0)
        torch.testing.assert_close(shares, given.preferences[tile], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def agreement() -> dict[str, torch.Tensor]:
    """Share of agreeing images of each arm in 32 runs, through the real editor."""
    names = ("none-own-noise", "none-shared-noise", "stein-own-noise", "patch-own-noise")
    arms = [arm for arm in CHOICE_ARMS if arm.name in names]
    found: dict[str, list[float]] = {name: [] for name in names}
    for medium in ("views", "video"):
        for position in range(2):
            given = draw_choice_set(medium, position, "validation")
            prior = ExactPrior.of(given)
            for arm in arms:
                for seed in range(8):
                    job = Job(arm, seed=seed)
                    options = arm_options(job, {"updates": 6}, exact=True)
                    # Few updates at random timesteps show the effect of mixing in the least time.
                    options["t_order"] = "random"
                    image01 = run_arm(prior, given, job, options).image01
                    judged = Judged(image01, given.truths01, given.source01, given.region)
                    found[arm.name].append(judged.agreement())
    return {name: torch.tensor(shares) for name, shares in found.items()}


@pytest.mark.parametrize("arm", ["none-shared-noise", "stein-own-noise", "patch-own-noise"])
def test_shared_noise_and_mixing_make_images_agree(agreement, arm):
    """The paper's promise, by more than two standard errors of the paired difference."""
    gained = agreement[arm] - agreement["none-own-noise"]
    assert len(gained) == 32
    error = float(gained.std()) / 32**0.5
    assert float(gained.mean()) > 2 * error
