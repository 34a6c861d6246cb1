"""Renders of training views, at whatever size a round asks for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from csd_nerf.methods.csd_edit.model import CSDEditModel


@torch.no_grad()
def render_view(
    model: CSDEditModel, cameras: Cameras, view: int, *, size: tuple[int, int]
) -> Float[Tensor, "3 h w"]:
    """Render a training view at another size, through its corrected camera.

    nerfstudio corrects poses in training only; a render that is compared with the photograph
    has to be taken from where the photograph counts as taken.
    """
    camera = cameras[view : view + 1].to(model.device)
    camera.metadata = {**(camera.metadata or {}), "cam_idx": view}
    vertical, horizontal = size[0] / float(camera.height), size[1] / float(camera.width)
    scaled = Cameras(
        camera_to_worlds=model.camera_optimizer.apply_to_camera(camera),
        fx=camera.fx * horizontal,
        fy=camera.fy * vertical,
        cx=camera.cx * horizontal,
        cy=camera.cy * vertical,
        width=size[1],
        height=size[0],
        distortion_params=camera.distortion_params,
        camera_type=camera.camera_type,
        times=camera.times,
    )
    was_training = model.training
    model.eval()
    rendered = model.get_outputs_for_camera(scaled)["rgb"]
    model.train(was_training)
    return rendered.permute(2, 0, 1).clamp(0, 1)
