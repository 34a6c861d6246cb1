"""nerfstudio's trainer for the two stages of csd-edit-splat."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE

from csd_nerf.methods.common.checkpoints import SOURCE_FOLDER, find_checkpoint, read_checkpoint
from csd_nerf.methods.common.edit_trainer import EditTrainer, EditTrainerConfig
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.csd_edit_splat.model import GEOMETRY
from csd_nerf.methods.csd_edit_splat.pipeline import (
    CSDEditSplatPipeline,
    CSDEditSplatPipelineConfig,
)
from csd_nerf.methods.csd_edit_splat.ply import Gaussians, side_by_side, write_ply

PLY_FOLDER = "splats"
"""Folder of a run with its Gaussians as files for other viewers."""


@dataclass
class CSDEditSplatTrainerConfig(EditTrainerConfig):
    """nerfstudio's options of a run; see `EditTrainerConfig`."""

    command = "csd-edit-splat"
    _target: type = field(default_factory=lambda: CSDEditSplatTrainer)


class CSDEditSplatTrainer(EditTrainer):
    """Trains Gaussian splats and then edits them."""

    pipeline: CSDEditSplatPipeline
    stock = ("splatfacto", SplatfactoModelConfig)

    def editing_optimizers(self) -> dict[str, Any]:
        """Those of the run, slower for the geometry of Gaussians if asked for."""
        options = self.config.pipeline
        assert isinstance(options, CSDEditSplatPipelineConfig)
        factor, found = options.model.editing_geometry_rate, super().editing_optimizers()
        for name in GEOMETRY:
            optimizer, scheduler = found[name]["optimizer"], found[name]["scheduler"]
            optimizer = dataclasses.replace(optimizer, lr=factor * optimizer.lr)
            if scheduler is not None:
                lr_final = factor * scheduler.lr_final
                scheduler = dataclasses.replace(scheduler, lr_final=lr_final)
            found[name] = {"optimizer": optimizer, "scheduler": scheduler}
        return found

    def train_iteration(self, step: int) -> Any:
        """Train one step. A CPU takes one thread for it: its operations are too small for more."""
        threads = torch.get_num_threads()
        if self.device == "cpu":
            torch.set_num_threads(1)
        try:
            return super().train_iteration(step)
        finally:
            torch.set_num_threads(threads)

    def check(self, config: EditTrainerConfig, world_size: int) -> None:
        """Find mistakes before anything expensive begins."""
        super().check(config, world_size)
        pipeline: Any = config.pipeline
        if pipeline.region.strip() and pipeline.model.densify_editing:
            raise MethodError(
                "--pipeline.region keeps the Gaussians outside of it, got --pipeline.model."
                "densify-editing True, which would split and cull them too; leave one out."
            )

    def _after_train(self) -> None:
        """Write the Gaussians first: nerfstudio's part never ends if a viewer runs."""
        self._write_splats()
        super()._after_train()

    def export(self) -> list[Path]:
        """Write edited.ply."""
        path = self.base_dir / PLY_FOLDER / "edited.ply"
        write_ply(path, Gaussians.of_state(self.pipeline.state_dict(), self.pipeline.model))
        return [path]

    def _write_splats(self) -> None:
        """Write edited.ply and, if the run began to edit, source.ply and before_after.ply."""
        folder = self.base_dir / PLY_FOLDER
        edited = Gaussians.of_state(self.pipeline.state_dict(), self.pipeline.model)
        files = {"edited.ply": edited}
        models = self.base_dir / SOURCE_FOLDER
        if models.is_dir():
            path = find_checkpoint(load_dir=models, load_step=None, load_checkpoint=None)
            assert path is not None
            state: dict[str, Any] = read_checkpoint(path)["pipeline"]
            source = Gaussians.of_state(state, self.pipeline.model)
            files = {
                "source.ply": source,
                "edited.ply": edited,
                "before_after.ply": side_by_side(source, edited),
            }
        for name, gaussians in files.items():
            write_ply(folder / name, gaussians)
        CONSOLE.print(f"Wrote {', '.join(files)} to {folder}.")
