"""What the denoisers are trained to predict, against diffusers' scheduler and the formula."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from training import denoising, tiny_text_prior, unet


class Answering:
    """A U-Net that gives a prepared answer and remembers what it was shown."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, shown, timestep, *, encoder_hidden_states):
        self.shown = shown
        return SimpleNamespace(sample=self.answer)


def batch(seed=0):
    clean, noise = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return clean, noise, torch.tensor([0, 250, 600, 999])


@pytest.mark.parametrize("module", [unet, tiny_text_prior])
def test_the_target_is_the_velocity_of_the_model_s_own_scheduler(module):
    """v = alpha e - sigma x in float64 gives no loss; its negative, e and x do."""
    scheduler = module.build_scheduler()
    clean, noise, timestep = batch()
    squares = scheduler.alphas_cumprod[timestep].double().view(-1, 1, 1, 1)
    alpha, sigma = squares.sqrt(), (1 - squares).sqrt()
    velocity = (alpha * noise - sigma * clean).float()
    text = torch.zeros(4, 1, 1)

    def loss(answer):
        return float(
            denoising.velocity_loss(Answering(answer), scheduler, clean, noise, timestep, text)
        )

    assert loss(velocity) < 1e-10
    # Further channels of the output have no say.
    assert loss(torch.cat([velocity, torch.ones_like(velocity)], dim=1)) < 1e-10
    for wrong in (-velocity, noise, clean, (sigma * noise - alpha * clean).float()):
        assert loss(wrong) > 0.1


def test_the_unet_sees_the_noisy_latent_and_beside_it_the_condition():
    scheduler = unet.build_scheduler()
    clean, noise, timestep = batch()
    condition = torch.full((4, 2, 5, 5), 7.0)
    seen = Answering(clean)
    denoising.velocity_loss(
        seen, scheduler, clean, noise, timestep, torch.zeros(4, 1, 1), condition=condition
    )
    squares = scheduler.alphas_cumprod[timestep].view(-1, 1, 1, 1)
    assert torch.allclose(seen.shown[:, :3], squares.sqrt() * clean + (1 - squares).sqrt() * noise)
    assert torch.equal(seen.shown[:, 3:], condition)


def test_a_cell_counts_as_often_as_its_weight_says():
    scheduler = unet.build_scheduler()
    clean, noise, timestep = batch()
    answer = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    weight = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(6))
    squares = (answer - scheduler.get_velocity(clean, noise, timestep)).double().square()
    expected = sum(
        float(weight[i, 0, y, x] * squares[i, :, y, x].sum())
        for i in range(4)
        for y in range(5)
        for x in range(5)
    )
    found = denoising.velocity_loss(
        Answering(answer), scheduler, clean, noise, timestep, torch.zeros(4, 1, 1), weight=weight
    )
    assert float(found) == pytest.approx(expected / squares.numel(), rel=1e-5)


@pytest.mark.parametrize("module", [unet, tiny_text_prior])
def test_each_trainer_trains_by_this_loss(module):
    assert module.velocity_loss is denoising.velocity_loss
    assert module.train_denoiser is denoising.train_denoiser
