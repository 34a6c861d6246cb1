"""Edits a set of pictures together, such as photographs of one thing.

Pictures whose size for the edit agrees form a group. The pictures of a group share their scores;
groups are edited one after the other. As for videos, only latents are kept while they are edited;
pictures are read again when their results are written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.adapters.editing import EditSession
from csd_nerf.adapters.frame_latents import PriorDecoder, decoded_frames, encode_frames
from csd_nerf.adapters.options import ImageOptions
from csd_nerf.adapters.pictures import Picture, finished
from csd_nerf.adapters.regions import shown
from csd_nerf.adapters.reporter import SILENT, Reporter
from csd_nerf.adapters.stacks import Stack, optimise_stacks, sample_stacks, work_size
from csd_nerf.media.frames import FrameSource
from csd_nerf.media.pixels import Change, to_01
from csd_nerf.media.rasters import Raster
from csd_nerf.media.regions import (
    PackedMask,
    Segmenter,
    Word,
    editable_cells,
    find_masks,
    parse_region,
    picture_mask,
)
from csd_nerf.priors.base import Prior


def edit_pictures(
    prior: Prior,
    pictures: Sequence[Picture],
    options: ImageOptions,
    write: Callable[[int, Raster], Any],
    *,
    segmenter: Segmenter | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Edit pictures by the method that the options name.

    Args:
        prior: The diffusion model.
        pictures: One or more.
        options: The options; those about files and the prior's loading are ignored.
        write: Called with the number of each picture and its result, of the picture's size.
        segmenter: Finds what a region's word names.
        reporter: Gets the progress and saves the state.

    Returns:
        Facts about the edit and its costs, for a JSON file; sizes are (width, height).

    Raises:
        ValueError: If there is no instruction, or as `set_masks` does.
        FileNotFoundError: As `set_masks` does.
        FloatingPointError: If a gradient isn't finite.
    """
    options.check_prompt()
    session = EditSession(prior, options, reporter)
    session.note_cut_prompts([options.prompt, options.negative_prompt])
    masks = None
    if options.region is not None:
        with session.stage("masks"):
            masks = set_masks(options.region, pictures, segmenter=segmenter)
    groups = _grouped(session, pictures)
    if len(groups) > 1:
        sizes = ", ".join(f"{len(g.numbers)} at {g.size[1]} x {g.size[0]}" for g in groups)
        session.note(f"pictures are edited in groups of one size, each by itself: {sizes}")
    work = _Work(session, pictures, masks, session.keeps_detail([options.prompt]))
    with session.stage("encode"):
        stacks = [work.encoded(group) for group in groups]
    with session.stage("edit"):
        edit = sample_stacks if options.method == "ip2p" else optimise_stacks
        latents, facts = edit(session, stacks, options.prompt)
    with session.stage("decode"):
        session.reporter.begin("decode", len(pictures))
        finished = (
            result
            for group, stack, latent in zip(groups, stacks, latents, strict=True)
            for result in work.decoded(group, stack, latent)
        )
        for done, (number, result) in enumerate(finished, start=1):
            write(number, result)
            session.reporter.tick(done)
    told = [
        {**group.facts(pictures), "edited": len(stack.edited), **found}
        for group, stack, found in zip(groups, stacks, facts, strict=True)
    ]
    # `csd-nerf evaluate` compares results at this size; groups have several.
    size = {"work_size": told[0]["work_size"]} if len(told) == 1 else {}
    return {
        "method": options.method,
        "keep_detail": work.keeps_detail,
        "pictures": len(pictures),
        **size,
        "groups": told,
        **session.facts(),
    }


def set_masks(
    text: str, pictures: Sequence[Picture], *, segmenter: Segmenter | None = None
) -> list[PackedMask]:
    """The mask of each picture of a set.

    Args:
        text: The region, as `--region` has it. A rectangle holds for each picture; in a folder
            masks are named like the pictures, and those without one stay as they are.
        pictures: The pictures.
        segmenter: Finds what a word names.

    Raises:
        ValueError: If the text has another form, a mask doesn't fit, or nothing is inside in any
            picture.
        FileNotFoundError: If a file or folder is missing.
    """
    region = parse_region(text)
    files: dict[str, Path] | None = None
    if isinstance(region.where, Path) and region.where.is_dir():
        files = find_masks(region.where, [picture.name for picture in pictures])
    found = []
    for picture in pictures:
        if files is not None and picture.name not in files:
            found.append(PackedMask.of(torch.zeros(picture.size)))
            continue
        where = region.where if files is None else files[picture.name]
        image01 = to_01(shown(picture)) if isinstance(where, Word) else None
        one = dataclasses.replace(region, where=where)
        given = {"image01": image01, "segmenter": segmenter}
        found.append(PackedMask.of(picture_mask(one, size=picture.size, **given)))
    if all(mask.is_empty for mask in found):
        raise ValueError(
            f"A region needs to cover half a pixel or more of a picture, got {text}, which covers "
            "none; name another."
        )
    return found


@dataclass(frozen=True)
class _Group:
    """The pictures that are edited together."""

    size: tuple[int, int]
    """Height and width in pixels at which they are edited."""
    numbers: list[int]
    """Their places in the set."""

    def facts(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        """What the record says of the group; scores are shared within it."""
        return {
            "work_size": [*reversed(self.size)],
            "pictures": [pictures[number].name for number in self.numbers],
            "input_sizes": [[*reversed(pictures[number].size)] for number in self.numbers],
        }


def _grouped(session: EditSession, pictures: Sequence[Picture]) -> list[_Group]:
    groups: dict[tuple[int, int], list[int]] = {}
    for number, picture in enumerate(pictures):
        size = work_size(session.prior, picture.size, longest=session.options.size)
        groups.setdefault(size, []).append(number)
        (height, width), (work_height, work_width) = picture.size, size
        if work_height * work_width > height * width:
            session.note(
                f"{picture.name} of {width} x {height} pixels is enlarged to {work_width} x "
                f"{work_height} for the edit"
            )
    return [_Group(size, numbers) for size, numbers in groups.items()]


@dataclass(frozen=True)
class _Work:
    """How pictures become latents, and come back."""

    session: EditSession
    pictures: Sequence[Picture]
    masks: Sequence[PackedMask] | None
    keeps_detail: bool
    """Whether the change alone is added to the pictures."""

    def encoded(self, group: _Group) -> Stack:
        """The latents of a group, and where they may change."""
        prior, count = self.session.prior, len(group.numbers)
        batch = min(self.session.values.batch or count, count)

        def read() -> Iterator[UInt8[Tensor, "H W 3"]]:
            for number in group.numbers:
                yield self.pictures[number].read().resized(group.size)

        source = FrameSource(group.size, count, read)
        latent, image_rows = encode_frames(
            prior, source, size=group.size, batch=batch, reporter=self.session.reporter
        )
        editable = None
        if self.masks is not None:
            grid = (group.size[0] // prior.cell_size, group.size[1] // prior.cell_size)
            masks = [self.masks[number] for number in group.numbers]
            editable = torch.stack([editable_cells(mask.inside, grid) for mask in masks])
        return Stack(latent, image_rows, batch, editable)

    def decoded(
        self, group: _Group, stack: Stack, latent: Float[Tensor, "n c h w"]
    ) -> Iterator[tuple[int, Raster]]:
        """Each picture's number and result, of its size; without a mask it is the picture."""
        edited = stack.edited
        source = stack.source[edited] if self.keeps_detail else None
        frames = decoded_frames(
            PriorDecoder(self.session.prior, stack.batch), latent[edited], source
        )
        changed = {*edited.tolist()}
        for place, number in enumerate(group.numbers):
            picture = self.pictures[number]
            if place not in changed:
                yield number, picture.read()
                continue
            frame, pair = next(frames)
            edit = frame if pair is None else Change(pair[0], pair[1])
            inside = None if self.masks is None else self.masks[number]
            yield number, finished(picture, edit, inside=inside)
