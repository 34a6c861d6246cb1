"""Reads the settings of a loaded run, of nerfacto or csd-edit, and adopts them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig

from csd_nerf.core.settings import EditSettings
from csd_nerf.media import run_config
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.lazy_prior import PriorOptions
from csd_nerf.scene.stage import StageOptions

_FRAME_FIELDS = (
    *("scale_factor", "scene_scale", "orientation_method", "center_method", "auto_scale_poses"),
)
"""Options of dataparsers that set the axes and the scale of the scene."""
_KEPT_FIELDS = ("_target", "prompt", "eval_num_rays_per_chunk")
"""Settings of the model that are not adopted from a loaded run."""


def read_run_config(checkpoint: Path) -> TrainerConfig | None:
    """Read the config.yml of the run that a checkpoint belongs to; None if it has none.

    Raises:
        MethodError: If the file can't be read, or is of another method.
    """
    path = checkpoint.parent.parent / "config.yml"
    if not path.is_file():
        return None
    try:
        config = run_config.read_run_config(path)
    except ValueError as error:
        raise MethodError(str(error)) from None
    if not isinstance(config, TrainerConfig):
        raise MethodError(f"{path} is not the config of a nerfstudio run.")
    if not isinstance(config.pipeline.model, NerfactoModelConfig):
        raise MethodError(
            f"csd-edit goes on from runs of nerfacto or its own, got one of {config.method_name}."
        )
    return config


def adopt_settings(config: TrainerConfig, run: TrainerConfig, checkpoint: Path) -> Adopted:
    """Adopt the settings with which a scene was trained: of model, dataparser, data and image size.

    From a run of csd-edit also those options of editing and of the prior are adopted that were
    given to it. Options that differ from the preset's were given by the user, and stay; but the
    scene's axes and scale can't change.

    Args:
        config: The config of this run, changed in place.
        run: The config of the loaded run.
        checkpoint: The checkpoint, in the folder of the loaded run.
    """
    adopted = Adopted()
    preset = _preset(config.method_name)
    usual: Any = preset.pipeline if preset is not None else config.pipeline
    names = [f.name for f in dataclasses.fields(NerfactoModelConfig) if f.name not in _KEPT_FIELDS]
    ours: Any = config.pipeline
    theirs: Any = run.pipeline
    for name in names:
        adopted.take((ours.model, theirs.model, usual.model), name, "pipeline.model")
    given_to = _preset(run.method_name)
    if isinstance(run.pipeline, StageOptions) and given_to is not None:
        _adopt_editing(adopted, ours, theirs, usual, given_to.pipeline)
    usual = usual.datamanager
    _adopt_images(adopted, ours.datamanager, theirs.datamanager, usual)
    if type(ours.datamanager.dataparser) is type(theirs.datamanager.dataparser):
        ours.datamanager.scene_frame = _read_frame(checkpoint.parent.parent)
    return adopted


@dataclasses.dataclass
class Adopted:
    """What became of the settings of a loaded run.

    Attributes:
        kept: The user's options that stayed, with their values, and those of the loaded run.
        refused: The user's options that could not be honoured, in the same form.
        taken: Options of editing that were given to the loaded run, with their values.
    """

    taken: dict[str, Any] = dataclasses.field(default_factory=dict)
    kept: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    refused: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def take(self, options: tuple[Any, Any, Any], name: str, prefix: str) -> None:
        """Adopt a field of (ours, theirs, the preset's), unless the user gave it."""
        ours, theirs, usual = (getattr(o, name) for o in options)
        path = f"{prefix}.{name}"
        if dataclasses.is_dataclass(ours) and type(ours) is type(theirs) is type(usual):
            for spec in dataclasses.fields(ours):
                if spec.name != "_target":
                    self.take((ours, theirs, usual), spec.name, path)
            return
        if ours == theirs:
            return
        option = "--" + path.replace("_", "-")
        if ours != usual and name not in _FRAME_FIELDS:
            self.kept[option] = (ours, theirs)
            return
        if ours != usual:
            self.refused[option] = (ours, theirs)
        setattr(options[0], name, theirs)

    def misfit_remedy(self, usual: str) -> str:
        """What to do if the checkpoint doesn't fit the model; `usual` if no option is to blame."""
        given = [option for option in self.kept if option.startswith("--pipeline.model.")]
        return f"leave out {', '.join(given)}" if given else usual

    def notices(self) -> list[str]:
        """What the user may not expect, without full stops."""
        found = [
            f"{option} {value} is taken over from the loaded run"
            for option, value in self.taken.items()
        ]
        found += [
            f"{option} {ours} stays as given, the loaded run had {theirs}"
            for option, (ours, theirs) in self.kept.items()
        ]
        return found + [
            f"{option} {ours} can't be honoured, since the loaded scene was trained with {theirs}"
            for option, (ours, theirs) in self.refused.items()
        ]


def _adopt_editing(adopted: Adopted, ours: Any, theirs: Any, usual: Any, given_to: Any) -> None:
    """Adopt the options of editing and of the prior that were given to the loaded run.

    Args:
        adopted: What becomes of them.
        ours: Config of this run's pipeline, changed in place.
        theirs: That of the loaded run.
        usual: That of this run's preset.
        given_to: That of the loaded run's preset.
    """

    def given(path: str, names: Iterable[str], *configs: Any) -> dict[str, Any]:
        """The fields to adopt, of (ours, theirs, usual, given_to)."""
        found = {}
        for name in names:
            mine, their, preset, their_preset = (getattr(config, name) for config in configs)
            if mine == preset and their not in (their_preset, mine):
                option = f"--{path}.{name}".replace("_", "-")
                found[name] = adopted.taken[option] = their
        return found

    # The prompt is asked for first of all, and the rounds of a preset are not an option.
    names = {f.name for kind in (StageOptions, PriorOptions) for f in dataclasses.fields(kind)}
    names -= {"prompt", "default_rounds", "edit"}
    for name, value in given("pipeline", sorted(names), ours, theirs, usual, given_to).items():
        setattr(ours, name, value)
    edits = (ours.edit, theirs.edit, usual.edit, given_to.edit)
    fields = [spec.name for spec in dataclasses.fields(EditSettings)]
    ours.edit = dataclasses.replace(ours.edit, **given("pipeline.edit", fields, *edits))


def _preset(method: str | None) -> TrainerConfig | None:
    """The config of a method before the user's options."""
    # Late: it imports the configs of all methods, this one among them.
    from nerfstudio.configs.method_configs import all_methods

    return all_methods.get(method) if method is not None else None


def _adopt_images(adopted: Adopted, ours: Any, theirs: Any, usual: Any) -> None:
    """Adopt data, dataparser and size of the photographs."""
    parsers = (ours.dataparser, theirs.dataparser, usual.dataparser)
    changed = [
        spec.name
        for spec in dataclasses.fields(ours.dataparser)
        if spec.name != "_target"
        and getattr(ours.dataparser, spec.name) != getattr(usual.dataparser, spec.name, None)
    ]
    names_data = ours.data is not None or "data" in changed
    if type(parsers[0]) is type(parsers[1]):
        for spec in dataclasses.fields(ours.dataparser):
            if spec.name not in ("_target", "data"):
                adopted.take(parsers, spec.name, "pipeline.datamanager.dataparser")
    elif type(parsers[0]) is type(parsers[2]) and not set(changed) - {"data"}:
        # Another dataparser than the preset's was not asked for.
        ours.dataparser = dataclasses.replace(theirs.dataparser)
    else:
        kinds = [type(parser).__name__ for parser in parsers]
        adopted.kept["--pipeline.datamanager.dataparser"] = (kinds[0], kinds[1])
    if not names_data:
        ours.data, ours.dataparser.data = theirs.data, theirs.dataparser.data
    if isinstance(theirs, type(ours)):
        # Edited images of that run have its image size.
        for name in ("camera_res_scale_factor", "max_image_size"):
            adopted.take((ours, theirs, usual), name, "pipeline.datamanager")


def _read_frame(folder: Path) -> tuple[float, ...] | None:
    """The axes and scale of a run's scene, as `CSDEditDataManagerConfig.scene_frame` has them."""
    path = folder / "dataparser_transforms.json"
    try:
        content = json.loads(path.read_text("utf8"))
        numbers = [*content["transform"][0], *content["transform"][1], *content["transform"][2]]
        return (*map(float, numbers), float(content["scale"]))
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
