"""Configurations of csd-edit for ns-train; every ns command imports this module."""

from __future__ import annotations

from typing import Any

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
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
from csd_nerf.methods.csd_edit.datamanager import CSDEditDataManagerConfig
from csd_nerf.methods.csd_edit.model import CSDEditModelConfig
from csd_nerf.methods.csd_edit.pipeline import CSDEditPipelineConfig
from csd_nerf.methods.csd_edit.trainer import CSDEditTrainerConfig
from csd_nerf.scene.plan import Rounds

# Called here because ns-eval, ns-render, ns-export and ns-viewer read checkpoints themselves.
allow_nerfstudio_checkpoints()

_UNLIMITED = 1_000_000_000
"""Default of --max-num-iterations: a run ends by the steps of its two stages."""


def _optimizers(*, lr_final: float, max_steps: int) -> dict[str, Any]:
    """Optimizers of the source stage; they are reset when editing begins.

    The rates, their epsilon and the whole group `camera_opt` are those of nerfacto in nerfstudio
    1.1.5; so are, in the full presets, `lr_final` and `max_steps` of the other groups.
    """

    def group(lr: float, *, lr_final: float, max_steps: int) -> dict[str, Any]:
        return {
            "optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15),
            "scheduler": ExponentialDecaySchedulerConfig(lr_final=lr_final, max_steps=max_steps),
        }

    return {
        "proposal_networks": group(1e-2, lr_final=lr_final, max_steps=max_steps),
        "fields": group(1e-2, lr_final=lr_final, max_steps=max_steps),
        "camera_opt": group(1e-3, lr_final=1e-4, max_steps=5000),
    }


def _full(method_name: str, pipeline: CSDEditPipelineConfig) -> CSDEditTrainerConfig:
    return CSDEditTrainerConfig(
        method_name=method_name,
        steps_per_eval_batch=1000,
        steps_per_eval_image=1000,
        steps_per_save=2000,
        max_num_iterations=_UNLIMITED,
        mixed_precision=True,
        pipeline=pipeline,
        optimizers=_optimizers(lr_final=1e-4, max_steps=200_000),
        viewer=viewer_config(rays=1 << 15, max_res=512),
        logging=logging_config(),
        vis="viewer",
    )


def _nerfacto(**options: Any) -> CSDEditModelConfig:
    return CSDEditModelConfig(
        eval_num_rays_per_chunk=1 << 15,
        average_init_density=0.01,
        camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
        **options,
    )


def _full_images(**options: Any) -> CSDEditDataManagerConfig:
    return CSDEditDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(),
        train_num_rays_per_batch=4096,
        eval_num_rays_per_batch=4096,
        **options,
    )


# From the paper (Appendix B): 30,000 source steps; a round of 16 views when editing begins and
# every 2,000 steps; re-initialised optimizers; the rest as in Instruct-NeRF2NeRF (15,000 steps, L1
# + LPIPS, patches of 32). The paper gives no learning rate, iterations or scales for 3D; those in
# `EditSettings` are ours.
csd_edit = MethodSpecification(
    config=_full(
        "csd-edit",
        CSDEditPipelineConfig(
            datamanager=_full_images(),
            model=_nerfacto(),
            edit=EditSettings(max_batch=40),
        ),
    ),
    description="Edit a scene by a sentence with Collaborative Score Distillation.",
)

csd_edit_small = MethodSpecification(
    config=_full(
        "csd-edit-small",
        CSDEditPipelineConfig(
            datamanager=_full_images(edit_num_rays_per_batch=4096),
            model=_nerfacto(),
            edit=EditSettings(max_batch=10),
        ),
    ),
    description="csd-edit in smaller batches, for a GPU of about 12 GB.",
)


def _tiny_model() -> CSDEditModelConfig:
    """A scene that a CPU trains in minutes."""
    proposal_net = {"hidden_dim": 16, "log2_hashmap_size": 12, "num_levels": 4, "use_linear": False}
    return CSDEditModelConfig(
        num_levels=8,
        max_res=512,
        log2_hashmap_size=13,
        hidden_dim=32,
        hidden_dim_color=32,
        num_proposal_samples_per_ray=(48, 24),
        num_nerf_samples_per_ray=20,
        proposal_net_args_list=[{**proposal_net, "max_res": 64}, {**proposal_net, "max_res": 128}],
        proposal_warmup=500,
        proposal_weights_anneal_max_num_iters=200,
        average_init_density=0.01,
        # While only some views are edited, per-view appearance embeddings would absorb a part of
        # the edit.
        use_appearance_embedding=False,
        camera_optimizer=CameraOptimizerConfig(mode="off"),
        implementation="torch",
        eval_num_rays_per_chunk=4096,
        lpips_weight=0.0,
    )


csd_edit_tiny = MethodSpecification(
    config=CSDEditTrainerConfig(
        method_name="csd-edit-tiny",
        steps_per_eval_batch=200,
        steps_per_eval_image=200,
        steps_per_eval_all_images=_UNLIMITED,
        steps_per_save=200,
        max_num_iterations=_UNLIMITED,
        mixed_precision=False,
        machine=MachineConfig(device_type="cpu"),
        pipeline=CSDEditPipelineConfig(
            datamanager=CSDEditDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(),
                train_num_rays_per_batch=512,
                eval_num_rays_per_batch=512,
                edit_patch_size=1,
                edit_num_rays_per_batch=512,
                max_image_size=160,
                only_edited_views=True,
            ),
            model=_tiny_model(),
            source_steps=900,
            # Four rounds, which edit every view of a capture of up to 64.
            edit_steps=480,
            default_rounds=Rounds(every=120, views=16),
            prior="tiny",
            prior_compile="off",
            # After a few hundred steps renders are blurred; photographs are better to start from.
            start="original",
            edit=EditSettings(**TUNED_RUN),
        ),
        optimizers=_optimizers(lr_final=1e-3, max_steps=1000),
        viewer=viewer_config(rays=4096, max_res=164),
        logging=logging_config(),
        # With a viewer the command would not end after training.
        vis="tensorboard",
    ),
    description="csd-edit on a CPU with the bundled prior: small scenes in minutes.",
)
