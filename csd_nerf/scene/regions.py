"""Where a region is in each view of a scene.

A box is what each view shows inside of it: a pixel belongs to the region if its surface point does.
Masks of views, whether files, label images or what a segmenter finds, are taken as they are; views
without one take the vote of the points that masked views show, see `csd_nerf.scene.lifting`. All
depths are those of the unedited scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from csd_nerf.media.regions import (
    Labels,
    Region,
    SceneBox,
    Segmenter,
    Word,
    area_means,
    find_masks,
    parse_region,
    picture_mask,
    read_mask,
)
from csd_nerf.priors import Prior
from csd_nerf.priors.segmenters import load_segmenter
from csd_nerf.scene.inputs import edit_size
from csd_nerf.scene.lifting import LabelledPoints
from csd_nerf.scene.masks import SceneMasks
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.protocol import LiveScene, PhotographFiles, Scene, SceneRender

LABELS_FOLDER = "labels"
"""Folder of a data set's label images, beside that of its photographs."""


class RegionFinder:
    """Finds regions by their texts, each once for an unedited scene."""

    def __init__(
        self,
        scene: Scene,
        options: StageOptions,
        prior: Callable[[], Prior],
        *,
        segmenter: Segmenter | None = None,
    ) -> None:
        """Take what the stage has; without a segmenter the options' model is loaded when needed."""
        self._scene, self._options, self._prior = scene, options, prior
        self._segmenter = segmenter
        self._found: dict[tuple[str, str | None], SceneMasks] = {}

    def find(self, text: str, *, base: str | None, present: bool = False) -> SceneMasks | None:
        """The masks of a region; None for the empty text, which is everywhere.

        Args:
            text: The region.
            base: Names the unedited scene.
            present: Whether that is the scene as it is now, which isn't kept yet.

        Raises:
            ValueError: If the text is no region of a scene, or as `find_region` does.
            OSError: As `find_region` does.
        """
        if not text.strip():
            return None
        key = (text.strip(), base)
        if key not in self._found:
            region = parse_region(text, of="scene")
            self._found[key] = find_region(
                self._scene,
                region,
                size_of=self._size_of,
                segmenter=self._find_word,
                present=present,
                progress=f"region {region.where}",
            )
        return self._found[key]

    def forget(self) -> None:
        """Find regions anew, since the scene is trained further than when they were found."""
        self._found.clear()

    def _size_of(self, view: int) -> tuple[int, int]:
        height, width = self._scene.photograph01(view).shape[1:]
        return edit_size((height, width), self._options, self._prior())

    def _find_word(self, image01: Float[Tensor, "3 h w"], word: str) -> Float[Tensor, "h w"]:
        if self._segmenter is None:
            model, device = self._options.region_model, self._prior().device
            self._segmenter = load_segmenter(model, device=device)
        return self._segmenter(image01, word)


def find_region(
    scene: Scene,
    region: Region,
    *,
    size_of: Callable[[int], tuple[int, int]],
    segmenter: Segmenter,
    present: bool = False,
    seed: int = 0,
    progress: str | None = None,
) -> SceneMasks:
    """Find a region in all views of a scene.

    Args:
        scene: The scene; for boxes, and where views lack a mask, its renders need their points.
        region: A scene's region.
        size_of: Height and width at which a view is edited.
        segmenter: Finds a word in an image.
        present: Whether depths are those of the scene as it is, not of the unedited one.
        seed: Seed of the drawing of labelled points.
        progress: Label of a progress bar on stderr; None means no bar.

    Raises:
        ValueError: If a mask doesn't fit or is missing, or no view sees the region.
        OSError: If a file can't be read, or the segmenter's weights can't be had.
    """
    show = _renders(scene, present=present)

    def surface(view: int) -> Float[Tensor, "h w 3"]:
        points = show(view, size=size_of(view)).points
        if points is None:
            raise ValueError(
                "A region by a box, or by masks of some views only, needs a scene with depth, got "
                "photographs alone; give masks of all views, or a word."
            )
        return points

    views = tqdm(range(scene.num_views), progress, disable=progress is None)
    where = region.where
    if isinstance(where, SceneBox):
        low, high = torch.tensor(where.low), torch.tensor(where.high)

        def inside(points: Float[Tensor, "*n 3"]) -> Bool[Tensor, "*n"]:
            near, far = low.to(points), high.to(points)
            return ((points >= near) & (points <= far)).all(-1)

        shares = {v: inside(surface(v)).float().cpu() for v in views}
    else:
        if isinstance(where, Word):
            given = {v: _word_mask(scene, v, region, segmenter) for v in views}
        else:
            given = read_masks(scene, region)
        labelled = _lift(surface, given, seed)
        others = (v for v in views if v not in given)
        shares = {**given, **{v: labelled().vote(surface(v)) for v in others}}

        def inside(points: Float[Tensor, "*n 3"]) -> Bool[Tensor, "*n"]:
            return (labelled().vote(points) >= 0.5).to(points.device)

    found = SceneMasks(inside, {v: _to_bytes(share) for v, share in shares.items()})
    if not found.seen:
        raise ValueError(
            f"A region needs to be seen by a view, got {where}, which none of {scene.num_views} "
            f"sees; {_REMEDIES.get(type(where), _MASK_REMEDY)}."
        )
    return found


_MASK_REMEDY = "paint masks of views that show it"
_REMEDIES = {
    SceneBox: "read the box off nerfstudio's viewer: Crop Viewport's centre plus and minus half "
    "its scale",
    Word: "say it in other words, or give masks or a box",
}


def read_masks(scene: Scene, region: Region) -> dict[int, Float[Tensor, "_ _"]]:
    """Read the masks that files give, at the sizes of their photographs; empty for others.

    Raises:
        ValueError: If no view has a mask, all are empty, or one doesn't fit its photograph.
        OSError: If there is no such folder, or a file can't be read.
    """
    where = region.where
    if isinstance(where, Labels):
        return _read_labels(scene, where)
    if not isinstance(where, Path):
        return {}
    names = {scene.name(view): view for view in range(scene.num_views)}
    found = {
        names[name]: _as_photograph(scene, names[name], read_mask(path, size=_drawn_size(scene, v)))
        for name, path in find_masks(where, names).items()
        for v in (names[name],)
    }
    if not any(bool((mask >= 0.5).any()) for mask in found.values()):
        raise ValueError(
            f"Masks need to be white somewhere, got {where}, whose {len(found)} masks of views are "
            "black or transparent."
        )
    return found


def _renders(scene: Scene, *, present: bool) -> Callable[..., SceneRender]:
    """The renders of a scene as it is, or of the unedited scene, if one is kept."""
    return scene.render_unedited if isinstance(scene, LiveScene) and not present else scene.render


def _read_labels(scene: Scene, labels: Labels) -> dict[int, Float[Tensor, "_ _"]]:
    if not isinstance(scene, PhotographFiles):
        raise ValueError(
            f"{labels} needs photographs that are files of a data set, got others; give a folder "
            "of masks."
        )
    folder = scene.photograph_file(0).parent.parent / LABELS_FOLDER
    if not folder.is_dir():
        raise ValueError(
            f"{labels} needs the data set's label images in {folder}, which is no folder; give a "
            "box, a folder of masks or a word."
        )
    names = {scene.name(view): view for view in range(scene.num_views)}
    masks, present = {}, set[int]()
    for name, path in find_masks(folder, names).items():
        numbers = _read_numbers(path)
        present |= {*numbers.unique().tolist()}
        mask = torch.isin(numbers, torch.tensor(labels.numbers)).float()
        view = names[name]
        _check_shape(mask, _drawn_size(scene, view), path)
        masks[view] = _as_photograph(scene, view, mask)
    if missing := [number for number in labels.numbers if number not in present]:
        told = ", ".join(str(number) for number in sorted(present)[:20])
        raise ValueError(
            f"{labels} needs labels that an image has, got {missing[0]}; those of {folder} are "
            f"{told}."
        )
    return masks


def _read_numbers(path: Path) -> Tensor:
    """A label image as it is stored: one whole number a pixel."""
    with Image.open(path) as picture:
        numbers = np.asarray(picture)
    if numbers.ndim != 2:
        raise ValueError(
            f"A label image needs one number a pixel, got {path} with {numbers.shape[-1]} "
            "channels; save it as a grey picture or with a palette."
        )
    return torch.from_numpy(numbers.astype(np.int64))


def _word_mask(
    scene: Scene, view: int, region: Region, segmenter: Segmenter
) -> Float[Tensor, "H W"]:
    image01 = scene.photograph01(view)
    size = (image01.shape[1], image01.shape[2])
    mask = picture_mask(region, size=size, image01=image01, segmenter=segmenter)
    if not bool(mask.isfinite().all()):
        raise ValueError(
            f"A segmenter needs to give finite shares, got NaN or infinity for {region.where} in "
            f"{scene.name(view)}; take another model."
        )
    return mask


def _lift(
    surface: Callable[[int], Float[Tensor, "_ _ 3"]],
    masks: Mapping[int, Float[Tensor, "_ _"]],
    seed: int,
) -> Callable[[], LabelledPoints]:
    """The labelled points of masked views; they are gathered when first asked for."""
    kept: list[LabelledPoints] = []

    def gather() -> LabelledPoints:
        if not kept:
            generator = torch.Generator().manual_seed(seed)
            points = ((surface(view), mask.cpu()) for view, mask in masks.items())
            views = ((p, area_means(mask, (p.shape[0], p.shape[1]))) for p, mask in points)
            kept.append(LabelledPoints.gather(views, generator=generator))
        return kept[0]

    return gather


def _drawn_size(scene: Scene, view: int) -> tuple[int, int]:
    """Height and width of the picture on which a user draws a mask."""
    if isinstance(scene, PhotographFiles):
        return scene.file_size(view)
    height, width = scene.photograph01(view).shape[1:]
    return height, width


def _as_photograph(scene: Scene, view: int, mask: Float[Tensor, "h w"]) -> Float[Tensor, "H W"]:
    return scene.as_photograph(view, mask) if isinstance(scene, PhotographFiles) else mask


def _check_shape(mask: Float[Tensor, "h w"], size: tuple[int, int], path: Path) -> None:
    if tuple(mask.shape) != size:
        height, width = mask.shape
        raise ValueError(
            f"A label image needs its photograph's size, {size[1]} x {size[0]} pixels, got {path} "
            f"of {width} x {height}."
        )


def _to_bytes(share: Float[Tensor, "h w"]) -> UInt8[Tensor, "h w"]:
    return (255 * share.clamp(0, 1)).round().byte().cpu()
