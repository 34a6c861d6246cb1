"""All measures of one edit, in one pass over its frames."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.evaluation.consistency import extra_change, flicker, seam_step
from csd_nerf.evaluation.cross_view import cross_view_error
from csd_nerf.evaluation.media import Media, at_work_size, find_borders
from csd_nerf.evaluation.similarity import frame_lpips, psnr, ssim
from csd_nerf.evaluation.tables import Column
from csd_nerf.synthetic.edits import Edit

if TYPE_CHECKING:
    from csd_nerf.evaluation.clip import Clip
    from csd_nerf.evaluation.similarity import Lpips

COLUMNS = (
    Column("psnr_source", "PSNR of the source, dB", digits=2),
    Column("psnr_edited", "PSNR, dB", digits=2, better="higher"),
    Column("ssim_source", "SSIM of the source", digits=3),
    Column("ssim_edited", "SSIM", digits=3, better="higher"),
    Column("lpips_source", "LPIPS of the source", digits=3),
    Column("lpips_edited", "LPIPS", digits=3, better="lower"),
    Column("clip_direction", "CLIP direction", digits=3, better="higher"),
    Column("clip_text", "CLIP text", digits=3, better="higher"),
    Column("clip_source", "CLIP source", digits=3, better="higher"),
    Column("clip_consistency", "CLIP consistency", digits=3, better="higher"),
    Column("frame_lpips", "LPIPS of frames", digits=3, better="lower"),
    Column("flicker", "flicker, 1/1000", 1000, better="lower"),
    Column("extra_change", "extra change, 1/1000", 1000),
    Column("extra_change_of_truth", "extra change of the truth, 1/1000", 1000),
    Column("seams", "seams, 1/1000", 1000, better="lower"),
    Column("cross_view_source", "cross-view error of the source, 1/1000", 1000),
    Column("cross_view_edited", "cross-view error, 1/1000", 1000, better="lower"),
    Column("cross_view_seen", "share of pixels compared", digits=2),
    Column("fid", "FID", better="lower"),
)
"""Every measure. PSNR, SSIM and LPIPS are to the truth, `clip_source` to the source; the modules
that compute them say what they are."""

_TO_TRUTH = ("psnr_source", "psnr_edited", "ssim_source", "ssim_edited")
_LPIPS_TO_TRUTH = ("lpips_source", "lpips_edited")
_CLIP = ("clip_direction", "clip_text", "clip_source", "clip_consistency")
_CROSS_VIEW = ("cross_view_source", "cross_view_edited", "cross_view_seen")
_CHANGES = ("flicker", "extra_change", "extra_change_of_truth")

_BATCH = 16
"""Images that a network sees at once."""

Image01 = Float[Tensor, "1 3 h w"]


@dataclass(frozen=True)
class Run:
    """One edit and what it is measured against."""

    name: str
    source: Media
    edited: Media
    truth: Media | Edit | None = None
    """The true edit: frames, or a look to be applied to the source."""
    facts: dict[str, Any] = field(default_factory=dict)
    """From the record beside the edit, see `read_facts`."""

    @property
    def truth_size(self) -> tuple[int, int]:
        """Height and width of the true edit."""
        return self.truth.size if isinstance(self.truth, Media) else self.source.size


@dataclass(frozen=True)
class Networks:
    """What learned measures need; None where it isn't asked for, or is missing."""

    lpips: Lpips | None = None
    clip: Clip | None = None
    texts: Float[Tensor, "2 d"] | None = None
    """CLIP features of the captions, source and edited."""
    fid: Callable[[Media], float] | None = None
    """FID of frames to the reference."""
    missing: dict[str, str] = field(default_factory=dict)
    """For each of `lpips`, `clip` and `fid` that is None, why."""
    source_features: dict[Media, Tensor] = field(default_factory=dict)
    """CLIP features of sources that were seen already, for further edits of them."""
    device: str = "cpu"


@dataclass(frozen=True)
class Frame:
    """The same frame of all that is compared; sizes may differ."""

    source01: Float[Tensor, "1 3 source_h source_w"]
    edited01: Float[Tensor, "1 3 edited_h edited_w"]
    truth01: Float[Tensor, "1 3 truth_h truth_w"] | None


def measure(run: Run, networks: Networks) -> tuple[dict[str, float], dict[str, str]]:
    """Measure an edit.

    Returns:
        Values by the keys of `COLUMNS`, and for each that is left out the reason.

    Raises:
        ValueError: If frames of one input differ in size.
    """
    left_out = _left_out(run, networks)
    values = _over_frames(run, networks, left_out)
    if "clip_source" not in left_out:
        values |= _clip_measures(run, networks, left_out)
    if "cross_view_edited" not in left_out:
        values |= _cross_view(run)
    if networks.fid is not None and "fid" not in left_out:
        values["fid"] = networks.fid(run.edited)
    for name in [name for name, value in values.items() if not math.isfinite(value)]:
        left_out[name] = _NOT_FINITE[name.partition("_")[0]]
        del values[name]
    order = [column.key for column in COLUMNS]
    return {name: round(values[name], 5) for name in order if name in values}, {
        name: left_out[name] for name in order if name in left_out
    }


_NOT_FINITE = {
    "psnr": "it equals the truth: the PSNR is infinite",
    "cross": "no two neighbouring views see the same place",
}


def _left_out(run: Run, networks: Networks) -> dict[str, str]:
    """Measures that can't be made of this run, and why; the first reason found counts."""
    reasons: dict[str, str] = {}

    def leave(reason: str, *names: str) -> None:
        for name in names:
            reasons.setdefault(name, reason)

    against_truth = (*_TO_TRUTH, *_LPIPS_TO_TRUTH, "flicker", "extra_change_of_truth", "seams")
    if run.truth is None:
        leave("it needs --truth or --look", *against_truth)
    elif run.truth_size != run.edited.size:
        unequal = _unequal("truth", run.truth_size, run.edited.size)
        leave(unequal, "psnr_edited", "ssim_edited", "lpips_edited", "flicker", "seams")
    if run.truth is not None and run.truth_size != run.source.size:
        unequal = _unequal("truth", run.truth_size, run.source.size, "source")
        leave(unequal, "psnr_source", "ssim_source", "lpips_source", "extra_change_of_truth")
    if run.source.size != run.edited.size:
        leave(_unequal("source", run.source.size, run.edited.size), "extra_change", *_CROSS_VIEW)
    if run.edited.count < 2:
        leave("it needs two frames or more", *_CHANGES, "frame_lpips", "clip_consistency", "fid")
    if run.edited.count > 1 or find_borders(run.facts) is None:
        leave("it needs a picture with the record of csd-nerf panorama beside it", "seams")
    if run.source.views is None:
        leave(run.source.obstacle, *_CROSS_VIEW)
    if run.source.count < 2:
        leave("it needs two views or more", *_CROSS_VIEW)
    if networks.lpips is None:
        leave(networks.missing["lpips"], *_LPIPS_TO_TRUTH, "frame_lpips")
    if networks.clip is None:
        leave(networks.missing["clip"], *_CLIP)
    elif networks.texts is None:
        leave("it needs --source-caption and --edited-caption", "clip_direction", "clip_text")
    if networks.fid is None:
        leave(networks.missing["fid"], "fid")
    return reasons


def _unequal(what: str, size: tuple[int, int], other: tuple[int, int], whose: str = "edit") -> str:
    return (
        f"it needs equal sizes, got {size[1]} x {size[0]} in the {what} and {other[1]} x "
        f"{other[0]} in the {whose}; resize one"
    )


def _frames(run: Run, device: str) -> Iterator[Frame]:
    truths = run.truth if isinstance(run.truth, Media) else itertools.repeat(None)
    for source01, edited01, truth01 in zip(run.source, run.edited, truths, strict=False):
        source01, edited01 = source01.to(device), edited01.to(device)
        if isinstance(run.truth, Edit):
            yield Frame(source01, edited01, run.truth.edit_image(source01))
        else:
            yield Frame(source01, edited01, None if truth01 is None else truth01.to(device))


def _small(frame: Frame, run: Run) -> Frame:
    """A frame at the size of the edit, where its record tells it."""
    source01, edited01 = (at_work_size(i, run.facts) for i in (frame.source01, frame.edited01))
    if frame.truth01 is None:
        return Frame(source01, edited01, None)
    if isinstance(run.truth, Edit):
        return Frame(source01, edited01, run.truth.edit_image(source01))
    return Frame(source01, edited01, at_work_size(frame.truth01, run.facts))


def _over_frames(run: Run, networks: Networks, left_out: dict[str, str]) -> dict[str, float]:
    """Means over the frames, or over consecutive pairs, of what needs no more than these.

    What an image is too small for joins `left_out`.
    """
    found: dict[str, list[float]] = defaultdict(list)

    def take(name: str, function: Callable[..., float], *inputs: Any) -> None:
        if name in left_out:
            return
        try:
            value = function(*inputs)
        except ValueError as error:
            left_out[name] = str(error)
        else:
            found[name].append(value)

    before: Frame | None = None
    before_small: Frame | None = None
    for frame in _frames(run, networks.device):
        for which, image01 in (("source", frame.source01), ("edited", frame.edited01)):
            take(f"psnr_{which}", psnr, image01, frame.truth01)
            take(f"ssim_{which}", ssim, image01, frame.truth01)
            take(f"lpips_{which}", _lpips, networks.lpips, image01, frame.truth01)
        small = _small(frame, run)
        take("seams", _seams, small, run)
        if before is not None and before_small is not None:
            edited01 = torch.cat([before.edited01, frame.edited01])
            take("frame_lpips", frame_lpips, networks.lpips, edited01)
            source01, edited01, truth01 = _pairs(before_small, small)
            take("flicker", flicker, edited01, truth01)
            take("extra_change", extra_change, edited01, source01)
            take("extra_change_of_truth", extra_change, truth01, source01)
        before, before_small = frame, small
    return {name: sum(values) / len(values) for name, values in found.items()}


def _lpips(lpips: Lpips, image01: Image01, truth01: Image01) -> float:
    return float(lpips(image01, truth01).mean())


def _seams(frame: Frame, run: Run) -> float:
    known = find_borders(run.facts)
    assert known is not None
    assert frame.truth01 is not None
    borders, cell = known
    return seam_step(frame.edited01[0], frame.truth01[0], borders, period=cell)


def _pairs(before: Frame, now: Frame) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two consecutive frames of the source, the edit and the truth."""
    source01 = torch.cat([before.source01, now.source01])
    edited01 = torch.cat([before.edited01, now.edited01])
    if before.truth01 is None or now.truth01 is None:
        return source01, edited01, None
    return source01, edited01, torch.cat([before.truth01, now.truth01])


def _clip_measures(run: Run, networks: Networks, left_out: dict[str, str]) -> dict[str, float]:
    from csd_nerf.evaluation import clip

    assert networks.clip is not None
    if run.source not in networks.source_features:
        networks.source_features[run.source] = _features(networks.clip, run.source)
    source, edited = networks.source_features[run.source], _features(networks.clip, run.edited)
    values = {"clip_source": clip.image_similarity(source, edited)}
    if "clip_consistency" not in left_out:
        values["clip_consistency"] = clip.image_consistency(edited)
    if networks.texts is not None:
        source_text, edited_text = networks.texts.split(1)
        values["clip_text"] = clip.text_similarity(edited, edited_text)
        values["clip_direction"] = clip.directional_similarity(
            source, edited, source_text, edited_text
        )
    return values


def _features(clip: Clip, media: Media) -> Float[Tensor, "n d"]:
    frames = iter(media)
    parts = []
    while batch := [*itertools.islice(frames, _BATCH)]:
        parts.append(clip.image_features(torch.cat(batch), max_batch=_BATCH))
    return torch.cat(parts)


def _cross_view(run: Run) -> dict[str, float]:
    """Cross-view error of neighbours in the order of the names, two views at a time."""
    views, size = run.source.views, run.source.size
    assert views is not None
    lens = views.intrinsics(size)
    distances = (views.distance(view, size) for view in range(run.source.count))
    differences, seen = {"source": 0.0, "edited": 0.0}, []
    posed = zip(distances, run.source, run.edited, strict=True)
    for first, (before, now) in enumerate(itertools.pairwise(posed)):
        two = slice(first, first + 2)
        distance = torch.stack([before[0], now[0]])
        for place, which in ((1, "source"), (2, "edited")):
            image01 = torch.cat([before[place], now[place]])
            result = cross_view_error(image01, distance, views.camera_to_world[two], lens[two])
            if result.seen:
                differences[which] += result.error * result.seen
        seen.append(result.seen)
    share = sum(seen) / len(seen)
    if share == 0:
        return {"cross_view_source": math.nan, "cross_view_edited": math.nan, "cross_view_seen": 0}
    mean = {f"cross_view_{which}": sum_ / sum(seen) for which, sum_ in differences.items()}
    return mean | {"cross_view_seen": share}
