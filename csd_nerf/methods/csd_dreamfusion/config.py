"""Configurations of csd-dreamfusion for ns-train; every ns command imports this module."""

from __future__ import annotations

from typing import Any

from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from csd_nerf.core.settings import DistillSettings
from csd_nerf.methods.common.checkpoints import allow_nerfstudio_checkpoints
from csd_nerf.methods.csd_dreamfusion.datamanager import CSDDreamFusionDataManagerConfig
from csd_nerf.methods.csd_dreamfusion.model import CSDDreamFusionModelConfig
from csd_nerf.methods.csd_dreamfusion.optimization import AdanOptimizerConfig, WarmupCosineConfig
from csd_nerf.methods.csd_dreamfusion.pipeline import CSDDreamFusionPipelineConfig
from csd_nerf.methods.csd_dreamfusion.trainer import CSDDreamFusionTrainerConfig

# Called here because ns-render, ns-export and ns-viewer read checkpoints themselves.
allow_nerfstudio_checkpoints()

_NEVER = 1_000_000_000
"""Steps between evaluations: never, since there are no images to compare with."""


def _optimizers(*, lr: float, warmup: int, steps: int) -> dict[str, Any]:
    """Adan with warm-up and cosine decay; CSD Appendix C.2."""
    return {
        "fields": {
            "optimizer": AdanOptimizerConfig(lr=lr, eps=1e-8, max_norm=None),
            "scheduler": WarmupCosineConfig(warmup_steps=warmup, max_steps=steps),
        }
    }


csd_dreamfusion = MethodSpecification(
    config=CSDDreamFusionTrainerConfig(
        method_name="csd-dreamfusion",
        steps_per_eval_batch=_NEVER,
        steps_per_eval_image=500,
        steps_per_eval_all_images=_NEVER,
        steps_per_save=1000,
        max_num_iterations=10_000,
        mixed_precision=True,
        pipeline=CSDDreamFusionPipelineConfig(),
        optimizers=_optimizers(lr=2e-3, warmup=2000, steps=10_000),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 14),
        vis="viewer",
    ),
    description="Make an object from a sentence with Collaborative Score Distillation.",
)

csd_dreamfusion_tiny = MethodSpecification(
    config=CSDDreamFusionTrainerConfig(
        method_name="csd-dreamfusion-tiny",
        steps_per_eval_batch=_NEVER,
        steps_per_eval_image=_NEVER,
        steps_per_eval_all_images=_NEVER,
        steps_per_save=200,
        steps_per_preview=150,
        preview_size=48,
        result_size=96,
        max_num_iterations=450,
        mixed_precision=False,
        machine=MachineConfig(device_type="cpu"),
        pipeline=CSDDreamFusionPipelineConfig(
            datamanager=CSDDreamFusionDataManagerConfig(
                train_resolution=32,
                eval_resolution=128,
                focal_range=(1.0, 1.35),
                jitter_std=0.02,
                num_eval_angles=32,
            ),
            model=CSDDreamFusionModelConfig(
                kind="hash",
                width=32,
                levels=4,
                max_res=32,
                log2_hashmap_size=14,
                implementation="torch",
                num_samples=24,
                num_importance_samples=0,
                normal_step=0.06,
            ),
            # The best of a few settings tried with the bundled prior: more guidance makes colours
            # garish, less makes all shapes round.
            distill=DistillSettings(kernel="l2", text_scale=2.0, normalize="rowsum"),
            entropy_weight=3e-3,
            albedo_steps=150,
            ambient=0.4,
            prior="tiny-text",
            prior_dtype="float32",
        ),
        optimizers=_optimizers(lr=1e-2, warmup=30, steps=450),
        viewer=ViewerConfig(num_rays_per_chunk=4096),
        # With a viewer the command would not end after training.
        vis="tensorboard",
    ),
    description="csd-dreamfusion on a CPU with the bundled prior: simple shapes in minutes.",
)
