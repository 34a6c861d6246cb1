"""The list of all measures, and the function that computes them in one pass over the frames.

Every table reads this list. To add a measure, add an entry to `MEASURES`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from csd_nerf.evaluation import clip
from csd_nerf.evaluation.comparison import Comparison, Sample, samples
from csd_nerf.evaluation.consistency import extra_change, flicker, seam_step
from csd_nerf.evaluation.needs import (
    BORDERS,
    CAPTIONS,
    CLIP,
    INCEPTION,
    LPIPS,
    SOURCE_LIKE_EDIT,
    TRUTH,
    TRUTH_LIKE_EDIT,
    TRUTH_LIKE_SOURCE,
    TWO_FRAMES,
    VIEWS,
    Need,
)
from csd_nerf.evaluation.similarity import frame_lpips, mean_of_finite, psnr, ssim
from csd_nerf.evaluation.tables import Column

Image01 = Float[Tensor, "n 3 h w"]


@dataclass(frozen=True, kw_only=True)
class Measure(Column):
    """A number that is measured of an edit, and its column in tables.

    `function` is called only if a comparison meets all `needs`. It must be deterministic, must not
    depend on which other measures are computed, and must not change its argument.

    - `over="frame"`: it is called with a `Sample` for each frame; the value is the mean over
      frames. A sample holds `source01`, `edited01` and, if `needs` contains `TRUTH`, `truth01`: RGB
      images in [0, 1] of shape (1, 3, height, width). Their sizes may differ, unless `needs`
      contains `TRUTH_LIKE_EDIT`, `TRUTH_LIKE_SOURCE` or `SOURCE_LIKE_EDIT`.
    - `over="pair"`: it is called with a `Sample` for each two consecutive frames, with images of
      shape (2, 3, height, width); the value is the mean over pairs. `needs` must contain
      `TWO_FRAMES`.
    - `over="edit"`: it is called once with the whole `Comparison`, for measures of all frames.

    If the value is not defined, `function` returns infinity or NaN; the measure is then left out
    for the reason `undefined`. A function of samples may raise ValueError if images are too small;
    the message is then the reason.

    Example:
        How much the edit changes each pixel:

        >>> change = Measure(
        ...     "change",
        ...     "change, 1/1000",
        ...     scale=1000,
        ...     needs=(SOURCE_LIKE_EDIT,),
        ...     function=lambda sample: float((sample.edited01 - sample.source01).abs().mean()),
        ... )
        >>> import torch
        >>> from csd_nerf.evaluation.inputs import ImageSequence
        >>> from csd_nerf.evaluation.networks import Networks
        >>> black, grey = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5)
        >>> source, edited = ImageSequence.of(black), ImageSequence.of(grey)
        >>> comparison = Comparison(source, edited, Networks(clip=None))
        >>> measure(comparison, [change])
        ({'change': 0.5}, {})
    """

    function: Callable[[Any], float]
    """Computes the value from a `Sample`, or with over="edit" from a `Comparison`."""
    needs: tuple[Need, ...] = ()
    """Conditions of the measure, checked in this order; the first that fails is the reason
    reported."""
    over: Literal["frame", "pair", "edit"] = "frame"
    """Whether `function` is called per frame, per pair of consecutive frames, or once."""
    work_size: bool = False
    """Resize samples to the size at which the edit was computed, if the edit's record holds it."""
    undefined: str = "it has no finite value"
    """Reason that is reported if the value is infinite or NaN."""


def _to_truth(
    key: str,
    heading: str,
    function: Callable[[Sample, Image01], float],
    *,
    better: Literal["higher", "lower"],
    unit: str = "",
    needs: tuple[Need, ...] = (),
    **options: Any,
) -> tuple[Measure, Measure]:
    """Two measures: of the source against the truth, as a reference, and of the edit."""
    source = Measure(
        f"{key}_source",
        f"{heading} of the source{unit}",
        needs=(TRUTH, TRUTH_LIKE_SOURCE, *needs),
        function=lambda sample: function(sample, sample.source01),
        **options,
    )
    edited = Measure(
        f"{key}_edited",
        f"{heading}{unit}",
        better=better,
        needs=(TRUTH, TRUTH_LIKE_EDIT, *needs),
        function=lambda sample: function(sample, sample.edited01),
        **options,
    )
    return source, edited


def _lpips(sample: Sample, image01: Image01) -> float:
    return float(sample.comparison.networks.lpips(image01, sample.truth01).mean())


def _clip_direction(of: Comparison) -> float:
    return clip.directional_similarity(of.source_features, of.edited_features, *of.caption_features)


def _seams(sample: Sample) -> float:
    assert sample.comparison.borders is not None
    borders, cell = sample.comparison.borders
    return seam_step(sample.edited01[0], sample.truth01[0], borders, cell_size=cell)


def _cross_view(which: Literal["source", "edited", "seen"], heading: str, **column: Any) -> Measure:
    return Measure(
        f"cross_view_{which}",
        heading,
        needs=(SOURCE_LIKE_EDIT, VIEWS, TWO_FRAMES),
        over="edit",
        function=lambda of: getattr(of.cross_view, which),
        undefined="no two neighbouring views see the same place",
        **column,
    )


MEASURES: tuple[Measure, ...] = (
    *_to_truth(
        "psnr",
        "PSNR",
        lambda sample, image01: psnr(image01, sample.truth01),
        better="higher",
        unit=", dB",
        digits=2,
        undefined="it equals the truth: the PSNR is infinite",
    ),
    *_to_truth(
        "ssim",
        "SSIM",
        lambda sample, image01: ssim(image01, sample.truth01, wrap=sample.comparison.wrap),
        better="higher",
        digits=3,
    ),
    *_to_truth("lpips", "LPIPS", _lpips, better="lower", needs=(LPIPS,), digits=3),
    Measure(
        "clip_direction",
        "CLIP direction",
        digits=3,
        better="higher",
        needs=(CLIP, CAPTIONS),
        over="edit",
        function=_clip_direction,
    ),
    Measure(
        "clip_text",
        "CLIP text",
        digits=3,
        better="higher",
        needs=(CLIP, CAPTIONS),
        over="edit",
        function=lambda of: clip.text_similarity(of.edited_features, of.caption_features[1]),
    ),
    Measure(
        "clip_source",
        "CLIP source",
        digits=3,
        better="higher",
        needs=(CLIP,),
        over="edit",
        function=lambda of: clip.image_similarity(of.source_features, of.edited_features),
    ),
    Measure(
        "clip_consistency",
        "CLIP consistency",
        digits=3,
        better="higher",
        needs=(TWO_FRAMES, CLIP),
        over="edit",
        function=lambda of: clip.image_consistency(of.edited_features),
    ),
    Measure(
        "frame_lpips",
        "LPIPS of frames",
        digits=3,
        better="lower",
        needs=(TWO_FRAMES, LPIPS),
        over="pair",
        function=lambda pair: frame_lpips(pair.comparison.networks.lpips, pair.edited01),
    ),
    Measure(
        "flicker",
        "flicker, 1/1000",
        scale=1000,
        better="lower",
        needs=(TRUTH, TRUTH_LIKE_EDIT, TWO_FRAMES),
        over="pair",
        work_size=True,
        function=lambda pair: flicker(pair.edited01, pair.truth01),
    ),
    Measure(
        "extra_change",
        "extra change, 1/1000",
        scale=1000,
        needs=(SOURCE_LIKE_EDIT, TWO_FRAMES),
        over="pair",
        work_size=True,
        function=lambda pair: extra_change(pair.edited01, pair.source01),
    ),
    Measure(
        "extra_change_of_truth",
        "extra change of the truth, 1/1000",
        scale=1000,
        needs=(TRUTH, TRUTH_LIKE_SOURCE, TWO_FRAMES),
        over="pair",
        work_size=True,
        function=lambda pair: extra_change(pair.truth01, pair.source01),
    ),
    Measure(
        "seams",
        "seams, 1/1000",
        scale=1000,
        better="lower",
        needs=(TRUTH, TRUTH_LIKE_EDIT, BORDERS),
        work_size=True,
        function=_seams,
    ),
    _cross_view("source", "cross-view error of the source, 1/1000", scale=1000),
    _cross_view("edited", "cross-view error, 1/1000", scale=1000, better="lower"),
    _cross_view("seen", "share of pixels compared", digits=2),
    Measure(
        "fid",
        "FID",
        better="lower",
        needs=(TWO_FRAMES, INCEPTION),
        over="edit",
        function=lambda of: of.networks.fid(of.edited),
    ),
)
"""All measures, in the order of the columns. PSNR, SSIM and LPIPS compare with the truth,
`clip_source` with the source. The docstrings of the functions define the measures."""


def named(*keys: str) -> tuple[Measure, ...]:
    """The measures with these keys."""
    by_key = {measure.key: measure for measure in MEASURES}
    return tuple(by_key[key] for key in keys)


def measure(
    comparison: Comparison, measures: Sequence[Measure] = MEASURES
) -> tuple[dict[str, float], dict[str, str]]:
    """Compute measures of an edit, in one pass over its frames.

    Returns:
        The values by the measures' keys, and the reasons for measures that are left out.

    Raises:
        ValueError: If frames of one input differ in size, or a view's depth can't be read.
    """
    left_out: dict[str, str] = {}
    for item in measures:
        reasons = (need(comparison) for need in item.needs)
        if (reason := next((text for text in reasons if text is not None), None)) is not None:
            left_out[item.key] = reason
    wanted = [item for item in measures if item.key not in left_out]
    values = _over_samples(comparison, [i for i in wanted if i.over != "edit"], left_out)
    values |= {item.key: item.function(comparison) for item in wanted if item.over == "edit"}
    for item in measures:
        if not math.isfinite(values.get(item.key, 0)):
            left_out[item.key] = item.undefined
    order = [item.key for item in measures]
    return (
        {key: values[key] for key in order if key in values and key not in left_out},
        {key: left_out[key] for key in order if key in left_out},
    )


def _over_samples(
    comparison: Comparison, measures: Sequence[Measure], left_out: dict[str, str]
) -> dict[str, float]:
    """Means over frames or pairs; measures that raise ValueError are added to `left_out`."""
    found: dict[str, list[float]] = defaultdict(list)
    before: Sample | None = None
    for frame in samples(comparison) if measures else ():
        given = _given(before, frame)
        for item in measures:
            sample = given.get((item.over, item.work_size))
            if sample is None or item.key in left_out:
                continue
            try:
                value = item.function(sample)
            except ValueError as error:
                left_out[item.key] = str(error)
            else:
                found[item.key].append(value)
        before = frame
    return {key: mean_of_finite(values) for key, values in found.items()}


def _given(before: Sample | None, now: Sample) -> dict[tuple[str, bool], Sample]:
    """The samples at a frame for the functions of measures, by `over` and `work_size`."""
    small = now.at_work_size
    given = {("frame", False): now, ("frame", True): small}
    if before is not None:
        pair = before.and_next(now)
        same = small is now
        small_pair = pair if same else before.at_work_size.and_next(small)
        given |= {("pair", False): pair, ("pair", True): small_pair}
    return given
