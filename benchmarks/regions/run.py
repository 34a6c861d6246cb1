"""Edits one object of a synthetic scene: IoU of its masks, PSNR inside and outside of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.method_runs import NEVER, method_config, place, quiet_trainer
from benchmarks.regions.settings import RegionsSettings
from csd_nerf.media.files import write_json
from csd_nerf.media.images import read_image, write_image
from csd_nerf.media.pixels import to_01
from csd_nerf.media.sheets import contact_sheet, enlarge
from csd_nerf.methods.common.edit_scene import PhotographScene
from csd_nerf.synthetic.dataset import write_dataset
from csd_nerf.synthetic.edits import find_edit
from csd_nerf.synthetic.options import SceneSettings

MASKED = (0, 21, 38)
"""Numbers of the images whose masks are given for `masks`."""
TRIM = 0.02
"""Share of an object's points on each side that its box leaves out: those of blurred edges."""
OUTLINE = 3
"""Pixels around an object whose colour is partly its own, and partly that of what is behind."""
_SHEET = 4
"""Held-out views in the picture."""


def measure_region(settings: RegionsSettings) -> dict[str, float]:
    """Edit an object, and measure.

    Returns:
        `iou`, the mean over the training views without a given mask, and `iou_least`; `iou_held`,
        over views that are held out. After training, of views that are held out, in dB over all of
        their pixels together: `outside_kept`, outside of the object between renders after and
        before the edit, and `outside_beyond` of those `OUTLINE` pixels and more away from it;
        `inside_before` and `inside`, inside of it to the true edit.
    """
    data = settings.output / "data"
    if not data.exists():
        write_dataset(data, SceneSettings(scene=settings.scene), edit=settings.edit)
    source = settings.output / "source" / settings.method / "run" / "nerfstudio_models"
    if not source.exists():
        config = _config(settings, data)
        place(config, settings.output / "source")
        config.max_num_iterations = config.pipeline.source_steps
        config.save_config()
        with quiet_trainer(config, settings.output / "source.log") as trainer:
            trainer.train()
    config = _config(settings, data)
    place(config, settings.output / settings.region)
    config.load_dir = source
    shutil.rmtree(config.get_base_dir(), ignore_errors=True)
    log = settings.output / f"{settings.method}_{settings.region}.log"
    if settings.region == "box":
        with quiet_trainer(config, log) as trainer:
            config.pipeline.region = _box(settings, data, cast(Any, trainer.pipeline).scene)
    else:
        config.pipeline.region = _masked(settings, data)
    config.save_config()
    with quiet_trainer(config, log) as trainer:
        found = _measure(settings, data, trainer)
    write_json(log.with_suffix(".json"), found)
    return found


def _config(settings: RegionsSettings, data: Path) -> Any:
    config = method_config(settings.method)
    config.data = config.pipeline.datamanager.data = data
    config.pipeline.prompt = find_edit(settings.edit).instructions[0]
    config.steps_per_eval_batch = config.steps_per_eval_image = NEVER
    return config


def _masked(settings: RegionsSettings, data: Path) -> str:
    """The option of masks of some views, or of labels."""
    if settings.region == "labels":
        return f"labels:{settings.label}"
    folder = settings.output / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    for number in MASKED:
        name = f"{number:05d}.png"
        Image.fromarray(_truth(settings, data, name).byte().mul(255).numpy()).save(folder / name)
    return str(folder)


def _box(settings: RegionsSettings, data: Path, scene: PhotographScene) -> str:
    """A box around the object as the trained scene shows it, such as a user reads off a viewer."""
    points = []
    for view in range(scene.num_views):
        truth = _truth(settings, data, Path(scene.name(view)).name)
        shown = scene.render(view, size=(truth.shape[0], truth.shape[1])).points
        assert shown is not None, "renders of these scenes have points"
        points.append(shown[truth])
    every = torch.cat(points).double()
    low, high = (every.quantile(share, dim=0) for share in (TRIM, 1 - TRIM))
    room = TRIM * (high - low)
    return ",".join(f"{x:.4f}" for x in (*(low - room).tolist(), *(high + room).tolist()))


def _measure(settings: RegionsSettings, data: Path, trainer: Any) -> dict[str, float]:
    pipeline, scene = trainer.pipeline, trainer.pipeline.scene
    masks = pipeline.stage.regions.find(pipeline.config.region, base=None)
    given = {f"{number:05d}" for number in MASKED} if settings.region == "masks" else set()
    names = [Path(scene.name(view)).name for view in range(scene.num_views)]
    overlaps = [
        _overlap(masks.inside_of(view, tuple(truth.shape)), truth)
        for view, name in enumerate(names)
        if Path(name).stem not in given and (truth := _truth(settings, data, name)).any()
    ]
    before = _held_out(pipeline)
    held = [Path(path).name for path in pipeline.datamanager.eval_dataset.image_filenames]
    truths = [_truth(settings, data, name) for name in held]
    places = [
        masks.inside(render.points.reshape(-1, 3)).view(truth.shape).cpu()
        for render, truth in zip(before, truths, strict=True)
    ]
    found = {
        "iou": float(np.mean(overlaps)),
        "iou_least": min(overlaps),
        "iou_held": float(np.mean([_overlap(*pair) for pair in zip(places, truths, strict=True)])),
    }
    if not settings.train:
        return found
    trainer.train()
    after = [render.image01.cpu() for render in _held_out(pipeline)]
    first = [render.image01.cpu() for render in before]
    wanted = [to_01(read_image(data / "edited" / name)[0]) for name in held]
    outside = [~truth for truth in truths]
    truly = [torch.where(t, w, b) for t, w, b in zip(truths, wanted, first, strict=True)]
    columns = {"before": first[:_SHEET], "after": after[:_SHEET], "truth": truly[:_SHEET]}
    sheet = contact_sheet({n: enlarge(torch.stack(images)) for n, images in columns.items()})
    write_image(settings.output / f"{settings.method}_{settings.region}.png", sheet)
    return {
        **found,
        "outside_kept": _psnr(after, first, outside),
        "outside_beyond": _psnr(after, first, [~_widened(truth, OUTLINE) for truth in truths]),
        "inside_before": _psnr(first, wanted, truths),
        "inside": _psnr(after, wanted, truths),
    }


def _held_out(pipeline: Any) -> list[Any]:
    """Renders of the views that are held out."""
    cameras = pipeline.datamanager.eval_dataset.cameras
    sizes = [(int(camera.height), int(camera.width)) for camera in cameras]
    return [
        pipeline.scene.render_at(cameras[view : view + 1], size=size)
        for view, size in enumerate(sizes)
    ]


def _truth(settings: RegionsSettings, data: Path, name: str) -> Bool[Tensor, "h w"]:
    with Image.open(data / "labels" / name) as labels:
        return torch.from_numpy(np.array(labels)) == settings.label


def _overlap(first: Bool[Tensor, "h w"], second: Bool[Tensor, "h w"]) -> float:
    """Intersection over union."""
    return float((first & second).sum() / (first | second).sum().clamp(min=1))


def _widened(mask: Bool[Tensor, "h w"], pixels: int) -> Bool[Tensor, "h w"]:
    edge = 2 * pixels - 1
    wide = functional.max_pool2d(mask[None].float(), edge, stride=1, padding=pixels - 1)
    return wide[0].bool()


def _psnr(
    first: list[Float[Tensor, "3 h w"]],
    second: list[Float[Tensor, "3 h w"]],
    where: list[Bool[Tensor, "h w"]],
) -> float:
    """10 log10(1 / mean squared error) over the chosen pixels of all images."""
    pairs = zip(first, second, where, strict=True)
    errors = torch.cat([((a - b) ** 2)[:, chosen].flatten() for a, b, chosen in pairs])
    return float(-10 * errors.mean().log10())
