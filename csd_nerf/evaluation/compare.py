"""Compares an edited scene with the true edit, on views held out from training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from pydantic import BaseModel
from torch import Tensor

from csd_nerf.evaluation.cross_view import CrossViewError, cross_view_error
from csd_nerf.evaluation.scene_runs import path_through, render_cameras
from csd_nerf.evaluation.similarity import psnr
from csd_nerf.json_files import read_json
from csd_nerf.media.files import check_results, write_json
from csd_nerf.media.images import read_image
from csd_nerf.media.pixels import resize, to_01
from csd_nerf.media.run_config import read_run_config
from csd_nerf.media.sheets import (
    enlarge,
    enlarge_smoothly,
    label_columns,
    save_contact_sheet,
    save_loop,
    save_video,
)
from csd_nerf.synthetic.dataset import RECORD
from csd_nerf.synthetic.edits import Edit, find_edit

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.engine.trainer import TrainerConfig

FILES = ("metrics.json", "contact_sheet.png", "before_after.mp4", "before_after.webp")
"""What a comparison writes."""
FRAMES_BETWEEN_VIEWS = 5
"""Number of frames of the video from one held-out view to the next."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out views of a run: photographs, true edits, renders before and after the edit."""

    photograph01: Float[Tensor, "n 3 h w"]
    truth01: Float[Tensor, "n 3 h w"]
    source01: Float[Tensor, "n 3 h w"]
    edited01: Float[Tensor, "n 3 h w"]


def compare_scene(
    load_config: Path, output: Path, *, edit: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Render a run before and after its edit, and measure both against the true edit.

    Args:
        load_config: The run's config.yml.
        output: Folder for before_after.mp4, the same as .webp, contact_sheet.png and metrics.json.
        edit: Name or wording of a known edit; None means the run's prompt. A look is applied to
            the held-out photographs; other edits need the data set's `edited` folder.
        overwrite: Replace an earlier comparison in the folder.

    Returns:
        The contents of metrics.json: `psnr_source` and `psnr_edited` (held-out renders before and
        after the edit against the true edit, in dB) and their difference `psnr_gain`;
        `psnr_source_to_photograph` (in dB); `cross_view_source` and `cross_view_edited`, the
        `cross_view_error` of neighbouring frames of the video by each scene's own depth, and
        `cross_view_seen_source` and `cross_view_seen_edited`, the share of pixels compared; and the
        settings. Without held-out views all are of training views, which `views` says.

    Raises:
        ValueError: If the true edit is not known.
        FileNotFoundError: If the run or a checkpoint of it is missing.
        FileExistsError: If there are files already, and they are not to be replaced or not ours.
    """
    began = time.perf_counter()
    record, *others = (output / name for name in FILES)
    check_results(record, others, fields={"psnr_source", "psnr_edited"}, overwrite=overwrite)
    if not load_config.is_file():
        raise FileNotFoundError(
            f"--load-config needs the config.yml of a csd-edit run, got {load_config}."
        )
    config, pipeline, checkpoint, step = _load(load_config)
    asked: Any = config.pipeline
    known = find_edit(edit or asked.prompt)
    cameras, photograph01, names = _held_out_views(pipeline)
    holds_out = pipeline.datamanager.holds_out
    if not holds_out:
        print("csd-nerf: no view of this run is held out; training views are compared.")
    truth01 = true_edit(known, photograph01, names, data=asked.datamanager.data)
    path = path_through(cameras, FRAMES_BETWEEN_VIEWS)
    edited01, _ = render_cameras(pipeline, cameras, "edited views")
    edited_path = render_cameras(pipeline, path)
    source_checkpoint = _load_source(pipeline, config.get_base_dir() / "source_models")
    source01, _ = render_cameras(pipeline, cameras, "source views")
    source_path = render_cameras(pipeline, path)

    views = HeldOut(photograph01, truth01, source01, edited01)
    metrics = {
        "psnr_source": round(psnr(source01, truth01), 3),
        "psnr_edited": round(psnr(edited01, truth01), 3),
        "psnr_source_to_photograph": round(psnr(source01, photograph01), 3),
        **_agreement("source", path, *source_path),
        **_agreement("edited", path, *edited_path),
        "held_out_views": len(names) if holds_out else 0,
        "views": "held out" if holds_out else "training, since none is held out",
        "edit": known.name,
        "prompt": asked.prompt,
        "step": step,
        "edited_checkpoint": checkpoint.name,
        "source_checkpoint": source_checkpoint.name,
        "render_size": list(truth01.shape[2:]),
        "compare_seconds": round(time.perf_counter() - began, 1),
    }
    metrics["psnr_gain"] = round(metrics["psnr_edited"] - metrics["psnr_source"], 3)
    _save(output, views, torch.stack([source_path[0], edited_path[0]]), metrics)
    return metrics


def _load(load_config: Path) -> tuple[TrainerConfig, Any, Path, int]:
    """What nerfstudio's `eval_setup` does, which would run code that the file names."""
    from nerfstudio.engine.trainer import TrainerConfig
    from nerfstudio.utils.eval_utils import eval_load_checkpoint

    config = read_run_config(load_config)
    if not isinstance(config, TrainerConfig):
        raise ValueError(f"--load-config needs the config of a run, got {load_config}.")
    _require_edited_run(config)
    config.load_dir = config.get_checkpoint_dir()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = config.pipeline.setup(device=device, test_mode="test")
    pipeline.eval()
    checkpoint, step = eval_load_checkpoint(config, pipeline)
    return config, pipeline, checkpoint, step


def _require_edited_run(config: TrainerConfig) -> None:
    if not hasattr(config.pipeline, "edit_steps"):
        raise ValueError(
            "--load-config needs a run of csd-edit or csd-edit-splat, got one of "
            f"{config.method_name}."
        )
    folder = config.get_checkpoint_dir()
    if not any(folder.glob("step-*.ckpt")):
        raise FileNotFoundError(
            f"A run needs a checkpoint to be compared, but {folder} has none; let it train until "
            "it saves, and call this from the folder that ns-train was called from."
        )


def _held_out_views(pipeline: Any) -> tuple[Cameras, Float[Tensor, "n 3 h w"], list[Path]]:
    """Cameras, photographs and file names of the evaluation split, at the run's image size.

    Transparent photographs are blended with the background of the model.
    """
    # The images first: splats' are undistorted as they are read, and their cameras change.
    rows = [pipeline.model.blend_background(image) for image in pipeline.datamanager.held_out01()]
    dataset = pipeline.datamanager.eval_dataset
    sizes = sorted({tuple(row.shape[:2]) for row in rows})
    if len(sizes) > 1:
        raise ValueError(f"Held-out views must be of one size, got (height, width) {sizes}.")
    names = [Path(name) for name in dataset.image_filenames]
    cameras = dataset.cameras.to(pipeline.device)
    return cameras, torch.stack(rows).permute(0, 3, 1, 2), names


def true_edit(
    edit: Edit, photograph01: Float[Tensor, "n 3 h w"], names: Sequence[Path], *, data: Path
) -> Float[Tensor, "n 3 h w"]:
    """True edits of views: those in the data set, or a look applied to the photographs.

    Args:
        edit: The edit.
        photograph01: The unedited views.
        names: Their files; the data set's edits have the same names.
        data: The data set's folder, or its transforms.json.

    Raises:
        ValueError: If the data set does not hold this edit, and it is not a look.
    """
    folder = (data if data.is_dir() else data.parent) / "edited"
    record = folder.with_name(RECORD)
    if record.is_file() and _edit_of(record) == edit.name:
        return torch.stack([_read(folder / name.name, photograph01.shape[2:]) for name in names])
    if edit.kind == "look":
        return edit.edit_image(photograph01)
    raise ValueError(
        f"The true result of {edit.name!r} must be known, but {folder} holds no such edit; "
        "make the data set with: csd-nerf synthetic --edit, or choose a look."
    )


class _DataSet(BaseModel):
    edit: str | None


def _edit_of(record: Path) -> str | None:
    """Name of the edit in a data set of `csd-nerf synthetic`."""
    what = "the record of a data set of csd-nerf synthetic, with its edit"
    return read_json(record, _DataSet, what=what, remedy="make the data set again").edit


def _read(path: Path, size: torch.Size) -> Float[Tensor, "3 h w"]:
    return to_01(resize(read_image(path)[0], (size[0], size[1]), by="box"))


def _load_source(pipeline: Any, folder: Path) -> Path:
    """Load the run's unedited scene into the pipeline; returns the checkpoint's path."""
    checkpoints = sorted(folder.glob("step-*.ckpt"))
    if not checkpoints:
        raise FileNotFoundError(
            f"{folder} needs the checkpoint of the unedited scene, which csd-edit writes when "
            "editing begins; the run has not come so far."
        )
    state = torch.load(checkpoints[-1], map_location="cpu", weights_only=True)
    pipeline.load_pipeline(state["pipeline"], state["step"])
    return checkpoints[-1]


def _agreement(
    name: str, path: Cameras, image01: Float[Tensor, "n 3 h w"], distance: Float[Tensor, "n h w"]
) -> dict[str, float | None]:
    """Cross-view error of renders, and the share of pixels that it compares.

    The renders are those of the video, whose cameras are close to each other and have no lens
    distortion.
    """
    lens = torch.cat([path.fx, path.fy, path.cx, path.cy], dim=1).cpu()
    result = cross_view_error(image01, distance, path.camera_to_worlds.cpu(), lens)
    return {
        f"cross_view_{name}": _rounded(result),
        f"cross_view_seen_{name}": round(result.seen, 3),
    }


def _rounded(result: CrossViewError) -> float | None:
    """The error for JSON, which has no NaN."""
    return round(result.error, 5) if result.seen else None


def _save(
    output: Path,
    views: HeldOut,
    path01: Float[Tensor, "two n 3 h w"],
    metrics: dict[str, Any],
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    columns = {
        "photograph": views.photograph01,
        "before (render)": views.source01,
        "after (render)": views.edited01,
        "true edit": views.truth01,
    }
    save_contact_sheet(output / "contact_sheet.png", {k: enlarge(v) for k, v in columns.items()})
    before, after = path01
    columns = {"before": enlarge_smoothly(before), "after": enlarge_smoothly(after)}
    frames = label_columns(columns)
    there_and_back = torch.cat([frames, frames.flip(0)])
    save_video(output / "before_after.mp4", there_and_back, fps=12)
    save_loop(output / "before_after.webp", there_and_back, fps=12)
    write_json(output / "metrics.json", metrics)
