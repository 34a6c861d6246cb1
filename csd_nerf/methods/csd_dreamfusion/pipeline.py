"""A training step of csd-dreamfusion: renders random views, distils the prior, regularises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from csd_nerf.core.kernels import Features
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import DistillSettings
from csd_nerf.distill import distill
from csd_nerf.methods.common.checkpoints import load_strictly
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.lazy_prior import LazyPrior, PriorOptions
from csd_nerf.methods.csd_dreamfusion.coverage import CoverageWatch
from csd_nerf.methods.csd_dreamfusion.datamanager import (
    CSDDreamFusionDataManager,
    CSDDreamFusionDataManagerConfig,
    view_angles,
)
from csd_nerf.methods.csd_dreamfusion.model import CSDDreamFusionModel, CSDDreamFusionModelConfig
from csd_nerf.methods.csd_dreamfusion.prompts import ViewPrompts
from csd_nerf.methods.csd_dreamfusion.shading import Light, Shading, draw_light, draw_shading


@dataclass
class CSDDreamFusionPipelineConfig(PriorOptions, VanillaPipelineConfig):
    """Options of the pipeline: of the object, the distillation, the prior, cameras and model."""

    _target: type = field(default_factory=lambda: CSDDreamFusionPipeline)
    datamanager: CSDDreamFusionDataManagerConfig = field(
        default_factory=CSDDreamFusionDataManagerConfig
    )
    """Options of the cameras."""
    model: CSDDreamFusionModelConfig = field(default_factory=CSDDreamFusionModelConfig)
    """Options of the objects' fields."""
    prompt: str = ""
    """Description of the object, such as "a red cube"."""
    negative_prompt: str = ""
    """What the object should not show; replaces the empty text in guidance."""
    distillation: Literal["csd", "sds"] = "csd"
    """csd: Collaborative Score Distillation; sds: SDS, as in DreamFusion. With the same seed both
    use the same cameras, timesteps and noise."""
    distill: DistillSettings = field(default_factory=DistillSettings)
    """Options of the distillation."""
    num_particles: int = 1
    """Number of objects that are made together. With 2 or more, the particles are the objects
    instead of the views; a `distill.repulsion` of 5 or more makes the objects differ."""
    view_template: str = "{prompt}, {view} view"
    """Format of the view-dependent prompt; {view} is front, side, back or overhead."""
    overhead: float = 60.0
    """Elevation in degrees at which the view overhead has weight 1/2 in the prompt."""
    shading: tuple[float, float, float] = (0.25, 0.5, 0.25)
    """Shares of steps with albedo (colour without light), lambertian (lit colour), and textureless
    (lit white) shading."""
    albedo_steps: int = 1000
    """Number of steps at the beginning with albedo shading only."""
    ambient: tuple[float, float] = (0.3, 0.3)
    """Range of the share of ambient light in lit views, within [0, 1]; drawn at every step."""
    light_spread: float = 0.6
    """Standard deviation of the noise added to the unit vector to the camera, which gives the
    direction of the light."""
    random_background: float = 0.5
    """Share of steps with a random background colour instead of the learned background."""
    orientation_weight: float = 1e-2
    """Weight of the loss that turns visible normals towards the camera."""
    opacity_weight: float = 1e-3
    """Weight of the loss sqrt(opacity^2 + 0.01), which keeps empty space empty."""
    entropy_weight: float = 1e-3
    """Weight of the entropy of opacity, which makes rays either opaque or transparent."""
    entropy_of: Literal["rays", "samples"] = "rays"
    """Whose entropy it is: that of the opacity of rays, or that of the weights of all samples along
    the rays, which also makes surfaces thin."""
    entropy_warmup: int = 0
    """Steps over which the weight of the entropy rises from 0."""
    prior: str = "deepfloyd-if"
    """Text-to-image model: deepfloyd-if, stable-diffusion, tiny-text (bundled), a hub id or a
    local folder."""
    prior_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "float16"
    """Precision of the prior."""
    seed: int = 0
    """Random seed of cameras, timesteps, noise, lights and backgrounds."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.num_particles < 1:
            raise MethodError(f"num_particles needs to be at least 1, got {self.num_particles}.")
        if min(self.shading) < 0 or sum(self.shading) <= 0:
            raise MethodError(f"shading needs three shares of steps, got {self.shading}.")
        low, high = self.ambient
        if not 0 <= low <= high <= 1:
            raise MethodError(f"ambient needs 0 <= low <= high <= 1, got {self.ambient}.")
        if "{prompt}" not in self.view_template:
            raise MethodError(
                f'view_template needs {{prompt}} in it, as in "{{prompt}}, {{view}} view", got '
                f"{self.view_template!r}."
            )


class CSDDreamFusionPipeline(VanillaPipeline):
    """Trains objects with gradients of a diffusion prior on their renders, without photographs."""

    config: CSDDreamFusionPipelineConfig
    datamanager: CSDDreamFusionDataManager

    def __init__(
        self,
        config: CSDDreamFusionPipelineConfig,
        device: str | torch.device,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        del local_rank
        # VanillaPipeline's own __init__ would not pass the number of objects to the model.
        torch.nn.Module.__init__(self)
        self.config, self.test_mode, self.world_size = config, test_mode, world_size
        self._prior = LazyPrior(
            config,
            kind="text",
            device=device,
            command="csd-dreamfusion",
            limit="--pipeline.distill.max-batch",
        )
        self._prompts: ViewPrompts | None = None
        if test_mode == "val":
            self._prior.fetch()
        self.datamanager = config.datamanager.setup(device=device, test_mode=test_mode)
        self.datamanager.to(device)
        views = self.datamanager.train_dataset
        self._model = config.model.setup(
            num_objects=config.num_particles,
            scene_box=views.scene_box,
            num_train_data=len(views),
            device=device,
            grad_scaler=grad_scaler,
        )
        self.model.to(device)
        self._features: Features | None = None
        self._kernel_notices: list[str] = []
        self._watch = CoverageWatch(config.num_particles)
        mixes = config.distillation == "csd" and (
            config.num_particles > 1 or config.datamanager.train_images_per_batch > 1
        )
        if test_mode == "val" and mixes and config.distill.kernel == "lpips":
            self._features = self._lpips_or_nothing(device)

    def _lpips_or_nothing(self, device: str | torch.device) -> Features | None:
        """LPIPS's feature map; None, for L2, if its weights are missing, which is told."""
        from csd_nerf.priors.lpips import lpips_features, lpips_network

        try:
            return lpips_features(lpips_network().to(device))
        except FileNotFoundError as error:
            notice = f"the kernel compares views by squared L2 instead of LPIPS: {error}".rstrip(
                "."
            )
            self._kernel_notices.append(notice)
            CONSOLE.print(f"csd-dreamfusion: {notice}.", markup=False)
            return None

    @property
    def notices(self) -> list[str]:
        """What could not be honoured so far, without full stops."""
        return [*self._kernel_notices, *self._prior.notices]

    @property
    def model(self) -> CSDDreamFusionModel:
        """The objects."""
        return self._model  # pyright: ignore[reportReturnType]

    def get_train_loss_dict(
        self, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """One training step: render all objects from the same cameras, distil, regularise."""
        seed = 2 * (1_000_003 * self.config.seed + step)
        generator = torch.Generator().manual_seed(seed)
        # Cameras and samples along rays are drawn by the global generator. A seed per step makes a
        # resumed run give the same result, and gives csd and sds the same cameras.
        torch.manual_seed(seed + 1)
        rays, batch = self.datamanager.next_train(step)
        cameras: Cameras = batch["cameras"]
        renders = self._render_objects(rays, cameras, step, generator)
        edge = self.config.datamanager.train_resolution
        views = len(cameras)
        image01 = torch.stack([r["rgb"].view(views, edge, edge, 3) for r in renders])
        image01 = image01.movedim(-1, 2)
        # The step may run under autocast, which would put kernel and text encoder into half
        # precision.
        with torch.autocast(image01.device.type, enabled=False):
            prompts = self._encoded_prompts()
            distilled = distill(
                self._prior.get(),
                image01.float(),
                texts=prompts.of_cameras(*view_angles(cameras)),
                settings=self.config.distill,
                distillation=self.config.distillation,
                randomness=SeededRandomness(generator),
                features=self._features,
            )
        opacity = torch.stack([r["accumulation"] for r in renders])
        losses = {"distillation": distilled.loss, **self._regularisers(opacity, renders, step)}
        coverage = opacity.detach().sum((1, 2)) / renders[0]["hit"].sum()
        self._watch.look(coverage.tolist(), step)
        metrics = {"residual": distilled.residual, "coverage": coverage.mean()}
        return renders[0], losses, metrics

    def _encoded_prompts(self) -> ViewPrompts:
        """The prompt's embeddings; the text encoder is freed after its single use.

        DeepFloyd IF's text encoder is several times larger than its U-Net.
        """
        if self._prompts is None:
            prior, c = self._prior.get(), self.config
            self._prompts = ViewPrompts.encode(
                prior,
                c.prompt,
                negative_prompt=c.negative_prompt,
                template=c.view_template,
                overhead=math.radians(c.overhead),
            )
            prior.free_text_encoder()
        return self._prompts

    def _render_objects(
        self, rays: RayBundle, cameras: Cameras, step: int, generator: torch.Generator
    ) -> list[dict[str, Tensor]]:
        shading, light, behind = self._draw_look(cameras, step, generator)
        rays_a_view = self.config.datamanager.train_resolution**2
        light = Light(light.toward.repeat_interleave(rays_a_view, dim=0), light.ambient)
        return [
            self.model.render(
                scene,  # pyright: ignore[reportArgumentType]
                rays,
                shading=shading,
                light=light,
                background01=behind,
            )
            for scene in self.model.fields
        ]

    def _draw_look(
        self, cameras: Cameras, step: int, generator: torch.Generator
    ) -> tuple[Shading, Light, Float[Tensor, "3"] | None]:
        """Shading, light and background of a step, always drawn in this order."""
        c = self.config
        shading = draw_shading(c.shading, generator=generator)
        ambient, most = c.ambient
        if ambient < most:
            ambient += (most - ambient) * float(torch.rand((), generator=generator))
        light = draw_light(
            cameras.camera_to_worlds[:, :3, 3],
            spread=c.light_spread,
            ambient=ambient,
            generator=generator,
        )
        random = float(torch.rand((), generator=generator)) < c.random_background
        colour = torch.rand(3, generator=generator).to(self.device)
        return (
            "albedo" if step < c.albedo_steps else shading,
            light,
            colour if random else None,
        )

    def _regularisers(
        self,
        opacity: Float[Tensor, "objects rays 1"],
        renders: list[dict[str, Tensor]],
        step: int,
    ) -> dict[str, Tensor]:
        """The losses opacity, entropy and orientation.

        Each is a mean over rays, times the number of pixels of a view, because the distillation
        loss is a sum over pixels.
        """
        c = self.config
        pixels = c.datamanager.train_resolution**2
        if c.entropy_of == "samples":
            # Rays that miss the sphere have no samples, and so no entropy.
            hits = [render["hit"].float().mean() for render in renders]
            parts = [_entropy(render["weights"], floor=1e-5).mean() for render in renders]
            entropy = torch.stack([a * b for a, b in zip(hits, parts, strict=True)]).mean()
        else:
            entropy = _entropy(opacity).mean()
        risen = min(step / c.entropy_warmup, 1.0) if c.entropy_warmup else 1.0
        losses = {
            "opacity": c.opacity_weight * pixels * (opacity.square() + 0.01).sqrt().mean(),
            "entropy": risen * c.entropy_weight * pixels * entropy,
        }
        if "orientation" in renders[0]:
            turned = torch.stack([r["orientation"] for r in renders]).mean()
            losses["orientation"] = c.orientation_weight * pixels * turned
        return losses

    def load_pipeline(self, loaded_state: Mapping[str, Any], step: int) -> None:
        """Load a checkpoint, strictly.

        Raises:
            MethodError: If its parameters don't fit the model.
        """
        self.model.update_to_step(step)
        load_strictly(
            self.model,
            loaded_state,
            remedy="set --pipeline.model and --pipeline.num-particles as it was trained",
        )


def _entropy(share: Float[Tensor, "*shape"], *, floor: float = 1e-4) -> Float[Tensor, "*shape"]:
    """Entropy in bits of being opaque with this probability, which is clamped by the floor."""
    inside = share.clamp(floor, 1 - floor)
    return -(inside * inside.log2() + (1 - inside) * (1 - inside).log2())
