"""The measures of the paper, as far as their networks are at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.inputs import Task, sorted_pictures
from csd_nerf.evaluation.similarity import psnr
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.images import read_image
from csd_nerf.media.pixels import to_01

if TYPE_CHECKING:
    from csd_nerf.evaluation.clip import Clip
    from csd_nerf.evaluation.similarity import Lpips

_Network = TypeVar("_Network")
_INCEPTION_BATCH = 16


class Scorer:
    """CLIP, LPIPS and Inception, each loaded when a column first needs it.

    What can't be had is left out: `missing` then says why, by the network's name.
    """

    def __init__(self, *, clip: str | None, device: str) -> None:
        """Take an OpenCLIP name or folder, None for no CLIP, and where the networks run."""
        self.missing: dict[str, str] = {}
        if clip is None:
            self.missing["CLIP"] = "--tiny asks for no weights; name them by --clip"
        self.clip_name, self._device = clip, device
        self._loaded: dict[str, object] = {}

    def image_scores(
        self,
        keys: Sequence[str],
        task: Task,
        source01: Float[Tensor, "n 3 h w"],
        edited01: Float[Tensor, "n 3 h w"],
        truth01: Float[Tensor, "n 3 h w"] | None,
    ) -> Row:
        """The measures of an edit by the keys of a table's columns."""
        row: Row = {}
        if truth01 is not None:
            row["psnr"] = psnr(edited01, truth01)
        if any(key.startswith("clip_") for key in keys) and (clip := self.clip()) is not None:
            row |= _clip_scores(clip, task, source01, edited01)
        if "frame_lpips" in keys and len(edited01) > 1 and (lpips := self.lpips()) is not None:
            from csd_nerf.evaluation.similarity import frame_lpips

            row["frame_lpips"] = frame_lpips(lpips, edited01.to(self._device))
        return row

    def text_score(self, image01: Float[Tensor, "n 3 h w"], text: str) -> float | None:
        """CLIP similarity of images and a text, averaged; None without the weights."""
        if (clip := self.clip()) is None:
            return None
        from csd_nerf.evaluation.clip import text_similarity

        return text_similarity(clip.image_features(image01), clip.text_features([text]))

    def fid(self, images: Iterable[Float[Tensor, "n 3 h w"]], reference: Path) -> float | None:
        """FID of images to the pictures of a folder; None without the weights."""
        network = self._load("Inception", self._load_inception)
        if network is None:
            return None
        from csd_nerf.evaluation.fid import frechet_distance

        mine = torch.cat([part for image01 in images for part in self._features(network, image01)])
        pictures = sorted_pictures(reference)
        others = (to_01(read_image(path)[0][None]) for path in pictures)
        return frechet_distance(
            mine, torch.cat([part for other in others for part in self._features(network, other)])
        )

    def _features(
        self, network: Callable[[Tensor], Tensor], image01: Float[Tensor, "n 3 h w"]
    ) -> list[Float[Tensor, "b d"]]:
        parts = image01.split(_INCEPTION_BATCH)
        return [network(part.to(self._device)).cpu() for part in parts]

    def clip(self) -> Clip | None:
        """The CLIP model, or None."""
        return self._load("CLIP", self._load_clip)

    def lpips(self) -> Lpips | None:
        """The LPIPS network, or None."""
        return self._load("LPIPS", self._load_lpips)

    def _load(self, name: str, loader: Callable[[], _Network]) -> _Network | None:
        if name in self.missing:
            return None
        if name not in self._loaded:
            try:
                self._loaded[name] = loader()
            except (OSError, ImportError) as error:
                self.missing[name] = " ".join(str(error).split())
                return None
        return self._loaded[name]  # pyright: ignore[reportReturnType]

    def _load_clip(self) -> Clip:
        from csd_nerf.evaluation.clip import load_clip

        assert self.clip_name is not None
        return load_clip(self.clip_name, device=self._device)

    def _load_lpips(self) -> Lpips:
        from csd_nerf.evaluation.similarity import load_lpips

        return load_lpips(device=self._device)

    def _load_inception(self) -> Callable[[Tensor], Tensor]:
        from csd_nerf.evaluation.fid import load_inception

        return load_inception(None, self._device)


def _clip_scores(
    clip: Clip,
    task: Task,
    source01: Float[Tensor, "n 3 h w"],
    edited01: Float[Tensor, "n 3 h w"],
) -> Row:
    from csd_nerf.evaluation.clip import directional_similarity, image_consistency, image_similarity

    source, edited = clip.image_features(source01), clip.image_features(edited01)
    texts = clip.text_features([task.source_caption, task.edited_caption])
    row: Row = {
        "clip_direction": directional_similarity(source, edited, texts[:1], texts[1:]),
        "clip_source": image_similarity(source, edited),
    }
    if len(edited) > 1:
        row["clip_consistency"] = image_consistency(edited)
    return row
