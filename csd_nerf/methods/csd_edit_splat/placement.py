"""Finds photographs for the cameras of a .ply file, and the frame in which the cameras fit it."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import get_distortion_params
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor
from torch.nn.functional import interpolate

from csd_nerf.media.images import image_size, read_image
from csd_nerf.methods.common.edit_scene import resized_camera
from csd_nerf.methods.csd_edit_splat.cameras import CameraFile, Frame, camera_frames
from csd_nerf.methods.csd_edit_splat.model import CSDEditSplatModel, CSDEditSplatModelConfig
from csd_nerf.methods.csd_edit_splat.options import SplatSettings
from csd_nerf.methods.csd_edit_splat.ply import Gaussians

LAST_STEP = 29_999
"""The last step of splatfacto's default training, when all harmonics are on."""
_TRIED, _TRIED_EDGE = 6, 128
"""Views by which the frame is found, and the longer edge of their renders in pixels."""
_LEAST_SEEN = 0.02
"""Below this mean opacity, a render shows nothing."""


@dataclass(frozen=True)
class Shot:
    """A photograph, or a place for one, with its camera."""

    name: str
    lens: dict[str, Any]
    photograph: Path | None


def model_of(gaussians: Gaussians, settings: SplatSettings, *, device: str) -> CSDEditSplatModel:
    """A model of these Gaussians, for rendering."""
    config = CSDEditSplatModelConfig(
        sh_degree=gaussians.sh_degree,
        background_color=settings.background,
        rasterize_mode="antialiased" if settings.antialiased else "classic",
        lpips_weight=0.0,
    )
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    model: Any = config.setup(scene_box=box, num_train_data=1)
    for name, parameter in gaussians.parameters().items():
        model.gauss_params[name] = parameter
    model.step = LAST_STEP
    return model.to(device).eval()


def find_shots(cameras: CameraFile, images: Path | None) -> list[Shot]:
    """Find the photographs, and scale cameras to their size.

    Raises:
        FileNotFoundError: If some are missing.
        ValueError: If one has another shape than its camera.
    """
    places = [_photograph(images, name) for name in cameras.names] if images is not None else []
    missing = [name for name, place in zip(cameras.names, places, strict=False) if place is None]
    if missing:
        raise FileNotFoundError(
            f"--images must hold a photograph for each camera, got {images} without {missing[0]} "
            f"and {len(missing) - 1} others of {len(cameras.names)}; name their folder, or leave "
            "--images out."
        )
    flat = [Path(name) for name in cameras.names]
    is_unique = len({path.stem for path in flat}) == len(flat)
    shots = []
    for index, lens in enumerate(cameras.lenses):
        stem = flat[index].stem if is_unique else f"{index:05d}_{flat[index].stem}"
        photograph = places[index] if places else None
        if photograph is None:
            shots.append(Shot(f"{stem}.png", lens, None))
            continue
        fitted = _fitted(lens, photograph)
        shots.append(Shot(f"{stem}{photograph.suffix}", fitted, photograph))
    return shots


def _photograph(folder: Path, name: str) -> Path | None:
    """A file with the name, or with the end of it that is in the folder."""
    parts = Path(name.replace("\\", "/")).parts
    tried = (folder.joinpath(*parts[begin:]) for begin in range(len(parts)))
    return next((path for path in tried if path.is_file()), None)


def _fitted(lens: dict[str, Any], photograph: Path) -> dict[str, Any]:
    """The lens for a photograph of this size.

    Raises:
        ValueError: If it has another shape than the camera.
    """
    height, width = image_size(photograph)
    factor = width / lens["w"]
    if abs(factor * lens["h"] - height) > 1:
        raise ValueError(
            f"A photograph must have the shape of its camera, {lens['w']} x {lens['h']}, got "
            f"{photograph} with {width} x {height}; take the photographs that the splats were "
            "trained on."
        )
    focal = {key: factor * lens[key] for key in ("fl_x", "fl_y", "cx", "cy")}
    return {**lens, **focal, "w": width, "h": height}


def find_frame(
    model: CSDEditSplatModel, cameras: CameraFile, shots: list[Shot], settings: SplatSettings
) -> tuple[Frame, Float[Tensor, "n 4 4"], float | None]:
    """The frame that was asked for, or that fits best, with its poses and its PSNR in dB.

    Raises:
        ValueError: If the cameras don't fit the splats.
    """
    frames = camera_frames(cameras)
    if settings.frame is not None and settings.frame not in frames:
        raise ValueError(
            f"--frame must be one of {', '.join(frames)} for {settings.cameras}, got "
            f"{settings.frame}; it doesn't say how its axes come from COLMAP's."
        )
    if settings.frame is not None:
        frames = {settings.frame: frames[settings.frame]}
    elif settings.images is None:
        frames = dict([next(iter(frames.items()))])
    picked = torch.linspace(0, len(shots) - 1, min(_TRIED, len(shots))).round().long().tolist()
    views = [(index, _trial(shots[index])) for index in picked]
    fits = {}
    for index, (frame, poses) in enumerate(frames.items()):
        earlier = [*frames.values()][:index]
        if not any(torch.allclose(poses, other, atol=1e-3) for other in earlier):
            fits[frame] = _fit(model, cameras.model, views, poses)
    seen = {frame: fit.opacity for frame, fit in fits.items()}
    psnrs = {frame: fit.psnr for frame, fit in fits.items() if fit.psnr is not None}
    best: Any = max(fits, key=lambda frame: psnrs.get(frame, seen[frame]))
    if seen[best] < _LEAST_SEEN:
        raise ValueError(
            f"Cameras must see the splats, got {settings.cameras} in the frame {best} with a mean "
            f"opacity of {seen[best]:.3f}; name another --frame, or the cameras that the splats "
            "were trained with."
        )
    plain = fits[best].psnr_of_means
    if settings.frame is None and plain is not None and psnrs[best] <= plain:
        told = ", ".join(f"{psnr:.1f} dB in {frame}" for frame, psnr in psnrs.items())
        raise ValueError(
            f"Renders must be more like the photographs than their mean colours are, which have a "
            f"PSNR of {plain:.1f} dB, got {told}; name the cameras that the splats were trained "
            "with, or set --frame."
        )
    return best, frames[best], psnrs.get(best)


@dataclass(frozen=True)
class _Fit:
    """How well a few small renders in a frame fit."""

    opacity: float
    """Their mean opacity."""
    psnr: float | None
    """To the photographs, in dB; None without photographs."""
    psnr_of_means: float | None
    """Of pictures of the photographs' mean colours, in dB; None without photographs."""


@dataclass(frozen=True)
class _Trial:
    """A view by which frames are compared."""

    lens: dict[str, Any]
    size: tuple[int, int]
    """Height and width of its render."""
    truth01: Float[Tensor, "h w 3"] | None
    """The photograph at this size."""


def _trial(shot: Shot) -> _Trial:
    size = within(_TRIED_EDGE, (shot.lens["h"], shot.lens["w"]))
    truth01 = None if shot.photograph is None else _small(shot.photograph, size)
    return _Trial(shot.lens, size, truth01)


def _fit(
    model: CSDEditSplatModel,
    camera_model: str | None,
    views: list[tuple[int, _Trial]],
    poses: Float[Tensor, "n 4 4"],
) -> _Fit:
    opacity, errors, variances = [], [], []
    for index, view in views:
        camera = resized_camera(camera_of(view.lens, camera_model, poses[index]), view.size)
        outputs = render(model, camera)
        opacity.append(float(outputs["accumulation"].mean()))
        if view.truth01 is not None:
            off, spread = outputs["rgb"].clamp(0, 1) - view.truth01, view.truth01
            errors.append(float(off.square().mean()))
            variances.append(float((spread - spread.mean((0, 1))).square().mean()))
    psnr, plain = (_decibels(mean(found)) if found else None for found in (errors, variances))
    return _Fit(mean(opacity), psnr, plain)


def _decibels(mean_square: float) -> float:
    return -10 * log10(max(mean_square, 1e-10))


def camera_of(lens: dict[str, Any], model: str | None, pose: Float[Tensor, "4 4"]) -> Cameras:
    """A camera; one that is no perspective camera by itself is drawn as one without distortion."""
    kind = CAMERA_MODEL_TO_TYPE[model] if model is not None else CameraType.PERSPECTIVE
    if kind not in (CameraType.PERSPECTIVE, CameraType.FISHEYE):
        raise ValueError(
            f"Splats need perspective or fisheye cameras, got {model}; split them into "
            "perspective ones with ns-process-data."
        )
    return Cameras(
        camera_to_worlds=pose[None, :3],
        fx=lens["fl_x"],
        fy=lens["fl_y"],
        cx=lens["cx"],
        cy=lens["cy"],
        width=lens["w"],
        height=lens["h"],
        distortion_params=get_distortion_params(),
        camera_type=CameraType.PERSPECTIVE,
    )


def lens_of(camera: Cameras) -> dict[str, Any]:
    """Intrinsics by the names of transforms.json."""
    values = (camera.fx, camera.fy, camera.cx, camera.cy)
    keys = ("fl_x", "fl_y", "cx", "cy")
    focal = {key: float(value) for key, value in zip(keys, values, strict=True)}
    return {**focal, "w": int(camera.width), "h": int(camera.height)}


@torch.no_grad()
def render(model: CSDEditSplatModel, camera: Cameras) -> dict[str, Tensor]:
    """Render `rgb`, (h, w, 3), and `accumulation`, (h, w, 1), which is the opacity."""
    outputs = model.get_outputs_for_camera(camera.to(model.device))
    return {name: outputs[name].cpu() for name in ("rgb", "accumulation")}


def within(limit: int | None, size: tuple[int, int]) -> tuple[int, int]:
    """A size of the same shape whose longer edge is not above the limit."""
    factor = min(1.0, limit / max(size)) if limit is not None else 1.0
    return max(1, round(factor * size[0])), max(1, round(factor * size[1]))


def _small(photograph: Path, size: tuple[int, int]) -> Float[Tensor, "h w 3"]:
    image01 = read_image(photograph)[0].permute(2, 0, 1)[None].float() / 255
    return interpolate(image01, size, mode="area")[0].permute(1, 2, 0)
