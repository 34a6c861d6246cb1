"""One or several objects as radiance fields, rendered within the unit sphere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.ray_samplers import PDFSampler, UniformSampler
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils import colormaps
from torch import Tensor, nn

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.csd_dreamfusion.fields import (
    FieldKind,
    ObjectField,
    build_hash_grid,
    build_mlp,
    normals,
)
from csd_nerf.methods.csd_dreamfusion.rays import BEYOND, sphere_span, surface_depth
from csd_nerf.methods.csd_dreamfusion.shading import (
    Light,
    Shading,
    normal_outputs,
    shade_active,
)

SHADED_WEIGHT = 0.2
"""A sample is shaded if its weight exceeds SHADED_WEIGHT / (number of samples of the ray)."""


@dataclass
class CSDDreamFusionModelConfig(ModelConfig):
    """Options of the fields and of their rendering."""

    _target: type = field(default_factory=lambda: CSDDreamFusionModel)
    enable_collider: bool = False
    """Unused: rays are clipped to the unit sphere here."""
    eval_num_rays_per_chunk: int = 8192
    """Rays that are rendered together outside training."""
    kind: FieldKind = "mlp"
    """mlp: the paper's coordinate MLP; hash: a hash grid, which is faster."""
    blocks: int = 5
    """Number of residual blocks of the MLP (kind mlp)."""
    width: int = 96
    """Width of the hidden layers."""
    levels: int = 16
    """Number of levels of the hash grid (kind hash)."""
    max_res: int = 256
    """Cells along an edge of the hash grid's finest level."""
    log2_hashmap_size: int = 19
    """Base-2 logarithm of the number of entries in each level of the hash grid."""
    implementation: Literal["tcnn", "torch"] = "tcnn"
    """Implementation of the hash grid; without tiny-cuda-nn nerfstudio falls back to torch."""
    density_bias: float = 5.0
    """Bias of the raw density at the centre, so that training begins with a blob there."""
    bias_radius: float = 0.4
    """Distance from the centre at which the bias is zero; farther away it is negative."""
    num_samples: int = 64
    """Number of evenly spaced samples along a ray."""
    num_importance_samples: int = 32
    """Number of further samples, placed by the weights of the first ones; 0 turns them off."""
    surface_density: float = 10.0
    """Density that defines the surface, for depths, meshes and point clouds: a ray meets it where
    the density first reaches this value."""
    normal_step: float = 0.02
    """Step of the finite differences for normals, in units of the bounding sphere's radius."""
    background: Literal["network", "white", "black"] = "network"
    """Background of views outside training: the learned one or a colour. Training uses the learned
    one or a random colour."""
    shown_object: int = 0
    """Number of the object that viewer, renders and exports show, counted from 0."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("blocks", "width", "levels", "num_samples"):
            if getattr(self, name) < 1:
                raise MethodError(f"{name} needs to be at least 1, got {getattr(self, name)}.")
        if not self.surface_density > 0:
            raise MethodError(f"surface_density needs to be positive, got {self.surface_density}.")


class CSDDreamFusionModel(Model):
    """One or more objects, each a field of its own.

    Attributes:
        fields: The field of each object.
    """

    config: CSDDreamFusionModelConfig

    def __init__(self, config: CSDDreamFusionModelConfig, *, num_objects: int, **kwargs: Any):
        """Build `num_objects` fields, each with its own random initialisation."""
        self._num_objects = num_objects
        super().__init__(config=config, **kwargs)

    def populate_modules(self) -> None:
        """Build fields and samplers."""
        super().populate_modules()
        self.fields = nn.ModuleList(self._build_field() for _ in range(self._num_objects))
        self.sampler = UniformSampler(num_samples=self.config.num_samples, single_jitter=False)
        self.fine_sampler = PDFSampler(
            num_samples=self.config.num_importance_samples, include_original=True
        )

    def _build_field(self) -> ObjectField:
        c = self.config
        if c.kind == "mlp":
            base = build_mlp(blocks=c.blocks, width=c.width)
        else:
            base = build_hash_grid(
                levels=c.levels,
                max_res=c.max_res,
                log2_size=c.log2_hashmap_size,
                width=c.width,
                implementation=c.implementation,
            )
        return ObjectField(base, bias=c.density_bias, bias_radius=c.bias_radius)

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group: the fields with their backgrounds."""
        return {"fields": list(self.fields.parameters())}

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render the shown object in its albedo, with normals and a textureless view."""
        scene = self.fields[min(self.config.shown_object, len(self.fields) - 1)]
        assert isinstance(scene, ObjectField)
        colour = {"white": 1.0, "black": 0.0}.get(self.config.background)
        behind = None if colour is None else torch.full((3,), colour, device=self.device)
        out = self.render(scene, ray_bundle, background01=behind, with_normals=True)
        return {
            "rgb": out["rgb"],
            "accumulation": out["accumulation"],
            "depth": out["depth"],
            "normals": out["normals"],
            "textureless": out["textureless"],
        }

    def render(
        self,
        scene: ObjectField,
        rays: RayBundle,
        *,
        shading: Shading = "albedo",
        light: Light | None = None,
        background01: Float[Tensor, "3"] | None = None,
        with_normals: bool = False,
    ) -> dict[str, Tensor]:
        """Render rays through one field.

        Args:
            scene: The object.
            rays: Flat bundle with unit directions.
            shading: Shading of the surfaces.
            light: One light per ray; None lights from the camera.
            background01: Colour of the background; None takes the learned one.
            with_normals: Whether to compute normals, a textureless view and the orientation loss
                also for albedo shading; other shadings always do.

        Returns:
            Per ray: rgb, accumulation, depth, and hit (whether the ray meets the unit sphere). Per
            ray that meets it: weights, those of its samples. With normals also, per ray, normals
            (as colours in [0, 1]) and textureless, and the scalar loss orientation.
        """
        count = len(rays)
        behind = scene.behind(rays.directions)
        if background01 is not None:
            behind = background01.expand(count, 3)
        hit, near, far = sphere_span(rays.origins, rays.directions)
        if not bool(hit.any()):
            # If every ray misses, pretend that all hit, so that the loss has an autograd graph.
            hit = torch.ones_like(hit)
        inside = rays[hit]
        inside.nears, inside.fars = near[hit, None], far[hit, None]
        weights, depth, points, albedo = self._march(scene, inside)
        lit = shading != "albedo" or with_normals
        colour, extra = albedo, {}
        if lit:
            normal, active = self._normals(scene, points, weights)
            toward = -inside.directions if light is None else light.toward[hit]
            at = Light(toward[:, None].expand_as(points)[active], light.ambient if light else 0.3)
            colour = shade_active(albedo, normal, active, light=at, shading=shading)
            extra = normal_outputs(weights, normal, active, inside.directions)
        accumulation = weights.sum(1, keepdim=True)
        rgb = (weights[..., None] * colour).sum(1) + (1 - accumulation) * behind[hit]
        out = {
            "rgb": behind.index_put((hit,), rgb),
            "accumulation": _spread(accumulation, hit, 0.0),
            "depth": _spread(depth, hit, BEYOND),
            "hit": hit[:, None],
            "weights": weights,
        }
        if lit:
            out["normals"] = _spread(extra["normals"], hit, 0.5)
            out["textureless"] = _spread(extra["textureless"], hit, 1.0)
            out["orientation"] = extra["orientation"]
        return out

    def _march(
        self, scene: ObjectField, rays: RayBundle
    ) -> tuple[Float[Tensor, "r k"], Float[Tensor, "r 1"], Float[Tensor, "r k 3"], Tensor]:
        """Sample along rays: returns weights, depth of the surface, points and albedos."""
        samples = self.sampler(rays)
        if self.config.num_importance_samples > 0:
            with torch.no_grad():
                coarse = scene.density(samples.frustums.get_positions().flatten(0, 1))
                weights = samples.get_weights(coarse.view(*samples.shape, 1))
            samples = self.fine_sampler(rays, samples, weights)
        points = samples.frustums.get_positions()
        density, albedo = scene(points.flatten(0, 1))
        density = density.view(points.shape[:2])
        weights = samples.get_weights(density[..., None])[..., 0]
        middle = 0.5 * (samples.frustums.starts + samples.frustums.ends)[..., 0]
        depth = surface_depth(density.detach(), middle, threshold=self.config.surface_density)
        return weights, depth[:, None], points, albedo.view_as(points)

    def _normals(
        self, scene: ObjectField, points: Float[Tensor, "r k 3"], weights: Float[Tensor, "r k"]
    ) -> tuple[Float[Tensor, "a 3"], Bool[Tensor, "r k"]]:
        """Normals of the shaded samples (see `SHADED_WEIGHT`), and the mask of these samples."""
        active = weights.detach() > SHADED_WEIGHT / weights.shape[1]
        if not bool(active.any()):
            active[0, 0] = True
        return normals(scene.density, points[active], step=self.config.normal_step), active

    def get_loss_dict(
        self,
        outputs: dict[str, Any],  # noqa: ARG002
        batch: dict[str, Any],  # noqa: ARG002
        metrics_dict: dict | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Empty: the pipeline computes the losses, since it has the prior."""
        return {}

    def get_image_metrics_and_images(
        self,
        outputs: dict[str, Tensor],
        batch: dict[str, Any],  # noqa: ARG002
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The object's coverage of the picture in [0, 1], and its views."""
        accumulation = outputs["accumulation"]
        images = {
            "img": outputs["rgb"],
            "accumulation": colormaps.apply_colormap(accumulation),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=accumulation),
            "normals": outputs["normals"],
        }
        return {"coverage": float(accumulation.mean())}, images

    def get_rgba_image(
        self, outputs: dict[str, Tensor], output_name: str = "rgb"
    ) -> Float[Tensor, "*rays 4"]:
        """Colours with opacity, which is 0 without a surface, so that exporters skip haze."""
        opacity = outputs["accumulation"] * (outputs["depth"] < BEYOND)
        return torch.cat([outputs[output_name], opacity], dim=-1)


def _spread(
    values: Float[Tensor, "m k"], hit: Bool[Tensor, "r"], missed: float
) -> Float[Tensor, "r k"]:
    whole = values.new_full((len(hit), values.shape[1]), missed)
    return whole.index_put((hit,), values)
