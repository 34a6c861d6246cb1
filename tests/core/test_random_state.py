"""Random numbers go on where they were, through a file that torch.load calls safe."""

from __future__ import annotations

import io
import random

import numpy as np
import torch

from csd_nerf.core.random_state import random_state, restore_random_state


def draw() -> list[float]:
    numbers = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]
    return [*numbers, float(torch.rand(()))]


def test_what_is_drawn_after_a_state_is_restored_is_what_was_drawn_before():
    # An odd count of Gaussians: both generators keep one back for the next call.
    draw()
    file = io.BytesIO()
    torch.save(random_state(), file)
    first, second = draw(), draw()
    file.seek(0)
    restore_random_state(torch.load(file, weights_only=True))
    assert draw() == first
    assert draw() == second
