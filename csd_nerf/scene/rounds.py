"""One editing round: from photographs and renders to edited photographs.

Sizes are (height, width) in pixels. Images in [0, 1] have their channels first. Finished images,
on which the scene is trained, have 8 bits and their channels last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.media.pixels import add_change, resize01, to_01, to_bytes
from csd_nerf.media.regions import editable_cells, keep_outside
from csd_nerf.media.sheets import outlined
from csd_nerf.priors import Prior
from csd_nerf.priors.base import at_once
from csd_nerf.scene.controls import EditRequest
from csd_nerf.scene.masks import enlarged
from csd_nerf.scene.progress import Task
from csd_nerf.scene.updates import IN2N_NOISE_RANGE, Update, edit_by


@dataclass(frozen=True)
class ViewEdit:
    """The edit of one view in a round.

    Attributes:
        source01: The photograph at the size at which it was edited.
        start01: The image that the edit started from: a render of the scene, or the photograph.
        edited01: The result at that size.
        image: The result at the photograph's size, on which the scene is trained.
        mask: Share of each pixel that lies in the region; None if there is no region.
    """

    source01: Float[Tensor, "3 h w"]
    start01: Float[Tensor, "3 h w"]
    edited01: Float[Tensor, "3 h w"]
    image: UInt8[Tensor, "H W 3"]
    mask: Float[Tensor, "_ _"] | None = None

    @property
    def trained01(self) -> Float[Tensor, "3 h w"]:
        """The result on which the scene is trained, at the size of the edit."""
        size = (self.source01.shape[1], self.source01.shape[2])
        return resize01(to_01(self.image)[None], size)[0]

    @property
    def outlined01(self) -> Float[Tensor, "3 h w"]:
        """The photograph at the size of the edit, with an outline of the region."""
        if self.mask is None:
            return self.source01
        size = (self.source01.shape[1], self.source01.shape[2])
        return outlined(self.source01, enlarged(self.mask, size) >= 0.5)


@dataclass(frozen=True)
class Round:
    """The edits of a round by view, and their number of model evaluations."""

    edits: dict[int, ViewEdit]
    evaluations: int

    def __add__(self, other: Round) -> Round:
        """Both together."""
        return Round({**self.edits, **other.edits}, self.evaluations + other.evaluations)


def prior_size(size: tuple[int, int], *, edge: int, multiple: int) -> tuple[int, int]:
    """Choose the size at which an image is edited.

    Args:
        size: Size of the image.
        edge: Edge in pixels of a square with the wanted area.
        multiple: Height and width of the result are multiples of this.

    Returns:
        A size with about the wanted area and the image's aspect ratio.
    """
    scale = edge / math.sqrt(size[0] * size[1])
    height, width = (max(round(pixels * scale / multiple), 1) * multiple for pixels in size)
    return height, width


def finish_image(
    edited01: Float[Tensor, "3 h w"],
    photograph01: Float[Tensor, "3 H W"],
    *,
    round_trip01: Float[Tensor, "3 h w"] | None,
) -> UInt8[Tensor, "H W 3"]:
    """Resize an edit to its photograph's size, and convert it to 8 bits.

    Args:
        edited01: The edit at the prior's size.
        photograph01: The photograph in full size.
        round_trip01: The photograph after the prior's encoder and decoder, at the edit's size. If
            given, what changed is applied to the photograph, which keeps its fine detail; see
            `add_change`. If None, the edit itself is resized.
    """
    if round_trip01 is None:
        size = (photograph01.shape[1], photograph01.shape[2])
        return to_bytes(resize01(edited01[None], size)[0])
    original = to_bytes(photograph01)
    return add_change(original.cpu(), round_trip01, edited01).to(original.device)


def _kept_outside(
    original01: Float[Tensor, "3 h w"], edited: UInt8[Tensor, "h w 3"], mask: Float[Tensor, "_ _"]
) -> UInt8[Tensor, "h w 3"]:
    """`keep_outside` with a mask of any size."""
    size = (original01.shape[1], original01.shape[2])
    original = to_bytes(original01).cpu()
    return keep_outside(original, edited.cpu(), enlarged(mask, size)).to(edited.device)


def edit_views(
    prior: Prior,
    photographs01: Mapping[int, Float[Tensor, "3 _ _"]],
    starts01: Mapping[int, Float[Tensor, "3 _ _"]],
    *,
    sources01: Mapping[int, Float[Tensor, "3 _ _"]] | None = None,
    controls01: Mapping[int, Float[Tensor, "1 _ _"]] | None = None,
    reference01: Float[Tensor, "3 _ _"] | None = None,
    masks: Mapping[int, Float[Tensor, "_ _"]] | None = None,
    request: EditRequest,
    update: Update = "csd",
    denoising_steps: int = 20,
    noise_range: tuple[float, float] = IN2N_NOISE_RANGE,
    keep_detail: bool = False,
    generator: torch.Generator,
    task: Task | None = None,
    progress: str | None = None,
) -> Round:
    """Edit the views of a round.

    Views of the same edit size are edited in one batch; csd shares scores only within a batch.

    Args:
        prior: The editing model.
        photographs01: The photographs in full size, by view, or what is edited in their place.
        starts01: The images to start from, by view, at the size at which to edit. Of these ip2p
            uses only the size.
        sources01: The source images, by view, at the size at which to edit; None takes the
            photographs, resized.
        controls01: Structure images for a prior that follows them, by view, at the same size; None
            or empty for others.
        reference01: A second image beside each photograph, for a prior that takes two.
        masks: Share of each pixel that is edited, by view, at any size; None edits everything.
            Outside, photographs stay to the last bit.
        request: The user's request.
        update: The method; see `edit_by`.
        denoising_steps: Sampling steps per view, for in2n and ip2p.
        noise_range: Lowest and highest noise level for in2n; see `edit_by`.
        keep_detail: Whether the photographs keep their fine detail; see `finish_image`.
        generator: Source of randomness, on the CPU.
        task: Told of progress.
        progress: Label of a progress bar on stderr for csd; None means no bar.
    """
    edits: dict[int, ViewEdit] = {}
    evaluations = 0
    for views in _same_size(starts01):
        start01 = torch.stack([starts01[view] for view in views])
        size = (start01.shape[-2], start01.shape[-1])
        if sources01 is None:
            source01 = torch.cat([resize01(photographs01[view][None], size) for view in views])
        else:
            source01 = torch.stack([sources01[view] for view in views])
        cells = (size[0] // prior.cell_size, size[1] // prior.cell_size)
        editable = None
        if masks is not None:
            editable = torch.stack([editable_cells(masks[view], cells) for view in views])
        if task is not None:
            task.begin_part(len(views))
        updated = edit_by(
            update,
            prior,
            source01,
            start01,
            control01=torch.stack([controls01[view] for view in views]) if controls01 else None,
            reference01=None if reference01 is None else reference01[None],
            editable=editable,
            request=request,
            denoising_steps=denoising_steps,
            noise_range=noise_range,
            generator=generator,
            tell=None if task is None else task.count,
            progress=progress,
        )
        evaluations += updated.evaluations
        trips01 = [None] * len(views)
        if keep_detail:
            most = at_once(prior, request.settings.max_batch, total=len(views))
            trips01 = _round_trips(prior, source01, updated.source_latent, max_batch=most)
        for row, view in enumerate(views):
            result01, mask = updated.edited01[row], None if masks is None else masks[view]
            image = finish_image(result01, photographs01[view], round_trip01=trips01[row])
            if mask is not None:
                image = _kept_outside(photographs01[view], image, mask)
                result01 = to_01(_kept_outside(source01[row], to_bytes(result01), mask))
            edits[view] = ViewEdit(source01[row], start01[row], result01, image, mask)
    return Round({view: edits[view] for view in starts01}, evaluations)


def _round_trips(
    prior: Prior,
    source01: Float[Tensor, "n 3 h w"],
    latent: Float[Tensor, "n c _ _"] | None,
    *,
    max_batch: int,
) -> Float[Tensor, "n 3 h w"]:
    """Images after the prior's encoder and decoder; None if their latents are yet to be encoded."""
    if latent is None:
        latent = torch.cat([prior.encode(part) for part in source01.split(max_batch)])
    return torch.cat([prior.decode(part) for part in latent.split(max_batch)]).to(source01)


def _same_size(images: Mapping[int, Tensor]) -> list[list[int]]:
    """Group views by the size of their images."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for view, image in images.items():
        groups.setdefault(tuple(image.shape), []).append(view)
    return list(groups.values())
