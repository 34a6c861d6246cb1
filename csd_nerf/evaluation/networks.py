"""Networks for learned measures: CLIP, LPIPS and Inception."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.evaluation.inputs import ImageSequence, read_01
from csd_nerf.media.frames import FRAME_SUFFIXES, natural_order

if TYPE_CHECKING:
    from csd_nerf.evaluation.clip import Clip
    from csd_nerf.evaluation.similarity import Lpips

_BATCH = 16
"""Images per call of a network."""

Name = Literal["CLIP", "LPIPS", "Inception"]


class Networks:
    """Networks for measures, each loaded at its first use.

    If a network's weights or package are missing, there is no error: `obstacle` returns the reason,
    and measures that need it are left out. Features are computed once for each input.
    """

    def __init__(
        self,
        *,
        clip: str | None,
        reference: Path | None = None,
        inception: Path | None = None,
        device: str = "cpu",
        note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    ) -> None:
        """Choose the networks; nothing is loaded yet.

        Args:
            clip: Name or local folder of an OpenCLIP model; None for no CLIP.
            reference: Folder of reference pictures for FID; None for no FID.
            inception: File with the weights of FID's network; None means torch's cache or a
                download.
            device: Device of the networks.
            note: Called with one line for each network that can't be loaded.

        Raises:
            ValueError: If `reference` is not a folder with at least two pictures.
        """
        self._clip_name, self._inception, self._device, self._note = clip, inception, device, note
        self._reference = None if reference is None else _pictures(reference)
        self._loaded: dict[Name, Any] = {}
        self._missing: dict[Name, str] = {}
        if clip is None:
            self._missing["CLIP"] = "it needs a CLIP model, named by --clip"
        if reference is None:
            self._missing["Inception"] = "it needs --reference"
        self._image_features: WeakKeyDictionary[ImageSequence, Tensor] = WeakKeyDictionary()
        self._text_features: dict[tuple[str, ...], Tensor] = {}
        self._reference_features: Tensor | None = None

    def obstacle(self, name: Name) -> str | None:
        """Load a network at first use; returns the reason if that fails, else None."""
        if name not in self._loaded and name not in self._missing:
            try:
                self._loaded[name] = self._load(name)
            except (OSError, ImportError) as error:
                self._missing[name] = " ".join(str(error).split())
                self._note(f"what needs {name} is left out: {self._missing[name]}")
        return self._missing.get(name)

    def _load(self, name: Name) -> Any:
        if name == "CLIP":
            from csd_nerf.evaluation.clip import load_clip

            assert self._clip_name is not None
            return load_clip(self._clip_name, device=self._device)
        if name == "LPIPS":
            from csd_nerf.evaluation.similarity import load_lpips

            return load_lpips(device=self._device)
        from csd_nerf.evaluation.fid import load_inception

        return load_inception(self._inception, self._device)

    def _get(self, name: Name) -> Any:
        if (obstacle := self.obstacle(name)) is not None:
            raise FileNotFoundError(f"{name} can't be had: {obstacle}")
        return self._loaded[name]

    @property
    def clip(self) -> Clip:
        """The CLIP model; raises FileNotFoundError if it can't be loaded."""
        return self._get("CLIP")

    @property
    def lpips(self) -> Lpips:
        """The LPIPS network; raises FileNotFoundError if it can't be loaded."""
        return self._get("LPIPS")

    def image_features(self, frames: ImageSequence) -> Float[Tensor, "n d"]:
        """CLIP features of an input's frames, of unit length."""
        if frames not in self._image_features:
            parts = (self.clip.image_features(part, max_batch=_BATCH) for part in _batches(frames))
            self._image_features[frames] = torch.cat([*parts])
        return self._image_features[frames]

    def text_features(self, texts: tuple[str, ...]) -> Float[Tensor, "k d"]:
        """CLIP features of texts, of unit length."""
        if texts not in self._text_features:
            self._text_features[texts] = self.clip.text_features([*texts])
        return self._text_features[texts]

    def fid(self, images: Iterable[Float[Tensor, "1 3 h w"]]) -> float:
        """Frechet inception distance between images and reference; their sizes may differ."""
        from csd_nerf.evaluation.fid import frechet_distance

        if self._reference_features is None:
            assert self._reference is not None
            self._reference_features = self._inception_features(map(read_01, self._reference))
        return frechet_distance(self._inception_features(images), self._reference_features)

    def _inception_features(
        self, images: Iterable[Float[Tensor, "1 3 h w"]]
    ) -> Float[Tensor, "n d"]:
        network = self._get("Inception")
        return torch.cat([network(part.to(self._device)).cpu() for part in _batches(images)])


def _pictures(folder: Path) -> list[Path]:
    """Paths of the pictures in a folder, in natural order."""
    if not folder.is_dir():
        raise ValueError(f"--reference must be a folder of pictures, got {folder}.")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES]
    if len(paths) < 2:
        raise ValueError(f"--reference needs two pictures or more, got {len(paths)} in {folder}.")
    return sorted(paths, key=lambda path: natural_order(path.name))


def _batches(images: Iterable[Float[Tensor, "1 3 h w"]]) -> Iterator[Float[Tensor, "b 3 h w"]]:
    """Batches of consecutive images of one size."""
    for _, equal in itertools.groupby(images, key=lambda image: image.shape):
        while batch := [*itertools.islice(equal, _BATCH)]:
            yield torch.cat(batch)
