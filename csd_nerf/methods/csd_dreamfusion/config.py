"""Configurations of csd-dreamfusion for ns-train; every ns command imports this module."""

from __future__ import annotations

from typing import Any

from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.plugins.types import MethodSpecification

from csd_nerf.core.settings import DistillSettings
from csd_nerf.methods.common.checkpoints import allow_nerfstudio_checkpoints
from csd_nerf.methods.common.viewer import viewer_config
from csd_nerf.methods.csd_dreamfusion.datamanager import CSDDreamFusionDataManagerConfig
from csd_nerf.methods.csd_dreamfusion.model import CSDDreamFusionModelConfig
from csd_nerf.methods.csd_dreamfusion.optimization import AdanOptimizerConfig, WarmupCosineConfig
from csd_nerf.methods.csd_dreamfusion.pipeline import CSDDreamFusionPipelineConfig
from csd_nerf.methods.csd_dreamfusion.trainer import CSDDreamFusionTrainerConfig

# Called here because ns-render, ns-export and ns-viewer read checkpoints themselves.
allow_nerfstudio_checkpoints()

_NEVER = 1_000_000_000
"""Steps between evaluations: never, since there are no images to compare with."""


def _optimizers(
    *, lr: float, warmup: int, steps: int, weight_decay: float = 0.0, max_norm: float | None = None
) -> dict[str, Any]:
    """Adan with warm-up and cosine decay; CSD Appendix C.2."""
    adan = {"lr": lr, "eps": 1e-8, "weight_decay": weight_decay, "max_norm": max_norm}
    return {
        "fields": {
            "optimizer": AdanOptimizerConfig(**adan),
            "scheduler": WarmupCosineConfig(warmup_steps=warmup, max_steps=steps),
        }
    }


def _as_stable_dreamfusion() -> CSDDreamFusionPipelineConfig:
    """Cameras, light and regularisers of Stable-DreamFusion.

    CSD's Appendix C.2 takes "regularizers such as shading, camera and light sampling" as their
    default there. The figures are those of its main.py, nerf/provider.py, nerf/utils.py and
    nerf/renderer.py: github.com/ashawkey/stable-dreamfusion at 5550b91, with `--IF`.
    """
    # There the loss is a sum over pixels and regularisers are means; here both are sums.
    pixels = 64**2
    return CSDDreamFusionPipelineConfig(
        # theta_range 45 to 105 from the zenith, radius_range, fovy_range; jitter_pose is off.
        datamanager=CSDDreamFusionDataManagerConfig(
            sampling="angles",
            elevation_range=(-15.0, 45.0),
            radius_range=(3.0, 3.5),
            fov_range=(10.0, 30.0),
        ),
        # Front, side and back only: its prompts have no overhead view. From 90 it has no weight at
        # these elevations.
        overhead=90.0,
        # textureless_ratio, albedo_iter_ratio, min_ambient_ratio.
        shading=(0.0, 0.8, 0.2),
        albedo_steps=0,
        ambient=(0.1, 1.0),
        # Unit noise is added to the camera's position, whose distance is 3.25 in the mean.
        light_spread=1 / 3.25,
        random_background=0.5,
        # lambda_opacity, lambda_orient and lambda_entropy, which rises over half of the run.
        opacity_weight=0.0,
        orientation_weight=1e-2 / pixels,
        entropy_weight=1e-3 / pixels,
        entropy_of="samples",
        entropy_warmup=5000,
    )


# From the paper (Appendix C.2): prior, guidance, MLP of 5 residual blocks, batch, steps, learning
# rate and its schedule, kernel. What it takes from Stable-DreamFusion: see above, and Adan's weight
# decay and clipping (main.py). Ours: the width and the encoding of the MLP, the initial blob.
csd_dreamfusion = MethodSpecification(
    config=CSDDreamFusionTrainerConfig(
        method_name="csd-dreamfusion",
        steps_per_eval_batch=_NEVER,
        steps_per_eval_image=500,
        steps_per_eval_all_images=_NEVER,
        steps_per_save=1000,
        max_num_iterations=10_000,
        mixed_precision=True,
        pipeline=_as_stable_dreamfusion(),
        optimizers=_optimizers(lr=2e-3, warmup=2000, steps=10_000, weight_decay=2e-5, max_norm=5.0),
        viewer=viewer_config(rays=1 << 14),
        vis="viewer",
    ),
    description="Make an object from a sentence with Collaborative Score Distillation.",
)

# Our own cameras, light and regularisers, the defaults of their classes where none are given, at
# which the bundled prior's objects were measured.
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
            entropy_weight=3e-2,
            albedo_steps=150,
            ambient=(0.4, 0.4),
            prior="tiny-text",
            prior_compile="off",
            prior_dtype="float32",
        ),
        optimizers=_optimizers(lr=1e-2, warmup=30, steps=450),
        viewer=viewer_config(rays=4096),
        # With a viewer the command would not end after training.
        vis="tensorboard",
    ),
    description="csd-dreamfusion on a CPU with the bundled prior: simple shapes in minutes.",
)
