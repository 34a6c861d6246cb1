"""Reads the settings of a loaded run, of an editing method or nerfstudio's own, and adopts them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import ModelConfig

from csd_nerf.methods.common.adoption import Adopted, Sides, preset_of, read_run_config
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.lazy_prior import PriorOptions
from csd_nerf.scene.options import StageOptions

_FRAME_FIELDS = (
    *("scale_factor", "scene_scale", "orientation_method", "center_method", "auto_scale_poses"),
)
"""Options of dataparsers that set the axes and the scale of the scene."""
_KEPT_FIELDS = ("_target", "prompt", "eval_num_rays_per_chunk")
"""Settings of the model that are not adopted from a loaded run."""
_TRAINING = (
    *("edit_patch_size", "edit_num_rays_per_batch", "train_num_rays_per_batch"),
    "only_edited_views",
)
"""Options of training that are adopted if they were given."""


def read_scene_config(
    checkpoint: Path, model: type[ModelConfig], *, command: str, stock: str
) -> TrainerConfig | None:
    """Read the config.yml of the run that a checkpoint belongs to; None if it has none.

    Args:
        checkpoint: The checkpoint, in the folder of its run.
        model: The config of nerfstudio's own model.
        command: Name of the editing method.
        stock: Name of nerfstudio's own method.

    Raises:
        MethodError: If the file can't be read, or is of another method.
    """
    config = read_run_config(checkpoint)
    if config is not None and not isinstance(config.pipeline.model, model):
        raise MethodError(
            f"{command} goes on from runs of {stock} or its own, got one of {config.method_name}."
        )
    return config


def adopt_settings(
    config: TrainerConfig, run: TrainerConfig, checkpoint: Path, model: type[ModelConfig]
) -> Adopted:
    """Adopt the settings with which a scene was trained: of model, dataparser, data and image size.

    From a run of an editing method also those options of editing, training and the prior are
    adopted that were given to it. Options that differ from the preset's were given by the user, and
    stay; but the scene's axes and scale can't change.

    Args:
        config: The config of this run, changed in place.
        run: The config of the loaded run.
        checkpoint: The checkpoint, in the folder of the loaded run.
        model: The config of nerfstudio's own model.
    """
    adopted = Adopted(fixed=_FRAME_FIELDS)
    usual, their_usual = preset_of(config.method_name), preset_of(run.method_name)
    sides = Sides(config, run, usual or config, their_usual or run)
    pipeline = sides.at("pipeline")
    names = [f.name for f in dataclasses.fields(model) if f.name not in _KEPT_FIELDS]
    adopted.take(pipeline.at("model"), names, "pipeline.model")
    if isinstance(run.pipeline, StageOptions):
        # The prompt is asked for first of all, and the rounds of a preset are not an option.
        kinds = (StageOptions, PriorOptions)
        asked = {spec.name for kind in kinds for spec in dataclasses.fields(kind)}
        asked -= {"prompt", "default_rounds"}
        adopted.take_given(pipeline, sorted(asked), "pipeline")
        images = pipeline.at("datamanager")
        given = [name for name in _TRAINING if hasattr(images.ours, name)]
        adopted.take_given(images, given, "pipeline.datamanager")
        adopted.take_given(sides, ["optimizers"], "")
    _adopt_images(adopted, pipeline.at("datamanager"))
    ours: Any = config.pipeline.datamanager
    if type(ours.dataparser) is type(pipeline.theirs.datamanager.dataparser):
        ours.scene_frame = _read_frame(checkpoint.parent.parent)
    return adopted


def _adopt_images(adopted: Adopted, sides: Sides) -> None:
    """Adopt data, dataparser and size of the photographs."""
    ours, theirs = sides.ours, sides.theirs
    parsers = sides.at("dataparser")
    names = [spec.name for spec in dataclasses.fields(ours.dataparser) if spec.name != "_target"]
    changed = [
        name
        for name in names
        if getattr(ours.dataparser, name) != getattr(parsers.usual, name, None)
    ]
    names_data = ours.data is not None or "data" in changed
    if type(parsers.ours) is type(parsers.theirs):
        kept = [name for name in names if name != "data"]
        adopted.take(parsers, kept, "pipeline.datamanager.dataparser")
    elif type(parsers.ours) is type(parsers.usual) and not set(changed) - {"data"}:
        # Another dataparser than the preset's was not asked for.
        ours.dataparser = dataclasses.replace(theirs.dataparser)
    else:
        kinds = (type(parsers.ours).__name__, type(parsers.theirs).__name__)
        adopted.kept["--pipeline.datamanager.dataparser"] = kinds
    if not names_data:
        ours.data, ours.dataparser.data = theirs.data, theirs.dataparser.data
    if isinstance(theirs, type(ours)):
        # Edited images of that run have its image size.
        sizes = ("camera_res_scale_factor", "max_image_size")
        adopted.take(sides, sizes, "pipeline.datamanager")


def _read_frame(folder: Path) -> tuple[float, ...] | None:
    """The axes and scale of a run's scene, as `CSDEditDataManagerConfig.scene_frame` has them."""
    path = folder / "dataparser_transforms.json"
    try:
        content = json.loads(path.read_text("utf8"))
        numbers = [*content["transform"][0], *content["transform"][1], *content["transform"][2]]
        return (*map(float, numbers), float(content["scale"]))
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
