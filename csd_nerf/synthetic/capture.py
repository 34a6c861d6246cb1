"""Writes a procedural scene as a capture that other programs have gone through.

Layout of the folder:
    images/      the photographs
    sparse/0/    the cameras, as a COLMAP model in text
    splats.ply   Gaussians on the surfaces, in the layout of Inria's code, which no program trained
    sample.json  how it was made

COLMAP's frame is here the world's own; its cameras look along z, with y down.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.media.vertices import write_vertices
from csd_nerf.synthetic.cameras import Cameras
from csd_nerf.synthetic.dataset import (
    POINTS,
    render_views,
    surface_points,
    view_cameras,
    write_images,
)
from csd_nerf.synthetic.render import Rendering
from csd_nerf.synthetic.scenes import draw_scenes

VIEWS = 40
GAUSSIANS = 24_000
_SPREAD = 0.75
"""Standard deviation of a Gaussian, as a share of what trainers begin with."""
_OPACITY = 0.95
_DEGREE_0 = 0.28209479177387814
"""Spherical harmonics' basis function of degree 0: a colour is 0.5 + this times its coefficient."""


def write_capture(folder: Path, seed: int, *, size: int) -> None:
    """Write the capture of a seed into an empty folder.

    Args:
        folder: The folder.
        seed: Seed of the scene.
        size: Height and width of the photographs in pixels.
    """
    cameras = view_cameras(VIEWS)
    views = render_views(draw_scenes([seed]), cameras, size=size)
    names = [f"{index:05d}.png" for index in range(VIEWS)]
    write_images(folder / "images", names, views.image01)
    points, colours = surface_points(cameras, views, count=POINTS)
    write_colmap(folder / "sparse" / "0", cameras, names, points, colours, size=size)
    _write_gaussians(folder / "splats.ply", cameras, views)


def write_colmap(
    folder: Path,
    cameras: Cameras,
    names: list[str],
    points: Float[Tensor, "n 3"],
    colours: UInt8[Tensor, "n 3"],
    *,
    size: int,
) -> None:
    """Write cameras and points as a COLMAP model in text, in the format of its documentation.

    Args:
        folder: Folder to make.
        cameras: One for each photograph, all with the first one's focal length.
        names: Names of the photographs.
        points: Points in space.
        colours: Their colours.
        size: Height and width of the photographs in pixels.
    """
    from scipy.spatial.transform import Rotation

    folder.mkdir(parents=True)
    focal, middle = float(cameras.focal[0]) * size, size / 2
    lens = f"1 PINHOLE {size} {size} {focal} {focal} {middle} {middle}\n"
    (folder / "cameras.txt").write_text(lens)
    poses = cameras.camera_to_world.double().numpy()
    # OpenGL's axes to COLMAP's, and from camera-to-world to world-to-camera.
    turns = (poses[:, :, :3] * [1, -1, -1]).transpose(0, 2, 1)
    shifts = -(turns @ poses[:, :, 3:])[..., 0]
    lines = []
    rotations = Rotation.from_matrix(turns).as_quat()
    for index, (name, (x, y, z, w), shift) in enumerate(zip(names, rotations, shifts, strict=True)):
        numbers = " ".join(str(float(number)) for number in (w, x, y, z, *shift))
        # The second line, of the points that the photograph shows, is empty.
        lines.append(f"{index + 1} {numbers} 1 {name}\n\n")
    (folder / "images.txt").write_text("".join(lines))
    rows = zip(points.tolist(), colours.tolist(), strict=True)
    (folder / "points3D.txt").write_text(
        "".join(
            f"{index + 1} {' '.join(map(str, [*point, *colour]))} 0\n"
            for index, (point, colour) in enumerate(rows)
        )
    )


def _write_gaussians(path: Path, cameras: Cameras, views: Rendering) -> None:
    """Write round Gaussians on the surfaces, somewhat smaller than those trainers begin with.

    Theirs have the root mean square distance to the next three (Kerbl et al. 2023) as standard
    deviation.
    """
    from scipy.spatial import KDTree

    points, colours = surface_points(cameras, views, count=GAUSSIANS)
    # The first is the point itself.
    gaps = KDTree(points.numpy()).query(points.numpy(), k=4)[0][:, 1:]
    deviation = _SPREAD * np.sqrt(np.square(gaps).mean(1))
    scale = np.log(deviation.clip(1e-4)).astype(np.float32)
    columns = dict(zip("xyz", points.numpy().T, strict=True))
    shade = ((colours.float() / 255 - 0.5) / _DEGREE_0).numpy()
    columns |= {f"f_dc_{channel}": shade[:, channel] for channel in range(3)}
    flat = np.ones(len(points), np.float32)
    columns["opacity"] = flat * np.float32(np.log(_OPACITY / (1 - _OPACITY)))
    columns |= {f"scale_{axis}": scale for axis in range(3)}
    columns |= {f"rot_{part}": flat * (part == 0) for part in range(4)}
    write_vertices(path, columns)
