"""Finds the weights of a ControlNet, or downloads them, and checks that they fit a prior.

A ControlNet is a repository of the hub or a folder with a configuration and weights at its top, and
without a `model_index.json`. It works beside the U-Net of the model from which it was trained.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from csd_nerf.priors.control_fitness import check_control, text_width
from csd_nerf.priors.families import CONTROLNET, Family, missing_files, needed_files
from csd_nerf.priors.flat_models import FlatModels, files_in
from csd_nerf.priors.names import known_family
from csd_nerf.priors.weights import Weights, WeightsNotFoundError, find_weights

Control = Literal["canny", "depth"]
"""What the structure image shows that a ControlNet follows: the source's edges, or the depth."""

HUB_CONTROLS = {
    "controlnet-canny": "lllyasviel/control_v11p_sd15_canny",
    "controlnet-depth": "lllyasviel/control_v11f1p_sd15_depth",
    "controlnet-canny-21": "thibaud/controlnet-sd21-canny-diffusers",
    "controlnet-depth-21": "thibaud/controlnet-sd21-depth-diffusers",
}
"""Short names of ControlNets on the hub."""

_USUAL = {768: "controlnet-{}", 1024: "controlnet-{}-21"}
"""Short names of the ControlNets for a model by the width of its texts: that of Stable Diffusion
1.5, and that of 2.1."""
_PLACE = "controlnet"
"""Stands for the subfolder that a ControlNet doesn't have."""
_ALONE = Family("", "text", {_PLACE: CONTROLNET})
"""A ControlNet by itself, for `missing_files`."""


class ControlNotFoundError(WeightsNotFoundError):
    """A ControlNet's weights are missing; the one-line message says what to do."""


def find_controlled(
    name_or_path: str | Path, control: Control, *, model: str | None = None, **files: Any
) -> tuple[Weights, Path]:
    """Do what `find_weights` does for a text-to-image model, and for a ControlNet beside it.

    Args:
        name_or_path: Short name, hub id or folder of the text-to-image model.
        control: What the ControlNet follows.
        model: Short name, hub id or folder of the ControlNet; None takes the usual one for the
            model, Stable Diffusion 1.5 or 2.1.
        files: Options of `find_weights` for the text-to-image model; the ControlNet's files are the
            plain ones.

    Returns:
        The model, and the ControlNet's folder.

    Raises:
        ControlNotFoundError: If the ControlNet's weights are not there and can't be fetched.
        WeightsNotFoundError: If the model's aren't, or it is of the other kind.
        ValueError: If the model takes no ControlNet, or the two don't fit together.
    """
    known = known_family(name_or_path)
    if known is not None:
        _require_controlled(known, name_or_path)
    found = find_weights(name_or_path, kind="text", **files)
    _require_controlled(found.family, name_or_path)
    if model is None:
        width = text_width(found.folder)
        if width not in _USUAL:
            raise ValueError(
                f"The usual ControlNets are for texts of width {' or '.join(map(str, _USUAL))}, "
                f"got {width} from {str(name_or_path)!r}; name a ControlNet for it."
            )
        model = _USUAL[width].format(control)
    repo = CONTROLNETS.repository(model)
    if repo is None:
        beside = Path(model).expanduser()
        _require_whole(beside, model)
    else:
        beside = CONTROLNETS.fetched(repo)
    check_control(beside, found.folder, model)
    return found, beside


def _require_controlled(family: Family, name: str | Path) -> None:
    if family.controlled is None:
        raise ValueError(
            "A ControlNet needs a model of the class StableDiffusionPipeline to work beside, got "
            f"{str(name)!r}, which is of another; name such a model, or leave the control out."
        )


def _needed(files: Collection[str]) -> tuple[list[str], str]:
    """The files to load, or else a phrase for what is missing."""
    placed = {f"{_PLACE}/{name}" for name in files}
    if missing := missing_files(_ALONE, placed):
        return [], ", ".join(missing).replace(f"{_PLACE}/", "")
    needed = needed_files(_ALONE, placed, variant=None)
    return [name.removeprefix(f"{_PLACE}/") for name in needed if name.startswith(_PLACE)], ""


def _require_whole(folder: Path, name: str) -> None:
    if folder.is_file():
        what = f"{folder} is a single file, and a ControlNet is a folder with {CONTROLNET.config}"
    elif not folder.is_dir():
        what = f"the folder {folder} does not exist"
    elif missing := _needed(files_in(folder))[1]:
        what = f"the folder {folder} lacks {missing}"
    else:
        return
    raise _not_found(name, what)


def _not_found(name: str, what: str, repo: str | None = None) -> ControlNotFoundError:
    """The error for missing weights; without `repo` it suggests a ControlNet on the hub."""
    repo = repo or HUB_CONTROLS["controlnet-canny"]
    weights = "diffusion_pytorch_model.safetensors"
    return ControlNotFoundError(
        f"No weights for the ControlNet {name!r}: {what}; fetch them with `hf download {repo} "
        f"{CONTROLNET.config} {weights}`, or name a folder that has both."
    )


CONTROLNETS = FlatModels(HUB_CONTROLS, CONTROLNET.config, _needed, _not_found)
"""How ControlNets are found; their errors are `ControlNotFoundError`."""
