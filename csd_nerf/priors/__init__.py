"""2D diffusion priors: one interface, and what stands behind it.

Editing priors come from `load`, text-to-image priors from `load_text_to_image`. Importing this
package loads neither diffusers nor transformers; these two functions do.
"""

from __future__ import annotations

from pathlib import Path

import torch

from csd_nerf.priors.base import Branch, Prior, Text, TextToImage
from csd_nerf.priors.weights import WeightsNotFoundError, check, fetch

__all__ = [
    "DTYPES",
    "Branch",
    "Prior",
    "Text",
    "TextToImage",
    "WeightsNotFoundError",
    "check",
    "fetch",
    "load",
    "load_text_to_image",
]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""The precisions in which a prior can run."""


def load(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    variant: str | None = None,
    vae_slicing: bool = False,
    vae_tiling: bool = False,
) -> Prior:
    """Load an image-editing prior.

    Args:
        name_or_path: `instruct-pix2pix`, `tiny` (bundled, for a CPU), a hub id, or a folder; the
            last two in the layout of diffusers' StableDiffusionInstructPix2PixPipeline.
        device: Where the model runs.
        dtype: Precision of the model, as a torch dtype or a key of `DTYPES`.
        variant: Which weight files: `fp16` stands for `*.fp16.safetensors`.
        vae_slicing: Encode and decode one image at a time; saves memory, same result.
        vae_tiling: Encode and decode large images in overlapping tiles; saves memory, and
            changes the result slightly where tiles meet.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be fetched.
        ValueError: If dtype is not one of `DTYPES`, or the model is not an InstructPix2Pix.
    """
    precision = _precision(dtype)
    folder = fetch(name_or_path, variant=variant)
    from csd_nerf.priors.instruct_pix2pix import InstructPix2Pix

    return InstructPix2Pix.from_folder(
        folder,
        name=str(name_or_path),
        device=torch.device(device),
        dtype=precision,
        variant=variant,
        vae_slicing=vae_slicing,
        vae_tiling=vae_tiling,
    )


def load_text_to_image(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    variant: str | None = None,
) -> TextToImage:
    """Load a text-to-image prior.

    A folder or repository with a vae/ is a latent model, one without diffuses pixels.

    Args:
        name_or_path: `deepfloyd-if`, `stable-diffusion`, `tiny-text` (bundled, for a CPU), a hub
            id, or a folder; the last two in the layout of diffusers' StableDiffusionPipeline or
            IFPipeline.
        device: Where the model runs.
        dtype: Precision of the model, as a torch dtype or a key of `DTYPES`.
        variant: Which weight files: `fp16` stands for `*.fp16.safetensors`.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be fetched.
        ValueError: If dtype is not one of `DTYPES`, or the model makes no images from texts.
        ImportError: If the tokenizer needs a package that is not installed.
    """
    precision = _precision(dtype)
    folder = fetch(name_or_path, variant=variant, kind="text")
    if (folder / "vae").is_dir():
        from csd_nerf.priors.stable_diffusion import StableDiffusion as Model
    else:
        from csd_nerf.priors.deepfloyd_if import DeepFloydIF as Model
    return Model.from_folder(
        folder,
        name=str(name_or_path),
        device=torch.device(device),
        dtype=precision,
        variant=variant,
    )


def _precision(dtype: torch.dtype | str) -> torch.dtype:
    precision = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if precision is None or precision not in DTYPES.values():
        raise ValueError(f"dtype needs one of {', '.join(DTYPES)}, got {dtype}.")
    return precision
