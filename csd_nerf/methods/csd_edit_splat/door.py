"""Edits splats that were trained elsewhere: `csd-nerf scene`.

A .ply file and its cameras become a data set and a run of nerfstudio's splatfacto, from which
`ns-train csd-edit-splat` goes on. The Gaussians are never moved: the cameras are brought to them.
"""

from __future__ import annotations

import copy
import json
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
import yaml
from jaxtyping import Float
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion, all_methods
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.scripts import train
from torch import Tensor
from tqdm import tqdm

from csd_nerf.media.files import check_replaceable, folder_written_whole, write_json, written_whole
from csd_nerf.media.images import write_image
from csd_nerf.media.transforms import TRANSFORMS
from csd_nerf.methods.common.edit_scene import resized_camera
from csd_nerf.methods.csd_edit_splat.cameras import CameraFile, read_cameras
from csd_nerf.methods.csd_edit_splat.model import CSDEditSplatModel
from csd_nerf.methods.csd_edit_splat.options import SplatSettings
from csd_nerf.methods.csd_edit_splat.placement import (
    LAST_STEP,
    Shot,
    camera_of,
    find_frame,
    find_shots,
    lens_of,
    model_of,
    render,
    within,
)
from csd_nerf.methods.csd_edit_splat.ply import read_ply
from csd_nerf.methods.csd_edit_splat.trainer import PLY_FOLDER

RECORD = "scene.json"
"""File of a run's folder with the settings, by which the folder is known to be ours."""
_METHODS = {"full": "csd-edit-splat", "tiny": "csd-edit-splat-tiny"}
_CAPTURE = "capture"
_SOURCE = Path("source", "splatfacto", "run")
"""The folder of nerfstudio's run of the unedited splats."""


@dataclass(frozen=True)
class _Run:
    """The folder of a run, and the method that edits in it."""

    folder: Path
    method: str

    @property
    def preset(self) -> Any:
        """The method's config."""
        return all_methods[self.method]

    @property
    def begun(self) -> Path | None:
        """The last of nerfstudio's runs of the edit that saved a checkpoint; None if none did."""
        saved = (self.folder / "edit" / self.method).glob("*/nerfstudio_models/step-*.ckpt")
        return max((path.parent.parent for path in saved), default=None)

    @property
    def following(self) -> Path:
        """The folder of the run that goes on from it. nerfstudio gives each its own."""
        number = 1 if self.begun is None else int(self.begun.name) + 1
        return self.folder / "edit" / self.method / f"{number:03d}"


def edit_splat(settings: SplatSettings) -> None:
    """Bring a .ply file into nerfstudio, edit it there, and write the result.

    Raises:
        FileNotFoundError: If cameras or photographs are missing.
        ValueError: If a file can't be read, or the cameras don't fit the splats.
        FileExistsError: If there is a result already.
    """
    usual = "full" if torch.cuda.is_available() else "tiny"
    run = _Run(settings.run_folder, _METHODS[settings.preset or usual])
    _check_results(settings)
    if not settings.resume:
        with folder_written_whole(run.folder, marker=RECORD) as unfinished:
            found = _convert(settings, run, unfinished)
            write_json(unfinished / RECORD, {**_as_json(settings), "method": run.method, **found})
    following = run.following
    words = _command(settings, run)
    print(shlex.join(["ns-train", *words]), flush=True)
    config: Any = tyro.cli(AnnotatedBaseConfigUnion, args=words)
    train.main(config)
    splats = following / PLY_FOLDER
    with written_whole(settings.output) as temporary:
        shutil.copy(splats / "edited.ply", temporary)
    print(
        f"Wrote {settings.output}; {splats} has before_after.ply too. Look at the views of each "
        f"round in {following / 'rounds'}, at the splats in any viewer of .ply, and at pictures of "
        f"before and after with: csd-nerf compare --load-config {following / 'config.yml'}"
    )


def _check_results(settings: SplatSettings) -> None:
    folder, output = settings.run_folder, settings.output
    if output.resolve() == settings.splat.resolve():
        raise ValueError(f"--output must be another file than --splat, got {output}; rename it.")
    if settings.resume:
        if not (folder / RECORD).is_file():
            raise FileNotFoundError(
                f"--resume needs the folder of a run, got {folder}, which has no {RECORD}; leave "
                "it out to begin."
            )
        return
    for path in (output, folder):
        if path.exists() and not settings.overwrite:
            raise FileExistsError(
                f"The output must be a new one, got {path}; pass --overwrite to replace it, "
                "--resume to go on with it, or name another --output."
            )
    check_replaceable(folder, marker=RECORD)
    if output.exists() and not (folder / RECORD).is_file():
        raise FileExistsError(
            f"Only a result of this command is replaced, got {output} without {folder / RECORD}; "
            "move it away, or name another --output."
        )


def _as_json(settings: SplatSettings) -> dict[str, Any]:
    values = vars(settings).items()
    return {name: str(value) if isinstance(value, Path) else value for name, value in values}


def _command(settings: SplatSettings, run: _Run) -> list[str]:
    """The words after `ns-train`."""
    record = json.loads((run.folder / RECORD).read_text("utf8"))
    models = (run.begun or run.folder / _SOURCE) / "nerfstudio_models"
    means = run.preset.optimizers["means"]
    # The preset's are for nerfstudio's frame, where cameras lie within 1 of the origin.
    first, last = (
        record["camera_extent"] * rate
        for rate in (means["optimizer"].lr, means["scheduler"].lr_final)
    )
    return [
        run.method,
        *("--data", str(run.folder / _CAPTURE)),
        *("--load-dir", str(models)),
        *("--output-dir", str(run.folder)),
        *("--experiment-name", "edit"),
        *("--timestamp", run.following.name),
        *("--pipeline.prompt", settings.prompt),
        *("--pipeline.region", settings.region),
        *("--pipeline.region-model", settings.region_model),
        *("--optimizers.means.optimizer.lr", f"{first:.4g}"),
        *("--optimizers.means.scheduler.lr-final", f"{last:.4g}"),
        # With a viewer nerfstudio would wait after training, and nothing be written.
        *("--viewer.quit-on-train-completion", "True"),
        *settings.train_options,
    ]


def _convert(settings: SplatSettings, run: _Run, folder: Path) -> dict[str, Any]:
    """Write the data set and the run of splatfacto; returns what the record says of them."""
    gaussians, notices = read_ply(settings.splat)
    cameras = read_cameras(settings.cameras)
    notices += cameras.notices
    model = model_of(gaussians, settings, device=run.preset.machine.device_type)
    shots = find_shots(cameras, settings.images)
    scaled = sum(s.lens["w"] != lens["w"] for s, lens in zip(shots, cameras.lenses, strict=True))
    if scaled:
        notices.append(f"{scaled} cameras are scaled to the size of their photographs")
    frame, poses, psnr = find_frame(model, cameras, shots, settings)
    what = f"{len(gaussians.means)} Gaussians and {len(shots)} cameras in the frame {frame}"
    like = "" if psnr is None else f", renders are {psnr:.1f} dB from the photographs"
    notices.append(what + like)
    if settings.images is None:
        notices.append("without --images, renders of the splats are edited")
    for notice in notices:
        print(f"scene: {notice}.", file=sys.stderr)
    _write_capture(model, cameras, shots, poses, folder / _CAPTURE, run)
    _write_source(model, settings.run_folder, folder)
    centres = poses[:, :3, 3]
    extent = float((centres - centres.mean(0)).abs().max())
    return {"frame": frame, "psnr_source": psnr, "camera_extent": extent}


def _write_capture(
    model: CSDEditSplatModel,
    cameras: CameraFile,
    shots: list[Shot],
    poses: Float[Tensor, "n 4 4"],
    folder: Path,
    run: _Run,
) -> None:
    """Write a data set of the photographs, or of renders in their places."""
    (folder / "images").mkdir(parents=True)
    limit = run.preset.pipeline.datamanager.max_image_size
    has_photographs = shots[0].photograph is not None
    frames = []
    for shot, pose in tqdm(
        zip(shots, poses, strict=True), "renders", len(shots), disable=has_photographs
    ):
        name, lens = f"images/{shot.name}", shot.lens
        if shot.photograph is not None:
            _link(shot.photograph, folder / name)
        else:
            camera = camera_of(lens, cameras.model, pose)
            camera = resized_camera(camera, within(limit, (lens["h"], lens["w"])))
            image01 = render(model, camera)["rgb"].clamp(0, 1)
            write_image(folder / name, (255 * image01).round().byte())
            lens = lens_of(camera)
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **lens})
    is_bent = has_photographs and cameras.model is not None
    kind = {"camera_model": cameras.model} if is_bent else {}
    write_json(folder / TRANSFORMS, {**kind, "frames": frames})


def _link(photograph: Path, place: Path) -> None:
    """Put a photograph in a place without a copy, where the file system can."""
    try:
        place.symlink_to(photograph.resolve())
    except OSError:
        shutil.copy(photograph, place)


def _write_source(model: CSDEditSplatModel, final: Path, folder: Path) -> None:
    """Write a run of splatfacto as nerfstudio would have left it.

    Args:
        model: The model with the splats.
        final: Where the folder will be when it is whole.
        folder: The folder to write in.
    """
    config: Any = copy.deepcopy(all_methods["splatfacto"])
    config.output_dir = final
    config.experiment_name, config.method_name, config.timestamp = _SOURCE.parts
    data = final / _CAPTURE
    config.data = config.pipeline.datamanager.data = data
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(
        data=data,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        downscale_factor=1,
        eval_mode="all",
    )
    for name in ("sh_degree", "background_color", "rasterize_mode"):
        setattr(config.pipeline.model, name, getattr(model.config, name))
    models = folder / _SOURCE / config.relative_model_dir
    models.mkdir(parents=True)
    checkpoint = {
        "step": LAST_STEP,
        "pipeline": {f"_model.{name}": value for name, value in model.state_dict().items()},
        **{name: {} for name in ("optimizers", "schedulers", "scalers")},
    }
    torch.save(checkpoint, models / f"step-{LAST_STEP:09d}.ckpt")
    (folder / _SOURCE / "config.yml").write_text(yaml.dump(config), "utf8")
