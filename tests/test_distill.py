"""Distillation of rendered views: its gradient by the definition, and where it leads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sure_prior import SurePrior

from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import DistillSettings
from csd_nerf.distill import distill
from csd_nerf.priors.estimates import Texts

PLAIN = DistillSettings(kernel="l2", text_scale=3.0)


def views(objects, count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(objects, count, 3, 4, 4, generator=generator).requires_grad_()


def gradient(image01, settings, *, seed=3, **options):
    """Of distillation in a picture of brightness 0.7."""
    prior = options.pop("prior", None) or SurePrior()
    texts = Texts([prior.encode_text(["0.7"] * image01.shape[1])], prior.encode_text([""]))
    out = distill(
        prior,
        image01,
        texts=texts,
        settings=settings,
        randomness=SeededRandomness(torch.Generator().manual_seed(seed)),
        **options,
    )
    return torch.autograd.grad(out.loss, image01)[0], out


def slow_gradient(image01, settings, distillation, step, noise):
    """Eq. 8 in descent form by a double loop over particles, in float64."""
    schedule = SurePrior.schedule
    alpha, sigma = (float(f(torch.tensor(step))) for f in (schedule.alpha, schedule.sigma))
    objects, count = image01.shape[:2]
    x = image01.detach().double()
    z = alpha * (2 * x - 1) + sigma * noise
    estimate = {text: (z - alpha * (2 * text - 1)) / sigma for text in (0.0, 0.7)}
    guided = estimate[0.0] + settings.text_scale * (estimate[0.7] - estimate[0.0])
    n = count if objects == 1 else objects
    residual = (guided - noise).reshape(n, -1)
    x = x.reshape(n, -1)
    if distillation == "sds":
        direction = 2 * residual
    else:
        pairs = torch.tensor(
            [float((x[i] - x[j]).square().sum()) for i in range(n) for j in range(i)]
        ).double()
        h = torch.quantile(pairs, 0.5) / torch.log(torch.tensor(float(max(n, 2))).double())
        direction = torch.zeros_like(x)
        for i in range(n):
            for j in range(n):
                k = torch.exp(-(x[j] - x[i]).square().sum() / h)
                # 2: the chain rule through the encoder.
                direction[i] += 2 * k * residual[j] / n
                slope = -2 / h * (x[j] - x[i]) * k
                direction[i] -= settings.repulsion * sigma * slope / n
    return (sigma**2 / count * direction).reshape(image01.shape)


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("distillation", ["csd", "sds"])
@pytest.mark.parametrize("repulsion", [0.0, 1.0, 200.0])
def test_the_gradient_is_the_double_loop(objects, distillation, repulsion):
    settings = dataclasses.replace(PLAIN, repulsion=repulsion)
    image01 = views(objects, 4)
    fast, out = gradient(image01, settings, distillation=distillation)
    generator = torch.Generator().manual_seed(3)
    torch.randint(20, 981, (), generator=generator)
    own = 1 if objects == 1 else 4
    noise = torch.randn(own, 3, 4, 4, generator=generator).double()
    slow = slow_gradient(image01, settings, distillation, out.timestep, noise.expand(4, 3, 4, 4))
    # The median bandwidth's floor: a ten thousandth of the largest distance.
    assert torch.allclose(fast.double(), slow, rtol=2e-3, atol=1e-4 * float(slow.abs().max()))


def test_one_particle_makes_csd_sds():
    image01 = views(1, 1)
    ours, _ = gradient(image01, PLAIN)
    sds, _ = gradient(image01, PLAIN, distillation="sds")
    assert torch.equal(ours, sds)


@pytest.mark.parametrize("distillation", ["csd", "sds"])
def test_descent_leads_to_the_picture_that_the_prior_knows(distillation):
    settings = dataclasses.replace(PLAIN, text_scale=1.0, repulsion=0.0, t_range=(0.3, 0.7))
    image01 = views(1, 4)
    for step in range(200):
        towards, _ = gradient(image01, settings, seed=step, distillation=distillation)
        image01 = (image01 - 0.4 * towards).detach().requires_grad_()
    assert float((image01.detach() - 0.7).abs().max()) < 0.02


def test_repulsion_keeps_objects_apart_at_a_weight_of_its_own():
    def spread(repulsion):
        settings = dataclasses.replace(
            PLAIN, text_scale=1.0, repulsion=repulsion, t_range=(0.3, 0.7)
        )
        image01 = (0.5 + 0.01 * torch.randn(2, 2, 3, 4, 4)).requires_grad_()
        for step in range(60):
            towards, _ = gradient(image01, settings, seed=step)
            image01 = (image01 - 0.4 * towards).detach().requires_grad_()
        return float((image01[0] - image01[1]).detach().abs().mean())

    torch.manual_seed(0)
    assert spread(20.0) > 5 * spread(0.0)


class CellPrior(SurePrior):
    """A latent prior: a cell of one channel is the mean of four pixels' greens."""

    latent_channels = 1
    cell_size = 2

    def encode(self, image01):
        return torch.nn.functional.avg_pool2d(image01[:, 1:2], 2)


def test_a_latent_prior_moves_pixels_through_its_encoder_and_repulsion_acts_on_pixels():
    settings = dataclasses.replace(PLAIN, repulsion=0.0)
    image01 = views(1, 4)
    mixed, _ = gradient(image01, settings, prior=CellPrior())
    # Only what the encoder sees is moved, alike for the four pixels of a cell.
    assert float(mixed[:, :, [0, 2]].abs().max()) == 0
    assert float(mixed[:, :, 1].abs().min()) > 0
    assert torch.allclose(mixed[..., ::2, ::2], mixed[..., 1::2, 1::2])
    whole, _ = gradient(image01, dataclasses.replace(settings, repulsion=3.0), prior=CellPrior())
    apart = (whole - mixed)[0].flatten(1)
    x = image01.detach()[0].flatten(1)
    assert float(apart.view(4, 3, 16)[:, [0, 2]].abs().min()) > 0
    # A step down leads each view away from the others' mean.
    others = (x.sum(0) - x) / 3
    assert bool(((-apart * (x - others)).sum(1) > 0).all())


def test_the_features_of_the_kernel_are_asked_for_renders_once():
    seen = []

    def features(flat):
        seen.append(tuple(flat.shape))
        return flat.square()

    settings = dataclasses.replace(PLAIN, kernel="lpips")
    found, _ = gradient(views(1, 4), settings, features=features)
    plain, _ = gradient(views(1, 4), PLAIN)
    assert seen == [(4, 48)]
    assert not torch.allclose(found, plain)


@pytest.mark.parametrize("edge", [2, 4, 8])
def test_renders_of_another_size_are_resampled_for_the_prior(monkeypatch, edge):
    """A grey picture stays grey at any size, and its gradient is spread over the render."""
    seen = []

    def encode(self, image01):
        seen.append(tuple(image01.shape[-2:]))
        return 2 * image01 - 1

    monkeypatch.setattr(SurePrior, "preferred_size", edge)
    monkeypatch.setattr(SurePrior, "encode", encode)
    image01 = torch.full((1, 2, 3, 4, 4), 0.4, requires_grad=True)
    settings = dataclasses.replace(PLAIN, text_scale=1.0)
    towards, out = gradient(image01, settings, distillation="sds")
    assert seen == [(edge, edge)]
    # Each pixel of the prior's picture has the gradient 2 w (alpha / sigma) 2 (0.4 - 0.7) / views.
    at, schedule = torch.tensor(out.timestep), SurePrior.schedule
    alpha, sigma = float(schedule.alpha(at)), float(schedule.sigma(at))
    pixel = 2 * sigma**2 * alpha / sigma * 2 * (0.4 - 0.7) / 2
    assert float(towards.sum()) == pytest.approx(pixel * 2 * 3 * edge**2, rel=1e-3)
    assert bool((towards < 0).all())


def test_renders_that_are_not_finite_stop_the_run():
    image01 = torch.full((1, 2, 3, 4, 4), float("nan"), requires_grad=True)
    with pytest.raises(FloatingPointError, match=r"need to be finite.*lower the learning rate"):
        gradient(image01, PLAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_range": (0.5, 0.2)}, "t_range needs 0 <= low < high <= 1"),
        ({"repulsion": -1.0}, "repulsion can't be negative, got -1.0"),
        ({"max_batch": 0}, "max_batch needs to be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        DistillSettings(**options)
