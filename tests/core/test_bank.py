from __future__ import annotations

import pytest
import torch

from csd_nerf.core.bank import SourceBank, draw
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.window_canvas import WindowCanvas


def bank(pairs=8, *, seed=3, bounds=(20, 500), size=5):
    return SourceBank.drawn(pairs, seed=seed, bounds=bounds, size=size)


def test_each_part_of_the_timesteps_has_one_pair():
    """480 timesteps in 8 parts of 60."""
    seen = [bank(seed=seed, bounds=(20, 499)).timesteps.tolist() for seed in range(400)]
    for timesteps in seen:
        assert [(t - 20) // 60 for t in timesteps] == [*range(8)]
    assert min(t[0] for t in seen) == 20
    assert max(t[-1] for t in seen) == 499


def test_one_pair_has_any_timestep():
    assert {int(bank(1, seed=seed, bounds=(3, 5)).timesteps) for seed in range(40)} == {3, 4, 5}


def test_a_seed_repeats_the_pairs_and_another_one_does_not():
    first, again, other = bank(), bank(), bank(seed=4)
    assert torch.equal(first.timesteps, again.timesteps)
    for pair in range(8):
        assert torch.equal(first.randomness(pair).normal((9,)), again.randomness(pair).normal((9,)))
        assert not torch.equal(
            first.randomness(pair).normal((9,)), other.randomness(pair).normal((9,))
        )
    noises = torch.stack([first.randomness(pair).normal((4000,)) for pair in range(8)])
    assert torch.allclose(noises.corrcoef(), torch.eye(8), atol=0.08)


def test_pairs_of_a_band_are_those_within_it_or_the_nearest():
    some = SourceBank(torch.tensor([10, 20, 30, 40]), torch.arange(4), 1)
    assert some.within(10, 40) == (0, 3)
    assert some.within(11, 39) == (1, 2)
    assert some.within(20, 20) == (1, 1)
    assert some.within(21, 24) == (1, 1)
    assert some.within(26, 29) == (2, 2)
    assert some.within(80, 90) == (3, 3)


def test_errors_are_kept_for_their_particles_and_pairs_in_half_precision():
    some, errors = bank(), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    index = torch.tensor([4, 1])
    assert some.missing(2, torch.tensor([1, 2, 4])).tolist() == [0, 1, 2]
    some.keep(2, index, errors)
    assert some.missing(2, torch.tensor([1, 2, 4])).tolist() == [1]
    assert some.missing(3, index).tolist() == [0, 1]
    read = some.read(2, index)
    assert read.dtype == torch.float32
    assert torch.equal(read, errors.half().float())
    assert torch.equal(some.read(2, index.flip(0)), read.flip(0))


def canvas(kind, drawing):
    torch.manual_seed(0)
    if kind == "stack":
        return ImageStack(torch.randn(6, 2, 4, 4), torch.randn(6, 2, 4, 4), {}, 3, drawing=drawing)
    whole = torch.randn(2, 9, 12)
    return WindowCanvas(whole, whole.clone(), {}, (4, 4), 2, 3, drawing=drawing)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("drawing", ["uniform", "balanced"])
@pytest.mark.parametrize("kind", ["stack", "windows"])
def test_a_particle_has_the_same_noise_for_a_pair_in_every_batch(kind, drawing, shared):
    some, pairs = canvas(kind, drawing), bank(2, size=99)
    randomness = SeededRandomness(torch.Generator().manual_seed(0))
    seen: dict[tuple[int, int], torch.Tensor] = {}
    met = 0
    for _ in range(40):
        index = some.draw_batch(randomness)
        drawn = draw(some, index, randomness, pairs, (20, 500), shared=shared)
        assert drawn.timestep == pairs.timesteps[drawn.pair]
        assert len(drawn.noise) == len(index)
        for particle, noise in zip(index.tolist(), drawn.noise, strict=True):
            key = (drawn.pair, particle)
            met += key in seen
            assert torch.equal(seen.setdefault(key, noise), noise)
    assert met > 20
    everything = torch.stack([*seen.values()])
    assert everything.std() == pytest.approx(1, abs=0.1)
    different = 2 if shared and kind == "stack" else len(seen)
    assert len(everything.flatten(1).unique(dim=0)) == different


def test_without_a_bank_all_is_drawn_anew():
    some = canvas("stack", "uniform")
    randomness = SeededRandomness(torch.Generator().manual_seed(0))
    drawn = [
        draw(some, torch.arange(3), randomness, None, (20, 500), shared=True) for _ in range(9)
    ]
    assert {one.pair for one in drawn} == {None}
    assert len({one.timestep for one in drawn}) > 5
    assert not torch.equal(drawn[0].noise, drawn[1].noise)
