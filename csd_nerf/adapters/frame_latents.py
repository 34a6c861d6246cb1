"""Encodes frames to latents and decodes them, a few at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.adapters.reporter import Reporter
from csd_nerf.media.frames import FrameSource
from csd_nerf.media.pixels import resize, to_01, to_bytes
from csd_nerf.priors.base import Prior
from csd_nerf.priors.decoders import Decoder

_LATENT = "latent"
PREVIEW_FRAMES = 4
"""Frames in a preview, side by side."""


def encode_frames(
    prior: Prior, source: FrameSource, *, size: tuple[int, int], batch: int, reporter: Reporter
) -> tuple[Float[Tensor, "n c h w"], dict[str, Tensor]]:
    """Read and encode all frames; returns latents and image rows, in the CPU's memory.

    Args:
        prior: The prior that encodes.
        source: The frames.
        size: Height and width in pixels to which frames are resized first.
        batch: Number of frames encoded together.
        reporter: Gets the progress.

    Raises:
        ValueError: If the number of frames isn't `source.count`.
    """
    wholes: dict[str, Tensor] = {}
    done = 0
    reporter.begin("encode", source.count)
    frames = (resize(frame, size) for frame in source)
    while pixels := list(itertools.islice(frames, batch)):
        latent, image_rows = prior.encode_source(to_01(torch.stack(pixels)))
        parts = {_LATENT: latent, **image_rows}
        wholes = wholes or {n: torch.empty(source.count, *p.shape[1:]) for n, p in parts.items()}
        for name, part in parts.items():
            wholes[name][done : done + len(part)] = part
        done += len(pixels)
        reporter.tick(done)
    if done != source.count:
        raise ValueError(
            f"The input must not change while it is read, got {done} frames instead of "
            f"{source.count}."
        )
    return wholes.pop(_LATENT), wholes


def decoded_frames(
    decoder: Decoder,
    latent: Float[Tensor, "n c h w"],
    source: Float[Tensor, "n c h w"] | None = None,
) -> Iterator[tuple[UInt8[Tensor, "h w 3"], Float[Tensor, "2 3 h w"] | None]]:
    """Decode frames in order, some at a time.

    Args:
        decoder: The decoder.
        latent: Latents of the edited frames.
        source: Latents of their sources, if those are wanted too.

    Yields:
        Each frame, and a pair of images in [0, 1]: its decoded source and the frame.
    """
    trips = itertools.repeat(None) if source is None else decoder.stream(source)
    # Both streams yield as many frames at a time. `trips` may have no end.
    for image01, trip01 in zip(decoder.stream(latent), trips, strict=False):
        frames = to_bytes(image01).cpu()
        pairs = [None] * len(frames)
        if trip01 is not None:
            pairs = torch.stack([trip01, image01], dim=1).cpu()
        yield from zip(frames, pairs, strict=True)


@dataclass(frozen=True)
class PriorDecoder:
    """The `Decoder` that uses a prior's own autoencoder."""

    prior: Prior
    batch: int
    """Number of frames decoded together."""

    def stream(self, latent: Float[Tensor, "n c h w"]) -> Iterator[Float[Tensor, "m 3 H W"]]:
        """Decode to images in [0, 1], in order, a batch at a time."""
        yield from (self.prior.decode(part) for part in latent.split(self.batch))


def preview_frames(prior: Prior, latent: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "H W 3"]:
    """Decode `PREVIEW_FRAMES` evenly spaced frames and put them side by side."""
    count = min(PREVIEW_FRAMES, len(latent))
    chosen = torch.linspace(0, len(latent) - 1, count).round().long()
    return torch.cat([*to_bytes(prior.decode(latent[chosen]))], dim=1)
