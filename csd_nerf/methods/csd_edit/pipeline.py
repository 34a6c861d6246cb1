"""nerfacto's pipeline with the editing stage between its training steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from csd_nerf.methods.common.edit_pipeline import EditPipeline, EditPipelineConfig
from csd_nerf.methods.csd_edit.datamanager import CSDEditDataManager, CSDEditDataManagerConfig
from csd_nerf.methods.csd_edit.model import PER_PHOTOGRAPH, CSDEditModel, CSDEditModelConfig
from csd_nerf.methods.csd_edit.scene import NerfactoScene


@dataclass
class CSDEditPipelineConfig(EditPipelineConfig):
    """Options of the pipeline: of the editing stage, the prior, the images and the model."""

    _target: type = field(default_factory=lambda: CSDEditPipeline)
    datamanager: CSDEditDataManagerConfig = field(default_factory=CSDEditDataManagerConfig)
    """Options of images and rays."""
    model: CSDEditModelConfig = field(default_factory=CSDEditModelConfig)
    """Options of the scene's model."""


class CSDEditPipeline(EditPipeline):
    """Trains a nerfacto scene and edits it."""

    config: CSDEditPipelineConfig
    datamanager: CSDEditDataManager
    scene: NerfactoScene
    command = "csd-edit"
    per_photograph = PER_PHOTOGRAPH

    @property
    def model(self) -> CSDEditModel:
        """The scene's model."""
        return self._model  # pyright: ignore[reportReturnType]

    def open_scene(self) -> NerfactoScene:
        """The model and its images, with the interface that the stage uses."""
        return NerfactoScene(self.model, self.datamanager)
