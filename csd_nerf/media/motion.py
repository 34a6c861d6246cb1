"""Carries masks from some frames of a film to the others, along the motion between them.

The motion is dense optical flow (DIS; Kroeger et al. 2016; in OpenCV). A flow (x, y) at a pixel of
one frame points to where the same thing is in another. Flows are smooth, so that at the border of
what moves they say little; there the brightness of the two frames decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

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
_BORDER = 8.0
"""Pixels by which a flow at a border is blurred: a patch of DIS."""

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
    known = small.astype(np.float32, copy=False)
    first = last = frames[start].numpy()
    back = np.zeros((height, width, 2), np.float32)
    for number in numbers:
        frame = frames[number].numpy()
        # From the sum of all steps, since a flow is found only near to what it starts from; and
        # then between the two frames themselves, since errors of the steps would add up.
        step = _flow(frame, last)
        back = _flow(frame, first, step + _looked_up(back, step))
        yield _moved(known, frame, first, back)
        last = frame


def _moved(mask: _Mask, frame: NDArray[np.uint8], first: NDArray[np.uint8], back: _Flow) -> _Mask:
    """The mask of the frame `first` in another frame, by the flow from there to it.

    A flow is smooth and so is wrong near to a border. There two hypotheses are weighed: that a
    pixel moves as the nearest pixels inside do, or as those outside. The first fails if it leads to
    outside of the mask, the second if it leads inside. If neither fails, that holds which leads to
    the more similar brightness.
    """
    rough = _looked_up(mask, back) >= 0.5
    if rough.all() or not rough.any():
        return rough.astype(np.float32)
    inner, outer = _flow_of(rough, back), _flow_of(~rough, back)
    from_inside = _looked_up(mask, inner) >= 0.5
    from_outside = _looked_up(mask, outer) < 0.5
    off_inner, off_outer = (_difference(frame, first, flow) for flow in (inner, outer))
    inside = from_inside & (~from_outside | (off_inner < off_outer))
    # Neither holds for what was hidden in `first`, by the smaller of the two parts.
    inside |= ~from_inside & ~from_outside & bool(rough.mean() > 0.5)
    # As far from the border as the flow can be wrong.
    reach = np.linalg.norm(inner - outer, axis=-1) + _BORDER
    near = np.maximum(_depth(rough), _depth(~rough)) <= reach
    inside = np.where(near, inside, rough).astype(np.uint8)
    return cv2.medianBlur(inside, 3).astype(np.float32)


def _flow_of(part: NDArray[np.bool_], flow: _Flow) -> _Flow:
    """At each pixel the flow of the nearest pixel that lies well within a part of the frame."""
    from scipy import ndimage

    depth = _depth(part)
    core = depth >= min(_BORDER, depth.max())
    found: Any = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    return flow[found[0], found[1]]


def _depth(part: NDArray[np.bool_]) -> _Mask:
    """Distance of each pixel of a part from its border; 0 outside."""
    depth = cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    return depth.astype(np.float32, copy=False)


def _difference(frame: NDArray[np.uint8], first: NDArray[np.uint8], flow: _Flow) -> _Mask:
    """Mean difference in brightness around each pixel from where the flow points to."""
    off = np.abs(frame.astype(np.float32) - _looked_up(first.astype(np.float32), flow))
    return cv2.blur(off, (3, 3)).astype(np.float32, copy=False)


def _flow(frame: NDArray[np.uint8], other: NDArray[np.uint8], start: _Flow | None = None) -> _Flow:
    """The flow from a frame to another, sought from `start` or from no motion."""
    measure = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # At the full size: borders of small things would be lost at half of it.
    measure.setFinestScale(0)
    flow = np.zeros((*frame.shape, 2), np.float32) if start is None else start.copy()
    return measure.calc(frame, other, flow).astype(np.float32, copy=False)


def _looked_up(values: NDArray[np.float32], flow: _Flow) -> NDArray[np.float32]:
    """Values where the flow points to, bilinear; beyond the edges those of the edge."""
    rows, columns = np.indices(flow.shape[:2]).astype(np.float32)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    found = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.astype(np.float32, copy=False)
