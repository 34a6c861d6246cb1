"""The names of priors: short ones, ids on the hub and folders, and what is known of each by name.

Nothing here needs the network or a prior's weights.
"""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path
from typing import Any

from csd_nerf.priors.families import FAMILIES, INDEX, Family, family_of
from csd_nerf.priors.hub import cached_file

HUB_MODELS = {
    "instruct-pix2pix": (
        "timbrooks/instruct-pix2pix",
        "StableDiffusionInstructPix2PixPipeline",
    ),
    "sdxl-instruct-pix2pix": (
        "diffusers/sdxl-instructpix2pix-768",
        "StableDiffusionXLInstructPix2PixPipeline",
    ),
    "flux2-klein": ("black-forest-labs/FLUX.2-klein-base-4B", "Flux2KleinPipeline"),
    "flux-kontext": ("black-forest-labs/FLUX.1-Kontext-dev", "FluxKontextPipeline"),
    "qwen-image-edit": ("Qwen/Qwen-Image-Edit-2511", "QwenImageEditPlusPipeline"),
    "stable-diffusion": (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "StableDiffusionPipeline",
    ),
    "deepfloyd-if": ("DeepFloyd/IF-I-XL-v1.0", "IFPipeline"),
}
"""Short names of models on the hub: their repository and their pipeline's class."""

BUNDLED_MODELS = {
    "tiny": ("assets/tiny", "StableDiffusionInstructPix2PixPipeline"),
    "tiny-text": ("assets/tiny_text", "IFPipeline"),
}
"""Models that are installed with the package: their folder inside it and their pipeline's class."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def is_bundled(name_or_path: str | Path) -> bool:
    """Whether this is the name of a model that is installed with the package."""
    return str(name_or_path) in BUNDLED_MODELS


def bundled_folder(name: str) -> Path:
    """The folder of a model of `BUNDLED_MODELS`."""
    return Path(str(resources.files("csd_nerf"))) / BUNDLED_MODELS[name][0]


def hub_id(name_or_path: str | Path) -> str | None:
    """The hub repository of a name; None for local folders."""
    name = str(name_or_path)
    if name in HUB_MODELS:
        return HUB_MODELS[name][0]
    is_path = isinstance(name_or_path, Path) or Path(name).exists()
    return name if not is_path and _HUB_ID.fullmatch(name) else None


def usual_numbers(name_or_path: str | Path) -> dict[str, Any]:
    """The fields of `Usual` for a prior, without the network or its weights.

    Empty for a model whose family can't be known yet, or that names none.
    """
    family = known_family(name_or_path)
    return dataclasses.asdict(family.usual) if family is not None and family.usual else {}


def check_quantity(name_or_path: str | Path, quantity: str, *, name: str) -> None:
    """Check that a prior predicts what a residual is of, without the network or its weights.

    A model whose family can't be known yet passes; the editor checks again.

    Args:
        name_or_path: The prior.
        quantity: `EditSettings.quantity`.
        name: The caller's name for it.

    Raises:
        ValueError: If the quantity is the velocity, and the model is no flow.
    """
    family = known_family(name_or_path)
    if quantity == "velocity" and family is not None and not family.flow:
        raise ValueError(
            f"{name} velocity needs a flow model, such as flux2-klein, got {name_or_path}, which "
            f"predicts noise; take {name} noise, or another prior."
        )


def known_family(name_or_path: str | Path) -> Family | None:
    """The family of a prior without the network or its weights; None if it can't be known yet."""
    published = {repo: (repo, of) for repo, of in HUB_MODELS.values()}
    known = {**published, **HUB_MODELS, **BUNDLED_MODELS}.get(str(name_or_path))
    if known:
        return FAMILIES[known[1]]
    repo = hub_id(name_or_path)
    index = cached_file(repo, INDEX) if repo else Path(name_or_path).expanduser() / INDEX
    try:
        return family_of(index) if index is not None else None
    except (ValueError, OSError):
        return None
