"""Carries masks from some frames of a film to the others, along the motion between them.

The motion is dense optical flow (DIS; Kroeger et al. 2016; in OpenCV) between neighbouring frames,
in both directions. Where the two disagree, a pixel was hidden in the frame that the mask comes from
(Sundaram et al. 2010, Eq. 5). Such a pixel takes the mask of the nearest pixel that moves as it
does. A flow (x, y) at a pixel of one frame points to where the same thing is in the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from csd_nerf.media.pixels import resize

FLOW_SIZE = 640
"""Longest edge in pixels at which motion is measured and masks are carried."""
_LEAST = 32
"""Shortest edge at which it is measured, for patches of a few scales."""
_MOTION_WEIGHT = 4.0
"""Distance in pixels that counts as much as a difference of one pixel in motion."""
_BAND = 15
"""Pixels around hidden ones of which the nearest is sought."""

_Mask = NDArray[np.float32]
_Flow = NDArray[np.float32]


def grey_frame(frame: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "h w"]:
    """A frame as motion is measured on it: grey, and small enough that a whole film is kept."""
    scale = min(1.0, FLOW_SIZE / max(frame.shape[:2]))
    height, width = (max(_LEAST, round(scale * edge)) for edge in frame.shape[:2])
    small = resize(frame, (height, width), by="box" if scale < 1 else "bilinear")
    return torch.from_numpy(cv2.cvtColor(small.numpy(), cv2.COLOR_RGB2GRAY))


def carry_masks(
    frames: Sequence[UInt8[Tensor, "h w"]],
    known: Sequence[int],
    read: Callable[[int], Float[Tensor, "H W"]],
) -> Iterator[Float[Tensor, "H W"]]:
    """Yield a mask for each frame.

    A frame without one takes those of the nearest frames before and after that have one, carried
    along the motion. If both are there, the mean is taken: of n frames between two masks, in the
    k-th the mask before counts by 1 - k / (n + 1), and the mask after by the rest.

    Args:
        frames: The frames, from `grey_frame`.
        known: Numbers of the frames that have a mask, ascending, at least one.
        read: Returns such a frame's mask, of the frames' own size.
    """
    for before, after in itertools.pairwise([None, *known, None]):
        size, earlier, later = None, None, None
        if before is not None:
            mask = read(before)
            yield mask
            size, earlier = mask.shape, mask
        if after is not None:
            later = read(after)
            size = later.shape
        first = 0 if before is None else before + 1
        between = range(first, len(frames) if after is None else after)
        backwards = [*_carried(frames, later, after, reversed(between))][::-1]
        forwards = _carried(frames, earlier, before, between)
        for number in between:
            parts, shares = [], []
            if before is not None:
                parts.append(next(forwards))
                shares.append(1.0 if after is None else after - number)
            if after is not None:
                parts.append(backwards[number - first])
                shares.append(1.0 if before is None else number - before)
            mean = np.average(np.stack(parts), axis=0, weights=shares).astype(np.float32)
            assert size is not None, "there is at least one mask"
            yield torch.from_numpy(cv2.resize(mean, (size[1], size[0])))


def _carried(
    frames: Sequence[UInt8[Tensor, "h w"]],
    mask: Float[Tensor, "H W"] | None,
    start: int | None,
    numbers: Iterable[int],
) -> Iterator[_Mask]:
    """The mask of the frame `start` in each of the frames that follow it, either way in time."""
    if mask is None or start is None:
        return
    height, width = frames[start].shape
    small = cv2.resize(mask.numpy(), (width, height), interpolation=cv2.INTER_AREA)
    moved = small.astype(np.float32)
    frame = frames[start].numpy()
    for number in numbers:
        other = frames[number].numpy()
        moved = _moved(moved, _flow(other, frame), _flow(frame, other))
        yield moved
        frame = other


def _moved(mask: _Mask, back: _Flow, forth: _Flow) -> _Mask:
    """The mask of a frame in its neighbour, from the flows from the neighbour and to it."""
    result = _looked_up(mask, back)
    again = _looked_up(forth, back)
    squares = (back**2).sum(-1) + (again**2).sum(-1)
    hidden = ((back + again) ** 2).sum(-1) > 0.01 * squares + 0.5
    _fill(result, hidden, back)
    # Looking up blurs the border a little each time.
    return np.clip(2 * result - 0.5, 0, 1)


def _fill(mask: _Mask, hidden: NDArray[np.bool_], flow: _Flow) -> None:
    """Give hidden pixels the mask of the nearest other pixel that moves alike, in place."""
    from scipy.spatial import KDTree

    near = cv2.dilate(hidden.astype(np.uint8), np.ones((2 * _BAND + 1,) * 2, np.uint8)) > 0
    seen = near & ~hidden
    if not hidden.any() or not seen.any():
        return

    def places(chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        found = np.concatenate([np.argwhere(chosen), _MOTION_WEIGHT * flow[chosen]], axis=1)
        return found.astype(np.float32)

    _, nearest = KDTree(places(seen)).query(places(hidden))
    mask[hidden] = mask[seen][nearest]


def _flow(frame: NDArray[np.uint8], other: NDArray[np.uint8]) -> _Flow:
    """The flow from a frame to another."""
    measure = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # At the full size: borders of small things would be lost at half of it.
    measure.setFinestScale(0)
    flow = measure.calc(frame, other, np.zeros((*frame.shape, 2), np.float32))
    return flow.astype(np.float32, copy=False)


def _looked_up(values: NDArray[np.float32], flow: _Flow) -> NDArray[np.float32]:
    """Values where the flow points to, bilinear; beyond the edges those of the edge."""
    rows, columns = np.indices(flow.shape[:2]).astype(np.float32)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    found = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.astype(np.float32, copy=False)
