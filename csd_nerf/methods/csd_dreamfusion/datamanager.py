"""Cameras around the object: random ones for training, orbits for viewer, renders and exports.

Frames: world z is up. The front of the object faces negative y; a camera at azimuth 0 looks at it.
Angles are in radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import DataManager
from nerfstudio.data.datamanagers.random_cameras_datamanager import (
    RandomCamerasDataManager,
    RandomCamerasDataManagerConfig,
    TrivialDataset,
    random_train_pose,
)
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from torch import Tensor

from csd_nerf.methods.common.errors import MethodError


@dataclass
class CSDDreamFusionDataManagerConfig(RandomCamerasDataManagerConfig):
    """Options of the random cameras; further ones are nerfstudio's."""

    _target: type = field(default_factory=lambda: CSDDreamFusionDataManager)
    train_resolution: int = 64
    """Edge of the square training views in pixels."""
    eval_resolution: int = 128
    """Edge of the square views for renders and exports, in pixels."""
    num_eval_angles: int = 64
    """Number of views on the orbits for renders and exports."""
    train_images_per_batch: int = 4
    """Views of each object per step; with a single object, the views are the particles."""
    radius_mean: float = 2.5
    """Mean distance of the cameras from the centre; the object lies in a sphere of radius 1."""
    focal_range: tuple[float, float] = (0.9, 1.35)
    """Smallest and largest focal length, in units of the image's edge."""
    vertical_rotation_range: tuple[float, float] = (-90.0, 10.0)
    """Range of the cameras' elevation, as the values of -90 sin(elevation): -90 is straight above,
    0 the horizon, 90 straight below. Cameras are uniform over this part of the sphere. The default
    reaches from straight above to 6 degrees below the horizon."""
    sampling: Literal["sphere", "angles"] = "sphere"
    """How training cameras are drawn. sphere: uniform over a part of a sphere, by the options above
    and nerfstudio's. angles: uniform in elevation, azimuth, distance and field of view, by the
    three options below, looking at the centre; the field of view is that of all views of a step."""
    elevation_range: tuple[float, float] = (-15.0, 45.0)
    """Range of the elevation in degrees, for sampling by angles."""
    radius_range: tuple[float, float] = (3.0, 3.5)
    """Range of the distance from the centre, for sampling by angles."""
    fov_range: tuple[float, float] = (10.0, 30.0)
    """Range of the field of view in degrees, for sampling by angles."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("train_resolution", "eval_resolution", "train_images_per_batch"):
            if getattr(self, name) < 1:
                raise MethodError(f"{name} needs to be at least 1, got {getattr(self, name)}.")
        # At 90 degrees the camera's upright position is undefined.
        limits = {
            "elevation_range": (-90, 90),
            "radius_range": (0, math.inf),
            "fov_range": (0, 180),
        }
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not least < low <= high < most:
                raise MethodError(
                    f"{name} needs {least} < low <= high < {most}, got {(low, high)}."
                )


def orbit_cameras(
    azimuth: Float[Tensor, "n"],
    elevation: Float[Tensor, "n"],
    *,
    radius: float | Float[Tensor, "n"],
    focal: float,
    size: int,
) -> Cameras:
    """Upright cameras that look at the origin.

    Args:
        azimuth: Angle from the front towards positive x, in radians.
        elevation: Angle above the horizon in radians, less than pi/2 in absolute value.
        radius: Distance from the origin, for all or for each.
        focal: Focal length in units of the image's edge.
        size: Edge of the images in pixels.
    """
    flat = elevation.cos()
    backward = torch.stack([flat * azimuth.sin(), -flat * azimuth.cos(), elevation.sin()], -1)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(backward)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, backward), dim=-1)
    eye = torch.as_tensor(radius).reshape(-1, 1) * backward
    pose = [right, torch.linalg.cross(backward, right), backward, eye]
    return Cameras(
        camera_to_worlds=torch.stack(pose, dim=-1),
        fx=focal * size,
        fy=focal * size,
        cx=size / 2,
        cy=size / 2,
        width=size,
        height=size,
    )


def view_angles(cameras: Cameras) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Azimuth and elevation of cameras around the origin, in radians."""
    x, y, z = cameras.camera_to_worlds[:, :3, 3].unbind(-1)
    return torch.atan2(x, -y), torch.atan2(z, torch.hypot(x, y))


class CSDDreamFusionDataManager(RandomCamerasDataManager):
    """Random cameras for training; cameras on three orbits for viewer, renders and exports."""

    config: CSDDreamFusionDataManagerConfig
    train_dataset: TrivialDataset
    eval_dataset: TrivialDataset

    def __init__(
        self,
        config: CSDDreamFusionDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: str = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **_: Any,
    ) -> None:
        if config.data is not None:
            raise MethodError(
                f"csd-dreamfusion takes no data, got --data {config.data}; leave it out, or edit a "
                "capture with ns-train csd-edit."
            )
        self.config = config
        self.device = device
        self.world_size, self.local_rank = world_size, local_rank
        self.sampler = None
        self.test_mode = test_mode
        self.test_split = "test" if test_mode in ("test", "inference") else "val"
        cameras = self._orbits()
        self.train_dataset = _blank_dataset(cameras)
        self.eval_dataset = _blank_dataset(cameras)
        self.train_dataparser_outputs = self.train_dataset._dataparser_outputs
        # ns-export sets the number of rays that it wants in this attribute of a sampler.
        self.train_pixel_sampler = SimpleNamespace(num_rays_per_batch=None)
        self.eval_dataloader = RandIndicesEvalDataloader(
            input_dataset=self.eval_dataset, device=device
        )
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(
            input_dataset=self.eval_dataset, device=device
        )
        DataManager.__init__(self)

    def _orbits(self) -> Cameras:
        """Cameras on a low orbit, a high orbit, and one from below, so that meshes are closed."""
        c = self.config
        turn = torch.arange(c.num_eval_angles) / max(c.num_eval_angles, 1)
        elevation = torch.tensor([15.0, 55.0, -25.0])[torch.arange(c.num_eval_angles) % 3]
        return orbit_cameras(
            2 * torch.pi * turn,
            torch.deg2rad(elevation),
            radius=c.radius_mean,
            focal=sum(c.focal_range) / 2,
            size=c.eval_resolution,
        )

    def draw_cameras(self, count: int) -> Cameras:
        """Draw random cameras around the object, by torch's global generator."""
        c = self.config
        if c.sampling == "angles":
            azimuth, elevation, radius = (
                torch.empty(count).uniform_(*bounds)
                for bounds in ((-180.0, 180.0), c.elevation_range, c.radius_range)
            )
            fov = torch.empty(()).uniform_(*c.fov_range).deg2rad()
            return orbit_cameras(
                azimuth.deg2rad(),
                elevation.deg2rad(),
                radius=radius,
                focal=0.5 / math.tan(float(fov) / 2),
                size=c.train_resolution,
            ).to(self.device)
        cameras, _, _ = random_train_pose(
            count,
            c.train_resolution,
            device=self.device,
            radius_mean=c.radius_mean,
            radius_std=c.radius_std,
            focal_range=c.focal_range,
            vertical_rotation_range=c.vertical_rotation_range,
            jitter_std=c.jitter_std,
            center=c.center,
            central_rotation_range=(-180, 180),
        )
        return cameras

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:  # noqa: ARG002
        """Rays of the next training views, view by view.

        An exporter that has set the number of rays gets this many, through random pixels of the
        orbits' views.
        """
        self.train_count += 1
        wanted = self.train_pixel_sampler.num_rays_per_batch
        if wanted is not None:
            return self._export_rays(wanted), {}
        cameras = self.draw_cameras(self.config.train_images_per_batch)
        bundle = cameras.generate_rays(torch.arange(len(cameras))[:, None])
        return _view_by_view(bundle), {"cameras": cameras}

    def _export_rays(self, count: int) -> RayBundle:
        dataset = self.train_dataset
        view = torch.randint(len(dataset), (count, 1))
        pixel = torch.rand(count, 2) * self.config.eval_resolution
        return dataset.cameras.to(self.device).generate_rays(view, coords=pixel)

    def next_eval(self, step: int) -> tuple[RayBundle, dict[str, Any]]:  # noqa: ARG002
        """Random views, as for training."""
        self.eval_count += 1
        cameras = self.draw_cameras(self.config.eval_images_per_batch)
        return _view_by_view(cameras.generate_rays(torch.arange(len(cameras))[:, None])), {
            "cameras": cameras
        }


def _view_by_view(bundle: RayBundle) -> RayBundle:
    """Flatten nerfstudio's (h, w, views) to rays sorted by view."""
    return bundle._apply_fn_to_fields(lambda t: t.movedim(2, 0).flatten(0, 2))


def _blank_dataset(cameras: Cameras) -> TrivialDataset:
    """A data set without photographs, with the attributes that exporters read."""
    dataset = TrivialDataset(cameras)
    dataset._dataparser_outputs = DataparserOutputs(
        image_filenames=[], cameras=cameras, scene_box=dataset.scene_box
    )
    return dataset
