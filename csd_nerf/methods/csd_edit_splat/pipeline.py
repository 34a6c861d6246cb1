"""splatfacto's pipeline with the editing stage between its training steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from csd_nerf.methods.common.edit_pipeline import EditPipeline, EditPipelineConfig
from csd_nerf.methods.csd_edit_splat.datamanager import (
    CSDEditSplatDataManager,
    CSDEditSplatDataManagerConfig,
)
from csd_nerf.methods.csd_edit_splat.model import (
    GAUSSIANS,
    PER_PHOTOGRAPH,
    CSDEditSplatModel,
    CSDEditSplatModelConfig,
)
from csd_nerf.methods.csd_edit_splat.scene import SplatScene


@dataclass
class CSDEditSplatPipelineConfig(EditPipelineConfig):
    """Options of the pipeline: of the editing stage, the prior, the images and the model."""

    _target: type = field(default_factory=lambda: CSDEditSplatPipeline)
    datamanager: CSDEditSplatDataManagerConfig = field(
        default_factory=CSDEditSplatDataManagerConfig
    )
    """Options of images."""
    model: CSDEditSplatModelConfig = field(default_factory=CSDEditSplatModelConfig)
    """Options of the scene's model."""


class CSDEditSplatPipeline(EditPipeline):
    """Trains Gaussian splats and edits them."""

    config: CSDEditSplatPipelineConfig
    datamanager: CSDEditSplatDataManager
    scene: SplatScene
    command = "csd-edit-splat"
    per_photograph = PER_PHOTOGRAPH
    _is_loaded = False

    @property
    def model(self) -> CSDEditSplatModel:
        """The scene's model."""
        return self._model  # pyright: ignore[reportReturnType]

    @property
    def notices(self) -> list[str]:
        """What was put right, or could not be honoured, so far; without full stops."""
        found = super().notices
        if self.model.seed_points is None and not self._is_loaded:
            found.append(
                "the data has no 3D points (ply_file_path in transforms.json): "
                f"{self.config.model.num_random} Gaussians begin at random places"
            )
        return found

    def open_scene(self) -> SplatScene:
        """The model and its images, with the interface that the stage uses."""
        return SplatScene(self.model, self.datamanager)

    def prepare_loading(self, state: Mapping[str, Any], step: int) -> None:
        """Give the model as many Gaussians as the state has."""
        super().prepare_loading(state, step)
        self._is_loaded = True
        for name in GAUSSIANS:
            saved = state.get(f"_model.gauss_params.{name}")
            if saved is not None:
                ours = self.model.gauss_params[name]
                empty = torch.zeros(len(saved), *ours.shape[1:], device=self.model.device)
                self.model.gauss_params[name] = torch.nn.Parameter(empty)

    def load_pipeline(self, loaded_state: Mapping[str, Any], step: int) -> None:
        """Load a checkpoint of csd-edit-splat or splatfacto, strictly; see `EditPipeline`."""
        super().load_pipeline(loaded_state, step)
        # Splatfacto sets a step at which all harmonics are on and nothing is split.
        self.model.step = step
