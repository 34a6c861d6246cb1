"""nerfstudio's trainer for the two stages of csd-edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig

from csd_nerf.media.vertices import write_vertices
from csd_nerf.methods.common.edit_trainer import EditTrainer, EditTrainerConfig
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.csd_edit.pipeline import CSDEditPipeline, CSDEditPipelineConfig

POINTS = 200_000
"""Rays whose ends are written as points."""
LPIPS_PATCH = 32
"""Smallest edge in pixels for LPIPS; AlexNet's pooling leaves nothing of smaller patches."""
IN2N_CAMERA_OPT: dict[str, Any] = {
    "optimizer": AdamOptimizerConfig(lr=6e-4, eps=1e-8, weight_decay=1e-2),
    "scheduler": ExponentialDecaySchedulerConfig(lr_final=6e-6, max_steps=5000),
}
"""Instruct-NeRF2NeRF's optimizer of camera poses, from `in2n_config.py` of
github.com/ayaanzhaque/instruct-nerf2nerf at 2c0d385. Its loss has no penalty on the poses; here
nerfacto's stays."""


@dataclass
class CSDEditTrainerConfig(EditTrainerConfig):
    """nerfstudio's options of a run; see `EditTrainerConfig`."""

    command = "csd-edit"
    _target: type = field(default_factory=lambda: CSDEditTrainer)


class CSDEditTrainer(EditTrainer):
    """Trains a nerfacto scene and then edits it."""

    pipeline: CSDEditPipeline
    stock = ("nerfacto", NerfactoModelConfig)

    def setup_editing_optimizers(self) -> Optimizers:
        """New optimizers for the editing stage, in which poses have one of their own or none."""
        options = self.config.pipeline
        assert isinstance(options, CSDEditPipelineConfig)
        if options.model.editing_poses != "in2n":
            return super().setup_editing_optimizers()
        config = {**self.config.optimizers, "camera_opt": IN2N_CAMERA_OPT}
        return Optimizers(config, self.pipeline.get_param_groups())

    def export(self) -> list[Path]:
        """Write points/edited.ply, a coloured point of the surface for each of many rays.

        It takes as long as to render them: below a second on a GPU, 10 to 20 seconds on a CPU with
        csd-edit-tiny, which renders 10,000 to 20,000 rays a second.
        """
        points, colours = self.pipeline.scene.surface(rays=POINTS)
        path = self.base_dir / "points" / "edited.ply"
        columns = dict(zip("xyz", points.numpy().T, strict=True))
        columns |= dict(zip(("red", "green", "blue"), colours.numpy().T, strict=True))
        write_vertices(path, columns)
        return [path]

    def check(self, config: EditTrainerConfig, world_size: int) -> None:
        """Find mistakes before anything expensive begins."""
        super().check(config, world_size)
        options = config.pipeline
        assert isinstance(options, CSDEditPipelineConfig)
        patch = options.datamanager.edit_patch_size
        if options.model.lpips_weight > 0 and patch < LPIPS_PATCH:
            raise MethodError(
                f"LPIPS needs patches of at least {LPIPS_PATCH} pixels, got {patch}; set "
                f"--pipeline.datamanager.edit-patch-size {LPIPS_PATCH}, or --pipeline.model."
                "lpips-weight 0."
            )
