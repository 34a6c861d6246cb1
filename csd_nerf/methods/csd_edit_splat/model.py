"""Splatfacto on any device, with a second loss for the editing stage."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models import splatfacto
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from torch import Tensor

from csd_nerf.methods.common.perceptual import LpipsAtFirstUse
from csd_nerf.methods.common.unedited import ShowsUnedited
from csd_nerf.methods.csd_edit_splat.rasterization import rasterization

PER_PHOTOGRAPH = ("camera_optimizer.pose_adjustment", "bil_grids.grids")
"""Ends of the names of splatfacto's parameters that have a row for each photograph."""
GAUSSIANS = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
"""Splatfacto's parameters of Gaussians, which have a row for each."""
GEOMETRY = ("means", "scales", "quats", "opacities")
"""Those of them that are no colours."""
_FOREVER = 1_000_000_000

_gsplats, _compiled = splatfacto.rasterization, splatfacto.get_viewmat


def _rasterization(**given: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Gsplat's kernels on a GPU, ours elsewhere."""
    if given["means"].is_cuda:
        return _gsplats(**given)
    return rasterization(**given)


def _get_viewmat(camera_to_world: Float[Tensor, "c 3 4"]) -> Float[Tensor, "c 4 4"]:
    """Splatfacto's function, compiled on a GPU only: for a CPU torch would call a compiler."""
    function = _compiled if camera_to_world.is_cuda else _compiled.__wrapped__
    return function(camera_to_world)


splatfacto.rasterization, splatfacto.get_viewmat = _rasterization, _get_viewmat


@dataclass
class CSDEditSplatModelConfig(SplatfactoModelConfig):
    """Options of the model: splatfacto's and those of the editing stage."""

    _target: type = field(default_factory=lambda: CSDEditSplatModel)
    lpips_weight: float = 1.0
    """Weight of LPIPS beside L1 in the editing stage. With 0 splatfacto's own loss stays, L1 and
    SSIM, and AlexNet's weights are not needed."""
    lpips_crop: int = 512
    """Largest edge in pixels of the part of an image that LPIPS looks at, drawn at every step."""
    editing_geometry_rate: float = 1.0
    """Factor of the learning rates of means, scales, rotations and opacities in the editing stage.
    Below 1 shapes stay sharper while colours change."""
    densify_editing: bool = False
    """Split, clone and cull Gaussians in the editing stage too. Opacities are never reset there."""


class CSDEditSplatModel(ShowsUnedited, LpipsAtFirstUse, SplatfactoModel):
    """Splatfacto, with L1 + LPIPS instead of L1 + SSIM in the editing stage.

    Splatfacto calls CUDA by name in two places and for rendering. All three are replaced here where
    there is no GPU; the rest of it runs as it is.
    """

    config: CSDEditSplatModelConfig
    per_gaussian = tuple(f"gauss_params.{name}" for name in GAUSSIANS)

    def populate_modules(self) -> None:
        """Build splatfacto; its Gaussians begin at the 3D points, in their colours."""
        self.is_editing = False
        self._free: Bool[Tensor, "n"] | None = None
        colours = None
        if self.seed_points is not None and not torch.cuda.is_available():
            points, colours = self.seed_points
            self.seed_points = (points, colours[:0])
        super().populate_modules()
        if colours is not None and len(colours) and not self.config.random_init:
            self.seed_points = (points, colours)
            shade01 = colours.float() / 255
            harmonics = self.config.sh_degree > 0
            values = splatfacto.RGB2SH(shade01) if harmonics else shade01.logit(eps=1e-10)
            self.gauss_params["features_dc"] = torch.nn.Parameter(values)

    def begin_editing(self) -> None:
        """Switch to the loss of the editing stage, and end densification or let it go on."""
        self.is_editing = True
        self.strategy.refine_stop_iter = _FOREVER if self.config.densify_editing else 0
        self.strategy.reset_every = _FOREVER
        # It would wait for this many steps after each reset.
        self.strategy.pause_refine_after_reset = 0

    def hold_outside(
        self, inside: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, "n"]] | None
    ) -> None:
        """Train only Gaussians whose centres lie inside, by the unedited scene; with None, all.

        Gaussians that are held have no gradient, so that Adam leaves them what they are.
        """
        self._free = None
        if inside is not None:
            means = self.unedited.gauss_params["means"]
            if len(means) != len(self.gauss_params["means"]):
                means = self.gauss_params["means"]
            self._free = inside(means.detach())

    def _trained(self, name: str) -> Tensor:
        """A parameter of the Gaussians, of which those that are held have no gradient."""
        values = self.gauss_params[name]
        if self._free is None or not self.training:
            return values
        free = self._free.view(-1, *[1] * (values.dim() - 1))
        return torch.where(free, values, values.detach())

    @property
    def means(self) -> Tensor:
        """Centres."""
        return self._trained("means")

    @property
    def scales(self) -> Tensor:
        """Logarithms of the standard deviations along the axes."""
        return self._trained("scales")

    @property
    def quats(self) -> Tensor:
        """Rotations."""
        return self._trained("quats")

    @property
    def features_dc(self) -> Tensor:
        """Harmonics of degree 0."""
        return self._trained("features_dc")

    @property
    def features_rest(self) -> Tensor:
        """Harmonics of higher degrees."""
        return self._trained("features_rest")

    @property
    def opacities(self) -> Tensor:
        """Opacities before the sigmoid."""
        return self._trained("opacities")

    def blend_background(self, image: Float[Tensor, "*pixels c"]) -> Float[Tensor, "*pixels 3"]:
        """RGB as it is; RGBA over the background of renders."""
        if image.shape[-1] == 3:
            return image
        alpha = image[..., 3:]
        return image[..., :3] * alpha + self.background_color.to(image) * (1 - alpha)

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """Render a view."""
        if self.device.type != "cuda":
            camera = _without_cuda(camera)
        return super().get_outputs(camera)  # pyright: ignore[reportReturnType]

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Splatfacto's callbacks, which densify with the optimizers that the trainer has now."""
        before, *others = super().get_training_callbacks(training_callback_attributes)
        before.args = [training_callback_attributes.trainer]
        return [before, *others]

    def step_cb(self, optimizers: Any, step: int) -> None:
        """Take note of a step.

        Args:
            optimizers: What has them, the trainer; splatfacto's own type would keep old ones.
            step: The step that follows.
        """
        super().step_cb(getattr(optimizers, "optimizers", optimizers), step)

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        """Splatfacto's losses; when training in the editing stage, LPIPS in place of SSIM."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if not (self.training and self.is_editing and self.uses_perceptual_loss):
            return losses
        truth = self.composite_with_background(
            self.get_gt_img(batch["image"]), outputs["background"]
        )
        pair = torch.stack([outputs["rgb"], truth])
        if "mask" in batch:
            pair = pair * batch["mask"].to(pair)
        losses["main_loss"] = (pair[0] - pair[1]).abs().mean()
        first, second = self._crop(pair).permute(0, 3, 1, 2)[:, None]
        losses["lpips_loss"] = self.config.lpips_weight * self.perceptual(first, second)
        return losses

    def _crop(self, images: Float[Tensor, "2 h w 3"]) -> Float[Tensor, "2 h2 w2 3"]:
        for axis in (1, 2):
            room = images.shape[axis] - self.config.lpips_crop
            if room > 0:
                begin = int(torch.randint(room + 1, ()))
                images = images.narrow(axis, begin, self.config.lpips_crop)
        return images


def _without_cuda(camera: Cameras) -> Cameras:
    """A camera whose intrinsics stay where they are when they are asked to move to a GPU."""
    stays = copy.copy(camera)
    intrinsics = stays.get_intrinsics_matrices
    stays.get_intrinsics_matrices = lambda: intrinsics().as_subclass(_Staying)  # pyright: ignore[reportAttributeAccessIssue]
    return stays


class _Staying(Tensor):
    """A tensor that does not move to a GPU."""

    def cuda(self, *_: Any, **__: Any) -> Tensor:
        return self.as_subclass(Tensor)
