"""Checks, from files alone, that a ControlNet can work beside a text-to-image model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csd_nerf.priors.families import CONTROLNET, UNET, VAE
from csd_nerf.priors.fitness import CONDITIONS, check_whole, read_config

_LEVELS: dict[str, Any] = {
    "in_channels": 4,
    "cross_attention_dim": 1280,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
}
"""Fields in which a ControlNet must agree with the U-Net, since its outputs are added to what the
U-Net's levels hand on; with diffusers' defaults."""
_EMBEDDING = [16, 32, 96, 256]
"""diffusers' default channels of the layers that shrink the structure image, each to half its size
but the first."""


def text_width(base: Path) -> int:
    """The width of the texts that the U-Net of a complete folder takes."""
    field = "cross_attention_dim"
    return read_config(base / "unet" / UNET.config, UNET, str(base)).get(field, _LEVELS[field])


def check_control(folder: Path, base: Path, name: str) -> None:
    """Check that a ControlNet fits the U-Net and the autoencoder beside which it is to work.

    Args:
        folder: The ControlNet's complete folder.
        base: The complete folder of a text-to-image model.
        name: The name under which the ControlNet was asked for, for messages.

    Raises:
        ValueError: If it is of another class, is damaged or doesn't fit.
    """
    config = read_config(folder / CONTROLNET.config, CONTROLNET, name, part="network")
    check_whole(folder, name)
    unet = read_config(base / "unet" / UNET.config, UNET, str(base))
    vae = read_config(base / "vae" / VAE.config, VAE, str(base))
    layers = config.get("conditioning_embedding_out_channels") or _EMBEDDING
    fields: dict[str, tuple[Any, Any]] = {
        **{
            name: (unet.get(name, usual), config.get(name, usual))
            for name, usual in _LEVELS.items()
        },
        "conditioning_channels": (3, config.get("conditioning_channels", 3)),
        "global_pool_conditions": (False, config.get("global_pool_conditions", False)),
        "halvings of its image": (len(vae.get("block_out_channels", [64])) - 1, len(layers) - 1),
        **{name: (None, config.get(name)) for name in (*CONDITIONS, "addition_embed_type")},
    }
    for field, (wanted, got) in fields.items():
        if wanted != got:
            raise ValueError(
                f"The ControlNet {name!r} needs {field} {wanted} beside the model in {base}, got "
                f"{got}: name a ControlNet that was trained for this model."
            )
