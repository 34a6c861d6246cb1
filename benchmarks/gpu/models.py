"""Priors of a real model's classes and sizes, with random weights.

Time and memory are those of the real model; the edits are meaningless.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from csd_nerf.media.files import write_json
from csd_nerf.priors.architectures import configurations
from csd_nerf.priors.families import FAMILIES, INDEX, missing_files
from csd_nerf.priors.prior_costs import prior_costs
from csd_nerf.priors.skeletons import skeleton, skeleton_parts

_KLEIN = "Flux2KleinPipeline"
TINY_KLEIN: dict[str, dict[str, Any]] = {
    "transformer": {
        "_class_name": "Flux2Transformer2DModel",
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 48,
        "timestep_guidance_channels": 32,
        "axes_dims_rope": [4, 4, 4, 4],
        "guidance_embeds": False,
    },
    "vae": {
        "_class_name": "AutoencoderKLFlux2",
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [8, 8],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 16,
    },
    "text_encoder": {
        "model_type": "qwen3",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 30,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 64,
    },
}
"""FLUX.2 [klein]'s classes in a size for a test."""


def write_tiny_klein(folder: Path) -> Path:
    """Write the configurations of `TINY_KLEIN` in diffusers' layout; its other files are empty."""
    for path in missing_files(FAMILIES[_KLEIN], ()):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    for place, config in TINY_KLEIN.items():
        write_json(folder / place / "config.json", config)
    write_json(folder / INDEX, {"_class_name": _KLEIN})
    return folder


def random_model(name: str, *, device: torch.device, dtype: torch.dtype) -> Any:
    """A prior with random weights; its texts are random rows of the real ones' shapes.

    All parts are on the device, text encoders too, as they are in a run, although they aren't used.
    The global random state is not changed.

    Args:
        name: A short name, or a folder with the configurations.
        device: Where all parts are made.
        dtype: Their precision.

    Raises:
        ValueError: If the architecture isn't known.
    """
    configs, family = configurations(name)
    parts = skeleton_parts(configs, family, dtype=dtype)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part in parts.values():
            _fill(part.to_empty(device=device))
    prior = skeleton(parts, family, name=name)
    shown = prior_costs(name, dtype).text_rows

    def encode_text(prompts: Sequence[str], image_rows: Any = None) -> dict[str, Tensor]:
        del image_rows
        chance = torch.Generator().manual_seed(len(prompts[0]))
        shapes = {key: (len(prompts), *shape[1:]) for key, shape in shown.items()}
        return {key: torch.randn(s, generator=chance).to(device) for key, s in shapes.items()}

    prior.encode_text = encode_text
    return prior


@torch.no_grad()
def _fill(part: nn.Module) -> None:
    """Weights that keep the size of what passes through them."""
    for name, weight in part.named_parameters():
        if weight.ndim < 2:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            weight.normal_(0, weight[0].numel() ** -0.5)
    for name, buffer in part.named_buffers():
        buffer.fill_(1.0 if name.endswith("var") else 0.0)
