"""Masks are carried along the motion between frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csd_nerf.media.motion import FLOW_SIZE, carry_masks, grey_frame
from csd_nerf.media.pixels import resize


def texture(height: int, width: int, *, seed: int, low: int, high: int) -> Tensor:
    """Smooth blotches, which motion can be seen by."""
    coarse = torch.randint(
        low, high, (height // 6, width // 6, 3), dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return resize(coarse, (height, width))


def square_film(count: int, *, size=(120, 200), edge=40, step=(2, 6)):
    """A textured square that moves over a textured ground; frames and true masks."""
    ground = texture(*size, seed=0, low=60, high=200)
    square = texture(edge, edge, seed=1, low=0, high=255)
    frames, masks = [], []
    for k in range(count):
        top, left = 20 + k * step[0], 10 + k * step[1]
        frame, mask = ground.clone(), torch.zeros(size)
        frame[top : top + edge, left : left + edge] = square
        mask[top : top + edge, left : left + edge] = 1
        frames.append(frame)
        masks.append(mask)
    return frames, masks


def overlap(mask: Tensor, truth: Tensor) -> float:
    """Intersection over union."""
    inside, true = mask >= 0.5, truth >= 0.5
    return float((inside & true).sum() / (inside | true).sum())


def carried(frames, masks, known):
    return [*carry_masks([grey_frame(frame) for frame in frames], known, lambda k: masks[k])]


@pytest.mark.parametrize(
    ("known", "least"),
    [
        ([4], 0.9),
        ([2, 6], 0.9),
        # More than half of its size from the nearest mask, it is found less exactly.
        ([0, 8], 0.8),
        ([0], 0.8),
        ([8], 0.8),
    ],
)
def test_a_mask_follows_a_moving_square(known, least):
    frames, masks = square_film(9, step=(1, 3))
    found = carried(frames, masks, known)
    overlaps = [overlap(*pair) for pair in zip(found, masks, strict=True)]
    assert min(overlaps) > least
    assert sum(overlaps) / len(overlaps) > 0.95
    # Without motion it would be lost.
    assert overlap(masks[0], masks[8]) < 0.3
    for number in known:
        assert torch.equal(found[number], masks[number])


def test_a_mask_of_large_frames_follows_at_their_own_size():
    frames, masks = square_film(3, size=(480, 2 * FLOW_SIZE), edge=160, step=(4, 20))
    found = carried(frames, masks, [0])
    assert found[2].shape == (480, 2 * FLOW_SIZE)
    assert overlap(found[2], masks[2]) > 0.95


def test_the_mask_of_what_stands_behind_a_moving_thing_is_carried_too():
    frames, masks = square_film(5, step=(1, 3))
    found = carried(frames, [1 - mask for mask in masks], [0])
    # What the square has left is found, and what it covers is taken off.
    assert overlap(1 - found[4], masks[4]) > 0.8
    assert overlap(found[4], 1 - masks[4]) > 0.97


def test_between_two_masks_each_counts_by_its_nearness():
    """Nothing moves, and the masks differ: the mean shows the shares."""
    frames = [texture(64, 96, seed=0, low=0, high=255)] * 5
    masks = {0: torch.zeros(64, 96), 4: torch.ones(64, 96)}
    found = torch.stack(carried(frames, masks, [0, 4]))
    torch.testing.assert_close(found[:, 32, 48], torch.tensor([0, 0.25, 0.5, 0.75, 1]))
    assert all(torch.allclose(mask, mask[0, 0]) for mask in found)


def test_before_the_first_and_after_the_last_mask_one_is_carried_alone():
    frames = [texture(64, 96, seed=0, low=0, high=255)] * 4
    masks = {1: torch.zeros(64, 96), 2: torch.ones(64, 96)}
    found = torch.stack(carried(frames, masks, [1, 2]))
    assert found.mean((1, 2)).tolist() == [0, 0, 1, 1]


def test_small_frames_are_enlarged_for_their_motion():
    frame = torch.zeros(10, 20, 3, dtype=torch.uint8)
    mask = torch.zeros(10, 20)
    mask[:5] = 1
    assert min(grey_frame(frame).shape) >= 32
    found = carried([frame] * 2, {0: mask}, [0])
    assert torch.equal(found[1], mask)
