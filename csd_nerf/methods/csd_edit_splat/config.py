"""Configurations of csd-edit-splat for ns-train; every ns command imports this module."""

from __future__ import annotations

from typing import Any

from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification

from csd_nerf.bundled import TUNED_RUN
from csd_nerf.core.settings import EditSettings
from csd_nerf.methods.common.checkpoints import allow_nerfstudio_checkpoints
from csd_nerf.methods.common.terminal import logging_config
from csd_nerf.methods.common.viewer import viewer_config
from csd_nerf.methods.csd_edit_splat.datamanager import CSDEditSplatDataManagerConfig
from csd_nerf.methods.csd_edit_splat.model import CSDEditSplatModelConfig
from csd_nerf.methods.csd_edit_splat.pipeline import CSDEditSplatPipelineConfig
from csd_nerf.methods.csd_edit_splat.trainer import CSDEditSplatTrainerConfig
from csd_nerf.scene.plan import Rounds

# Called here because ns-eval, ns-render, ns-export and ns-viewer read checkpoints themselves.
allow_nerfstudio_checkpoints()

_UNLIMITED = 1_000_000_000
"""Default of --max-num-iterations: a run ends by the steps of its two stages."""


def _optimizers(
    *,
    means: tuple[float, float] = (1.6e-4, 1.6e-6),
    faster: float = 1.0,
    bilateral: float = 2e-3,
    steps: int = 30_000,
) -> dict[str, Any]:
    """Optimizers of both stages, which are reset when editing begins.

    By default they are those of splatfacto in nerfstudio 1.1.5.

    Args:
        means: The first and the last rate of the Gaussians' centres.
        faster: Factor of the other rates of Gaussians.
        bilateral: The first rate of the bilateral grid.
        steps: Steps over which rates fall.
    """

    def group(lr: float, lr_final: float | None = None, **options: Any) -> dict[str, Any]:
        scheduler = None
        if lr_final is not None:
            scheduler = ExponentialDecaySchedulerConfig(
                lr_final=lr_final, max_steps=steps, **options
            )
        return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}

    warm: dict[str, Any] = {"warmup_steps": 1000, "lr_pre_warmup": 0}
    return {
        "means": group(*means),
        "features_dc": group(faster * 0.0025),
        "features_rest": group(faster * 0.0025 / 20),
        "opacities": group(0.05),
        "scales": group(faster * 0.005),
        "quats": group(faster * 0.001),
        "camera_opt": group(1e-4, 5e-7, **warm),
        "bilateral_grid": group(bilateral, 1e-4, **warm),
    }


def _full(
    method_name: str, model: CSDEditSplatModelConfig, *, bilateral: float = 2e-3
) -> CSDEditSplatTrainerConfig:
    """Splatfacto's settings, and csd-edit's of the editing stage."""
    return CSDEditSplatTrainerConfig(
        method_name=method_name,
        steps_per_eval_batch=0,
        steps_per_eval_image=1000,
        steps_per_eval_all_images=_UNLIMITED,
        steps_per_save=2000,
        max_num_iterations=_UNLIMITED,
        mixed_precision=False,
        pipeline=CSDEditSplatPipelineConfig(
            datamanager=CSDEditSplatDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True)
            ),
            model=model,
            edit=EditSettings(max_batch=40),
        ),
        optimizers=_optimizers(bilateral=bilateral),
        viewer=viewer_config(rays=1 << 15, max_res=512),
        logging=logging_config(),
        vis="viewer",
    )


csd_edit_splat = MethodSpecification(
    config=_full("csd-edit-splat", CSDEditSplatModelConfig()),
    description="Edit Gaussian splats by a sentence with Collaborative Score Distillation.",
)

csd_edit_splat_big = MethodSpecification(
    # What splatfacto-big differs in.
    config=_full(
        "csd-edit-splat-big",
        CSDEditSplatModelConfig(cull_alpha_thresh=0.005, densify_grad_thresh=0.0005),
        bilateral=5e-3,
    ),
    description="csd-edit-splat with more Gaussians, as splatfacto-big has.",
)

csd_edit_splat_tiny = MethodSpecification(
    config=CSDEditSplatTrainerConfig(
        method_name="csd-edit-splat-tiny",
        steps_per_eval_batch=0,
        steps_per_eval_image=200,
        steps_per_eval_all_images=_UNLIMITED,
        steps_per_save=200,
        max_num_iterations=_UNLIMITED,
        mixed_precision=False,
        machine=MachineConfig(device_type="cpu"),
        pipeline=CSDEditSplatPipelineConfig(
            datamanager=CSDEditSplatDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True),
                max_image_size=160,
                only_edited_views=True,
            ),
            model=CSDEditSplatModelConfig(
                num_downscales=0,
                sh_degree=1,
                sh_degree_interval=300,
                warmup_length=100,
                refine_every=50,
                stop_split_at=600,
                reset_alpha_every=1000,
                cull_alpha_thresh=0.01,
                # By their size on a screen of 96 pixels nearly all would be split.
                stop_screen_size_at=0,
                num_random=4000,
                random_scale=3.0,
                background_color="black",
                lpips_weight=0.0,
                # So short a stage moves Gaussians more than it places them.
                editing_geometry_rate=0.2,
            ),
            source_steps=900,
            edit_steps=480,
            # Four rounds, which edit every view of a capture of up to 64.
            default_rounds=Rounds(every=120, views=16),
            prior="tiny",
            prior_compile="off",
            # After a few hundred steps renders are blurred; photographs are better to start from.
            start="original",
            edit=EditSettings(**TUNED_RUN),
        ),
        optimizers=_optimizers(means=(1.6e-3, 1.6e-5), faster=4.0, steps=1000),
        viewer=viewer_config(rays=4096, max_res=264),
        logging=logging_config(),
        # With a viewer the command would not end after training.
        vis="tensorboard",
    ),
    description="csd-edit-splat on a CPU with the bundled prior: small scenes in minutes.",
)
