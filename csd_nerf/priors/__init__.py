"""2D diffusion priors: their common interface, and the loading of models.

Importing this package loads neither diffusers nor transformers; `load` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from csd_nerf.priors.base import Branch, Prior
from csd_nerf.priors.compilation import Compile, compile_choice
from csd_nerf.priors.control_weights import Control, ControlNotFoundError, find_controlled
from csd_nerf.priors.families import Condition, Kind
from csd_nerf.priors.names import check_quantity, is_bundled, known_family, usual_numbers
from csd_nerf.priors.placement import Offload, Quantize, check_placement
from csd_nerf.priors.precisions import DTYPES, precision
from csd_nerf.priors.weights import WeightsNotFoundError, fetch, find_weights

__all__ = [
    "DTYPES",
    "Branch",
    "Compile",
    "Condition",
    "Control",
    "ControlNotFoundError",
    "Kind",
    "Offload",
    "Prior",
    "Quantize",
    "WeightsNotFoundError",
    "check_placement",
    "check_quantity",
    "fetch",
    "find_controlled",
    "is_bundled",
    "known_family",
    "load",
    "precision",
    "usual_numbers",
]


def load(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    kind: Kind = "edit",
    variant: str | None = None,
    condition: Condition = "raw",
    vae_tiling: bool = False,
    control: Control | None = None,
    control_model: str | None = None,
    control_scale: float = 1.0,
    offload: Offload = "none",
    quantize: Quantize = "none",
    compile: Compile = "off",
    split: Sequence[str] = (),
    tell: Callable[[str], None] = print,
) -> Prior:
    """Load a prior of any family in `csd_nerf.priors.families`.

    Args:
        name_or_path: A short name (`HUB_MODELS` in `csd_nerf.priors.names`, such as
            `instruct-pix2pix` or `flux2-klein`, or the bundled `tiny` and `tiny-text`, which run on
            a CPU), a hub id, or a folder.
        device: Where the model runs.
        dtype: Precision of the model, as a torch dtype, a key of `DTYPES`, or `auto`; see
            `precision`.
        kind: The kind that the caller needs: `edit`, a model that edits an image by an instruction,
            or `text`, a model that makes images from descriptions.
        variant: Which weight files to load, such as `fp16` for `*.fp16.safetensors`; see
            `find_weights` in `csd_nerf.priors.weights` for None.
        condition: Scale of the source's latent where it conditions an editing model. raw: the
            autoencoder's own, on which InstructPix2Pix was trained. scaled: that of the noisy
            latents, as in the authors' release of CSD.
        vae_tiling: Encode and decode large images in overlapping tiles, which saves memory; the
            result changes slightly where tiles meet.
        control: What a ControlNet beside Stable Diffusion follows; None means no ControlNet.
        control_model: Its short name (`HUB_CONTROLS` in `csd_nerf.priors.control_weights`), hub id
            or folder; None takes the usual one for the model.
        control_scale: Factor of the ControlNet's outputs.
        offload: What waits on the CPU until it is needed, which saves the device's memory, takes
            time, and leaves the result as it is. text: the text encoders. model: the denoiser's
            layers too.
        quantize: Precision of the weights of the denoiser's linear layers, and, unless they are
            offloaded, of those of T5 and Qwen. none: dtype. 8bit, 4bit: by bitsandbytes, on a
            CUDA device.
        compile: Whether networks are compiled, by torch.compile, at their first call. auto: on a
            CUDA device, if nothing is offloaded, quantised or split. graphs: with CUDA graphs.
        split: Further devices, such as `cuda:1`, which take a part of the denoiser's blocks each;
            for a model that exceeds the memory of one.
        tell: Called with a line for the user that says how long that took, or why it failed.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be fetched, or the model is
            of the other kind.
        ValueError: If dtype is not one of `DTYPES`, the condition is scaled for a model that takes
            none, the family is unknown or takes no ControlNet, the parts don't fit together, or it
            can't be placed or compiled so (`check_placement`).
        ImportError: If the tokenizer or quantising needs a package that is not installed.
    """
    where = torch.device(device)
    # Before anything is fetched.
    place: dict[str, Any] = {"offload": offload, "quantize": quantize, "split": split}
    check_placement(device=where, compile=compile, **place)
    if condition != "raw" and kind != "edit":
        raise ValueError(
            f"condition needs an editing model, which sees a source, got {condition} for a "
            "text-to-image model; leave it at raw."
        )
    if control is not None and kind != "text":
        raise ValueError(
            f"A ControlNet needs a text-to-image model, got the control {control} for an editing "
            "model; leave it out."
        )
    if control is not None and split:
        raise ValueError(
            f"A ControlNet needs a model on one device, got a split over {' '.join(split)} too; "
            "leave one of them out."
        )
    # Only families with a condition or a ControlNet know its options.
    options: dict[str, Any] = {} if condition == "raw" else {"condition": condition}
    files: dict[str, Any] = {"variant": variant, "device": where, "dtype": dtype}
    if control is None:
        found = find_weights(name_or_path, kind=kind, **files)
    else:
        found, beside = find_controlled(name_or_path, control, model=control_model, **files)
        options |= {"control": control, "control_folder": beside, "control_scale": control_scale}
    family = found.family
    if condition != "raw" and not family.sources:
        raise ValueError(
            f"condition {condition} needs a model whose U-Net takes the source's latent as "
            f"channels, got {name_or_path}; leave it at raw."
        )
    prior: Any = family.load(
        found.folder,
        controlled=control is not None,
        name=str(name_or_path),
        device=where,
        dtype=precision(dtype, device=where, half=family.half),
        variant=found.variant,
        vae_tiling=vae_tiling,
        **place,
        **options,
    )
    place["split"] = bool(split)
    chosen = compile_choice(compile, device=where, **place)
    if chosen != "off":
        prior.compile(graphs=chosen == "graphs", tell=tell)
    return prior
