"""`gsplat.rasterization` for machines without CUDA, as far as splatfacto uses it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]


def rasterization(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    colors: Float[Tensor, "n *values"],
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    *,
    packed: bool = False,
    render_mode: RenderMode = "RGB",
    absgrad: bool = False,
    sparse_grad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    camera_model: Literal["pinhole", "ortho", "fisheye"] = "pinhole",
) -> tuple[Float[Tensor, "c h w d"], Float[Tensor, "c h w 1"], dict[str, Any]]:
    """Render Gaussians; gsplat's function of this name has the same arguments and results.

    Projection and spherical harmonics are gsplat's own torch code; compositing is ours, see
    `composite`. The background is black.

    Args:
        means: Centres in world space.
        quats: Rotations as (w, x, y, z), of any length.
        scales: Standard deviations along the Gaussians' axes.
        opacities: In [0, 1].
        colors: Colours of shape (n, d), or coefficients of spherical harmonics of shape (n, k, 3).
        viewmats: World to camera; a camera looks along its z axis, y is down.
        Ks: Intrinsics in pixels.
        width: Width of the images in pixels.
        height: Their height.
        near_plane: Gaussians that are nearer are left out.
        far_plane: Gaussians that are farther are left out.
        radius_clip: Gaussians of no larger radius in pixels are left out.
        eps2d: Variance in pixels^2 that is added to the projected Gaussians.
        sh_degree: Degree of the harmonics to use; None if `colors` are colours.
        packed: Not supported.
        render_mode: RGB are the colours, D is the depth summed by weight, ED the depth's mean.
        absgrad: Whether the backward pass sets `absgrad` of the result's means2d.
        sparse_grad: Not supported.
        rasterize_mode: antialiased lowers the opacity of Gaussians that `eps2d` enlarges.
        camera_model: The projection.

    Returns:
        Images, opacity, and by name what `gsplat.strategy` asks for: `means2d`, `radii`, `depths`,
        `conics`, `opacities` by camera and Gaussian, `gaussian_ids`, `width`, `height` and
        `n_cameras`.

    Raises:
        ValueError: If the memory layouts packed or sparse are asked for.
    """
    if packed or sparse_grad:
        raise ValueError(
            "Without CUDA Gaussians are rendered unpacked, with dense gradients, got packed "
            f"{packed} and sparse_grad {sparse_grad}; leave both out."
        )
    # Late, as all of gsplat, and numba.
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    from csd_nerf.methods.csd_edit_splat.compositing import composite

    cameras = torch.linalg.inv(viewmats)
    projected = []
    for viewmat, camera, intrinsics in zip(viewmats, cameras, Ks, strict=True):
        depth = means.detach() @ viewmat[2, :3].detach() + viewmat[2, 3].detach()
        seen = (depth > near_plane) & (depth < far_plane)
        # A projection from the camera's own plane has infinite gradients, which 0 doesn't cancel.
        ahead = (camera[:3, 3] + camera[:3, 2]).detach()
        covars: Any
        covars, _ = _quat_scale_to_covar_preci(quats, scales, compute_preci=False, triu=False)
        radii, *rest = _fully_fused_projection(
            torch.where(seen[:, None], means, ahead),
            covars,
            viewmat[None],
            intrinsics[None],
            width,
            height,
            eps2d=eps2d,
            near_plane=near_plane,
            far_plane=far_plane,
            calc_compensations=rasterize_mode == "antialiased",
            camera_model=camera_model,
        )
        radii = radii * (seen & (radii > radius_clip))
        projected.append((radii, *rest))
    radii, means2d, depths, conics = (
        torch.cat([view[part] for view in projected]) for part in range(4)
    )
    opacities = opacities.expand(len(viewmats), -1)
    if rasterize_mode == "antialiased":
        opacities = opacities * torch.cat([view[4] for view in projected])
    values = _values(means, colors, cameras, depths, sh_degree=sh_degree, render_mode=render_mode)
    images, alpha = composite(
        means2d,
        conics,
        values,
        opacities,
        radii=radii,
        depths=depths.detach(),
        width=width,
        height=height,
        absgrad=absgrad,
    )
    if render_mode.endswith("ED"):
        mean_depth = images[..., -1:] / alpha.clamp(min=1e-10)
        images = torch.cat([images[..., :-1], mean_depth], dim=-1)
    info = {
        "camera_ids": None,
        "gaussian_ids": None,
        "radii": radii,
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": opacities,
        "width": width,
        "height": height,
        "n_cameras": len(viewmats),
    }
    return images, alpha, info


def _values(
    means: Float[Tensor, "n 3"],
    colors: Float[Tensor, "n *values"],
    cameras: Float[Tensor, "c 4 4"],
    depths: Float[Tensor, "c n"],
    *,
    sh_degree: int | None,
    render_mode: RenderMode,
) -> Float[Tensor, "c n d"]:
    """What is composited, for each camera."""
    if render_mode in ("D", "ED"):
        return depths[..., None]
    if sh_degree is None:
        seen = colors.expand(len(cameras), -1, -1)
    else:
        from gsplat.cuda._torch_impl import _spherical_harmonics

        directions = means - cameras[:, None, :3, 3]
        coefficients = colors.expand(len(cameras), -1, -1, -1)
        harmonics = _spherical_harmonics(sh_degree, directions, coefficients)
        seen = (harmonics + 0.5).clamp(min=0)
    return seen if render_mode == "RGB" else torch.cat([seen, depths[..., None]], dim=-1)
