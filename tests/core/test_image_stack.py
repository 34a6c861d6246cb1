"""Stacks of images: which are drawn, and how far they move."""

from __future__ import annotations

import pytest
import torch

from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.randomness import SeededRandomness

EDITABLE = torch.zeros(5, 2, 3)
EDITABLE[0] = 1
EDITABLE[2, 1, 1] = 0.25
EDITABLE[4, 0] = 0.5


def make(**options) -> ImageStack:
    latent = torch.randn(5, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    return ImageStack(latent.clone(), latent, {}, **options)


def test_a_step_is_that_of_a_slow_loop_over_cells():
    stack = make(editable=EDITABLE)
    step = torch.randn(2, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    expected = stack.latent.double().clone()
    for image, own in zip((4, 2), step, strict=True):
        for row in range(2):
            for column in range(3):
                factor = float(EDITABLE[image, row, column])
                expected[image, :, row, column] -= factor * own[:, row, column].double()
    stack.descend(torch.tensor([4, 2]), step)
    assert torch.allclose(stack.latent.double(), expected, atol=1e-6)


@pytest.mark.parametrize("batch", [None, 1, 2, 3, 9])
@pytest.mark.parametrize("drawing", ["balanced", "uniform"])
def test_images_of_which_nothing_may_change_are_never_drawn(batch, drawing):
    stack = make(editable=EDITABLE, batch_size=batch, drawing=drawing)
    source = SeededRandomness(torch.Generator().manual_seed(0))
    iterations = stack.iterations_for(40)
    for _ in range(iterations):
        index = stack.draw_batch(source)
        stack.descend(index, torch.zeros(len(index), 2, 2, 3))
    # Three of the five images may change, and are updated as often as is foretold.
    assert stack.updates[[1, 3]].tolist() == [0, 0]
    counts = stack.updates[[0, 2, 4]].double()
    if drawing == "balanced":
        assert counts.tolist() == [40, 40, 40]
        assert iterations == 40 * stack.batches_per_sweep
    assert float(counts.mean()) == pytest.approx(40, abs=1)
    assert counts.min() > 20


def test_if_nothing_may_change_nothing_is_drawn():
    stack = make(editable=torch.zeros(5, 2, 3), batch_size=2, drawing="balanced")
    assert len(stack.draw_batch(SeededRandomness(torch.Generator()))) == 0
    assert stack.iterations_for(10) == 10
