"""Other decoders for Stable Diffusion's latents, which flicker less than its own.

Jointly edited frames still flicker where the autoencoder decodes similar latents differently (the
paper's Appendix E). `consistency` is OpenAI's decoder of DALL-E 3, a diffusion model with two
steps; every frame gets the same noise. `temporal` is the decoder of Stable Video Diffusion, which
decodes neighbouring frames together: long films are decoded in overlapping windows of frames, with
a cross-fade over each overlap.

Latents are in the prior's scale: VAE latents times the scaling factor in the decoder's
configuration. diffusers is imported late.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.priors.hub import HubError, cached_file, download, list_files
from csd_nerf.priors.parts import reading_part
from csd_nerf.priors.weights import WeightsNotFoundError

Kind = Literal["consistency", "temporal"]

LATENT_CHANNELS = 4
"""Channels of Stable Diffusion's latents, which these decoders take."""

_PUBLISHED = {
    "consistency": ("openai/consistency-decoder", ""),
    "temporal": ("stabilityai/stable-video-diffusion-img2vid", "vae/"),
}
"""Hub repository, and the path of the decoder's folder in it."""
_CONFIG = "config.json"
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_NOISE_SEED = 0


@runtime_checkable
class Decoder(Protocol):
    """Turns the latents of consecutive frames into images."""

    def stream(self, latent: Float[Tensor, "n c h w"]) -> Iterator[Float[Tensor, "m 3 H W"]]:
        """Decode to images in [0, 1], in order, a few at a time; latents lie on any device."""
        ...


def decode(decoder: Decoder, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
    """Decode all latents at once to images in [0, 1]."""
    return torch.cat([*decoder.stream(latent)])


def check_latents(kind: str, channels: int) -> None:
    """Check that a decoder can read latents of this many channels.

    Raises:
        ValueError: If the number isn't that of Stable Diffusion's latents.
    """
    if channels != LATENT_CHANNELS:
        raise ValueError(
            f"The {kind} decoder needs Stable Diffusion's latents, of {LATENT_CHANNELS} channels, "
            f"got {channels} channels: take the prior's own decoder (vae)."
        )


def fetch_decoder(kind: Kind, weights: str | None = None) -> Path:
    """Return the folder with a decoder's configuration and weights, downloaded if needed.

    Args:
        kind: Which decoder.
        weights: A hub id, with the files at the same path as in the published repository, or a
            folder, with the files at that path or at its top. None means the published model.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be fetched.
    """
    repo, place = _PUBLISHED[kind]
    name = repo if weights is None else weights
    local = Path(name).expanduser()
    if not local.is_dir():
        return _cached_folder(name, place) or _download(kind, name, place)
    for folder in (local / place, local):
        if _is_complete(folder):
            return folder
    raise _not_found(kind, name, f"the folder lacks {_CONFIG} or {_WEIGHTS[0]}")


def load_decoder(
    kind: Kind,
    *,
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """Load a decoder.

    Args:
        kind: Which decoder.
        weights: As for `fetch_decoder`.
        device: Where it runs.
        dtype: Its precision.

    Raises:
        ValueError: If its latents aren't Stable Diffusion's.
        WeightsNotFoundError: If the weights are not there and can't be fetched.
    """
    folder = fetch_decoder(kind, weights)
    import diffusers
    from diffusers.utils import is_accelerate_available

    classes: dict[str, Any] = {
        "consistency": diffusers.ConsistencyDecoderVAE,
        "temporal": diffusers.AutoencoderKLTemporalDecoder,
    }
    # Without accelerate diffusers would fall back to this by itself, with a warning.
    low_memory = is_accelerate_available()
    with reading_part(folder):
        vae = classes[kind].from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=low_memory)
    check_latents(kind, vae.config["latent_channels"])
    vae = vae.to(device).eval().requires_grad_(False)
    return ConsistencyDecoder(vae) if kind == "consistency" else TemporalDecoder(vae)


@dataclass(frozen=True)
class ConsistencyDecoder:
    """Decodes every frame independently, from the same noise.

    Frames are decoded one at a time, since one is enough to keep a GPU busy at full resolution.
    """

    vae: Any
    """A diffusers ConsistencyDecoderVAE."""

    def stream(self, latent: Float[Tensor, "n c h w"]) -> Iterator[Float[Tensor, "1 3 H W"]]:
        """Images in [0, 1], one by one."""
        check_latents("consistency", latent.shape[1])
        for frame in latent.split(1):
            # On the CPU, so that the noise is the same on every device.
            noise = torch.Generator().manual_seed(_NOISE_SEED)
            yield _decoded(self.vae, frame, generator=noise)


@dataclass(frozen=True)
class TemporalDecoder:
    """Decodes frames together with their neighbours."""

    vae: Any
    """A diffusers AutoencoderKLTemporalDecoder."""
    window: int = 8
    """Frames that are decoded together."""
    overlap: int = 2
    """Smallest number of frames that neighbouring windows share."""

    def stream(self, latent: Float[Tensor, "n c h w"]) -> Iterator[Float[Tensor, "m 3 H W"]]:
        """Images in [0, 1], window by window."""
        check_latents("temporal", latent.shape[1])
        # The last window ends with the last frame, so it may overlap its predecessor by more.
        last = max(len(latent) - self.window, 0)
        starts = [*range(0, last, self.window - self.overlap), last]
        shared = None
        for start, following in zip(starts, [*starts[1:], len(latent)], strict=True):
            part = latent[start : start + self.window]
            image01 = _decoded(self.vae, part, num_frames=len(part))
            if shared is not None:
                count = len(shared)
                fade = torch.arange(1, count + 1, device=image01.device) / (count + 1)
                image01[:count] = torch.lerp(shared, image01[:count], fade.view(-1, 1, 1, 1))
            yield image01[: following - start]
            shared = image01[following - start :]


@torch.no_grad()
def _decoded(
    vae: Any, latent: Float[Tensor, "n c h w"], **options: Any
) -> Float[Tensor, "n 3 H W"]:
    unscaled = latent.to(vae.device, vae.dtype) / vae.config["scaling_factor"]
    pixels = vae.decode(unscaled, **options).sample
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


def _is_complete(folder: Path) -> bool:
    weights = any((folder / name).is_file() for name in _WEIGHTS)
    return weights and (folder / _CONFIG).is_file()


def _cached_folder(repo: str, place: str) -> Path | None:
    """The folder in the hub's cache if it is complete; doesn't use the network."""
    config = cached_file(repo, f"{place}{_CONFIG}")
    return config.parent if config is not None and _is_complete(config.parent) else None


def _download(kind: str, repo: str, place: str) -> Path:
    wanted = [f"{place}{name}" for name in (_CONFIG, *_WEIGHTS)]
    try:
        list_files(repo)
        folder = download(repo, wanted) / place
    except HubError as error:
        raise _not_found(kind, repo, str(error)) from None
    if not _is_complete(folder):
        raise _not_found(kind, repo, f"the hub's repository lacks {' or '.join(wanted[:2])}")
    return folder


def _not_found(kind: str, name: str, what: str) -> WeightsNotFoundError:
    repo, place = _PUBLISHED[kind]
    files = " ".join(f"{place}{file}" for file in (_CONFIG, _WEIGHTS[0]))
    return WeightsNotFoundError(
        f"No weights for the {kind} decoder in {name!r}: {what}; fetch them with "
        f"`hf download {repo} {files}`, name a folder that has them, or take the prior's own "
        "decoder (vae)."
    )
