"""Checks, from its files alone, that a model can work as a prior of its family.

They take no time and load no weights, so that a run fails at its start, not at the first call of
the prior.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from csd_nerf.json_files import read_json
from csd_nerf.priors.families import INDEX, Component, Family

PREDICTION_TYPES = ("epsilon", "v_prediction")
"""What a U-Net may return."""
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
CONDITIONS: dict[str, tuple[Any, ...]] = {
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "encoder_hid_dim_type": (None, "text_proj"),
    "time_cond_proj_dim": (None,),
}
"""Fields of a U-Net's configuration that ask for conditions, with the values that ask for none but
the text."""


def check_parts(folder: Path, family: Family, name: str) -> None:
    """Check classes, channels, conditions, text width and schedule of a complete folder.

    Args:
        folder: The folder.
        family: Its family.
        name: The name under which the prior was asked for, for messages.

    Raises:
        ValueError: If a part is of another class, is damaged or doesn't fit the others.
    """
    configs = {
        place: read_config(folder / place / component.config, component, name)
        for place, component in family.components.items()
        if component.classes or place == "scheduler"
    }
    for place in family.components:
        check_whole(folder / place, name)
    if "transformer" in configs:
        _check_flow(folder, configs, name)
        return
    if "scheduler" in configs:
        check_schedule(configs["scheduler"], name)
    if "unet" not in configs:
        return
    check_unet(
        configs["unet"],
        name,
        latent_channels=configs["vae"]["latent_channels"] if "vae" in configs else None,
        sources=family.sources,
        of=family.loader.split(":")[1],
        additions=family.additions,
    )
    texts = [config for place, config in configs.items() if place.startswith("text_encoder")]
    _check_text_width(configs["unet"], texts, name)


def check_unet(
    config: Mapping[str, Any],
    name: str,
    *,
    latent_channels: int | None,
    sources: Sequence[str],
    of: str,
    additions: Sequence[str | None] = (None, "text"),
) -> None:
    """Check the channels, the size and the conditions of a U-Net.

    Args:
        config: Its configuration.
        name: Name of the prior, for messages.
        latent_channels: Channels of the autoencoder; None for RGB pixels.
        sources: Names of the latents that are channels of its input too.
        of: Name of the prior's class.
        additions: What `addition_embed_type` may be.

    Raises:
        ValueError: If one doesn't fit.
    """
    got, channels = config["in_channels"], latent_channels or 3
    if latent_channels is None and got != channels:
        raise ValueError(
            f"A pixel-space U-Net takes {channels} channels, that of {name!r} takes {got}: name "
            "another model."
        )
    wanted = channels * (1 + len(sources))
    if got != wanted:
        what = " and ".join(["latent", *sources])
        raise ValueError(
            f"The U-Net of {name!r} needs {wanted} input channels ({what}) to be one of {of}, got "
            f"{got}: name another model."
        )
    if config["out_channels"] not in (channels, 2 * channels):
        raise ValueError(
            f"The U-Net of {name!r} needs {channels} output channels, or twice as many with a "
            f"variance, got {config['out_channels']}: name another model."
        )
    if not isinstance(config["sample_size"], int):
        raise ValueError(
            "The U-Net's sample_size needs one integer (latent cells along an edge), got "
            f"{config['sample_size']} from {name!r}: set it in unet/config.json."
        )
    for field, usual in {**CONDITIONS, "addition_embed_type": (*additions,)}.items():
        if config.get(field) not in usual:
            raise ValueError(
                f"The U-Net of {name!r} may be conditioned on text and source image only, got "
                f"{field} {config[field]}: name another model."
            )


class _FlowIndex(BaseModel, extra="ignore"):
    """What a pipeline's index says of a flow beside its parts."""

    is_distilled: bool = False


def _check_flow(folder: Path, configs: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """Check the scheduler, the channels and the guidance of a flow transformer.

    Raises:
        ValueError: If one doesn't fit.
    """
    what, remedy = "a pipeline's index", "fetch it again"
    if read_json(folder / INDEX, _FlowIndex, what=what, remedy=remedy).is_distilled:
        raise ValueError(
            f"An editing prior needs a model with guidance at every noise level, got {name!r}, "
            "which is distilled to a few steps: name the base model, such as "
            "black-forest-labs/FLUX.2-klein-base-4B."
        )
    solver = configs["scheduler"].get("_class_name")
    if solver != "FlowMatchEulerDiscreteScheduler":
        raise ValueError(
            f"A flow transformer needs a FlowMatchEulerDiscreteScheduler, got {solver} from "
            f"{name!r}: name another model."
        )
    autoencoder, got = configs["vae"], configs["transformer"]["in_channels"]
    latents = autoencoder.get("z_dim", autoencoder["latent_channels"])
    if got != 4 * latents:
        raise ValueError(
            f"The transformer of {name!r} needs {4 * latents} input channels (2 x 2 cells of the "
            f"autoencoder), got {got}: name another model."
        )


def check_schedule(config: Mapping[str, Any], name: str) -> None:
    """Check that a scheduler's configuration holds a training schedule of discrete timesteps.

    Raises:
        ValueError: If it doesn't, or the model predicts neither noise nor v.
    """
    shape = config.get("beta_schedule")
    if config.get("trained_betas") is None and (
        shape not in _BETA_SCHEDULES or not {"beta_start", "beta_end"} <= config.keys()
    ):
        raise ValueError(
            f"The schedule of {name!r} needs betas (trained_betas, or beta_start, beta_end and a "
            f"beta_schedule of {', '.join(_BETA_SCHEDULES)}), got "
            f"{config.get('_class_name', 'a scheduler')} with beta_schedule {shape}: name another "
            "model."
        )
    check_prediction_type(config.get("prediction_type", "epsilon"), name)


def check_prediction_type(prediction_type: str, name: str) -> None:
    """Check what a U-Net returns.

    Raises:
        ValueError: If it is not one of `PREDICTION_TYPES`.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type needs one of {', '.join(PREDICTION_TYPES)}, "
            f"got {prediction_type!r} from {name!r}: name another model."
        )


def _check_text_width(
    unet: Mapping[str, Any], texts: Sequence[Mapping[str, Any]], name: str
) -> None:
    found = [text.get("hidden_size", text.get("d_model")) for text in texts]
    width = None if None in found else sum(found)
    wanted = unet.get("encoder_hid_dim") or unet.get("cross_attention_dim", 1280)
    widths = wanted if isinstance(wanted, list | tuple) else [wanted]
    if width is not None and any(w != width for w in widths):
        raise ValueError(
            f"The U-Net of {name!r} needs texts of width {wanted}, got {width} from its "
            "text encoder: name another model."
        )


class _Config(BaseModel, extra="allow"):
    """The fields that are looked at, with diffusers' defaults."""

    in_channels: int = 4
    out_channels: int | None = 4
    latent_channels: int = 4
    sample_size: Any = None


def read_config(
    path: Path, component: Component, name: str, *, part: str | None = None
) -> dict[str, Any]:
    """Read the configuration of a part.

    Args:
        path: Its file.
        component: The part; says of which class it may be.
        name: The name under which it was asked for, for messages.
        part: The part's name for messages; None means that of the folder.

    Raises:
        ValueError: If it can't be read, or is of another class.
    """
    what = f"the configuration of a part of the prior {name!r}"
    config = read_json(path, _Config, what=what, remedy="fetch it again").model_dump()
    # diffusers writes the one, transformers the other.
    kind = config.get("_class_name") or config.get("model_type")
    if component.classes and kind not in component.classes:
        raise ValueError(
            f"The {part or path.parent.name} of {name!r} must be "
            f"{' or '.join(component.classes)}, got "
            f"{kind} from {path}: name another model."
        )
    return config


def check_whole(folder: Path, name: str) -> None:
    """Check that no weight file in a folder is cut short.

    Raises:
        ValueError: If one is.
    """
    for weights in sorted(folder.iterdir()):
        if weights.suffix in _WHOLE and not _WHOLE[weights.suffix](weights):
            raise ValueError(
                f"The weights of {name!r} must be whole, got {weights}, which breaks off or is "
                "damaged; fetch them again."
            )


def _is_whole_safetensors(path: Path) -> bool:
    """Whether a file is as long as its header says."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        try:
            header: Any = json.loads(file.read(length)) if length <= size else None
            ends = [part["data_offsets"][1] for key, part in header.items() if key[:2] != "__"]
            return size == 8 + length + max(ends, default=0)
        except (ValueError, AttributeError, KeyError, TypeError, IndexError):
            return False


def _is_whole_archive(path: Path) -> bool:
    """Whether a file of torch.save has its end; one of a torch before 1.6 isn't looked at."""
    with path.open("rb") as file:
        return file.read(2) != b"PK" or zipfile.is_zipfile(file)


_WHOLE: dict[str, Callable[[Path], bool]] = {
    ".safetensors": _is_whole_safetensors,
    ".bin": _is_whole_archive,
}
"""How weights are known to be whole, by the suffix of their file."""
