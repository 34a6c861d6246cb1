"""Edits a set of pictures together, such as photographs of one thing.

Pictures whose size for the edit agrees form a group. The pictures of a group share their scores;
groups are edited one after the other. As for videos, only latents are kept while they are edited;
pictures are read again when their results are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.adapters.editing import EditSession
from csd_nerf.adapters.frame_latents import PriorDecoder, decode_frames, encode_frames
from csd_nerf.adapters.options import ImageOptions
from csd_nerf.adapters.reporter import SILENT, Reporter
from csd_nerf.adapters.stacks import Stack, optimise_stacks, sample_stacks, work_size
from csd_nerf.media.frames import FrameSource
from csd_nerf.media.pixels import resize
from csd_nerf.priors.base import Prior


@dataclass(frozen=True)
class Picture:
    """A picture of a set."""

    name: str
    """Its name, for facts and notices."""
    size: tuple[int, int]
    """Height and width in pixels."""
    read: Callable[[], UInt8[Tensor, "H W 3"]]
    """Returns its pixels."""


def edit_pictures(
    prior: Prior,
    pictures: Sequence[Picture],
    options: ImageOptions,
    write: Callable[[int, UInt8[Tensor, "H W 3"]], Any],
    *,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Edit pictures by the method that the options name.

    Args:
        prior: The diffusion model.
        pictures: One or more.
        options: The options; those about files and the prior's loading are ignored.
        write: Called with the number of each picture and its result, of the picture's size.
        reporter: Gets the progress and saves the state.

    Returns:
        Facts about the edit and its costs, for a JSON file; sizes are (width, height).

    Raises:
        ValueError: If there is no instruction.
        FloatingPointError: If a gradient isn't finite.
    """
    options.check_prompt()
    session = EditSession(prior, options, reporter)
    session.note_cut_prompts([options.prompt, options.negative_prompt])
    groups = _grouped(session, pictures)
    if len(groups) > 1:
        sizes = ", ".join(f"{len(g.numbers)} at {g.size[1]} x {g.size[0]}" for g in groups)
        session.note(f"pictures are edited in groups of one size, each by itself: {sizes}")
    with session.stage("encode"):
        stacks = [_encoded(session, group, pictures) for group in groups]
    with session.stage("edit"):
        edit = sample_stacks if options.method == "ip2p" else optimise_stacks
        latents, facts = edit(session, stacks, options.prompt)
    with session.stage("decode"):
        for group, stack, latent in zip(groups, stacks, latents, strict=True):
            _decode(session, group, stack, latent, pictures, write)
    told = [{**group.facts(pictures), **found} for group, found in zip(groups, facts, strict=True)]
    return {
        "method": options.method,
        "pictures": len(pictures),
        "groups": told,
        **session.facts(),
    }


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


def _encoded(session: EditSession, group: _Group, pictures: Sequence[Picture]) -> Stack:
    count = len(group.numbers)
    batch = min(session.values.batch or count, count)

    def read() -> Iterator[UInt8[Tensor, "H W 3"]]:
        for number in group.numbers:
            yield resize(pictures[number].read(), group.size)

    source = FrameSource(group.size, count, read)
    latent, image_rows = encode_frames(
        session.prior, source, size=group.size, batch=batch, reporter=session.reporter
    )
    return Stack(latent, image_rows, batch)


def _decode(
    session: EditSession,
    group: _Group,
    stack: Stack,
    latent: Float[Tensor, "n c h w"],
    pictures: Sequence[Picture],
    write: Callable[[int, UInt8[Tensor, "H W 3"]], Any],
) -> None:
    """Decode a group's results, and hand them on at their pictures' sizes."""
    left = iter(group.numbers)

    def finish(frame: UInt8[Tensor, "H W 3"]) -> None:
        number = next(left)
        write(number, resize(frame, pictures[number].size))

    decoder = PriorDecoder(session.prior, stack.batch)
    decode_frames(decoder, latent, finish, size=group.size, reporter=session.reporter)
