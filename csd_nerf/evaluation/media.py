"""An edited picture or video against a look applied to the original."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.adapters.frames import open_frames
from csd_nerf.adapters.images import read_image
from csd_nerf.adapters.layout import resize
from csd_nerf.core.windows import window_positions
from csd_nerf.evaluation.consistency import extra_change, flicker, seam_step, window_borders
from csd_nerf.evaluation.metrics import psnr
from csd_nerf.synthetic.edits import Edit, find_edit


def evaluate_edit(source: Path, edited: Path, *, look: str) -> dict[str, Any]:
    """Measure an edit that `csd-nerf panorama` or `csd-nerf video` made.

    Args:
        source: The input: a picture, a video or a folder of frames.
        edited: The result, with the record that was written beside it.
        look: Name or wording of the look that was asked for.

    Returns:
        `psnr_source` and `psnr_edited`: dB to the look applied to the input, at the input's size.
        At the size of the edit, for a picture `seams`, see `seam_step`, at the borders of its
        windows; for a video `flicker` and `extra_change`, and the latter of the look itself as
        `extra_change_of_look`, all from `csd_nerf.evaluation.consistency`.

    Raises:
        ValueError: If the look isn't one, or the files don't fit each other.
        FileNotFoundError: If a file or the record is missing.
    """
    edit = find_edit(look)
    if edit.kind != "look":
        raise ValueError(f"--look needs a look, which applies to any picture, got {edit.name!r}.")
    record = edited.with_name(edited.name + ".json")
    if not record.is_file():
        raise FileNotFoundError(
            f"An edit is measured by the record beside it, but there is no {record}; make it "
            "with csd-nerf panorama or csd-nerf video."
        )
    facts = json.loads(record.read_text())["facts"]
    if "canvas_cells" in facts:
        return _picture(source, edited, edit, facts)
    return _video(source, edited, edit, facts)


def _picture(source: Path, edited: Path, edit: Edit, facts: dict[str, Any]) -> dict[str, Any]:
    original, result = (read_image(path)[0] for path in (source, edited))
    row = _distances(original, result, edit)
    source01, edited01 = (_work_size(image, facts) for image in (original, result))
    (height, width), window = facts["canvas_cells"][::-1], tuple(facts["window_cells"][::-1])
    wrap, stride = facts.get("wrap", False), facts["stride_cells"]
    if window == (height, width):
        return row
    cell = facts["work_size"][0] // width
    positions = window_positions((height, width), window, stride=stride, wrap=wrap)
    borders = window_borders(positions, window, (height, width), cell_size=cell, wrap=wrap)
    seams = seam_step(edited01[0], edit.edit_image(source01)[0], borders, period=cell)
    return row | {"seams": round(seams, 5)}


def _video(source: Path, edited: Path, edit: Edit, facts: dict[str, Any]) -> dict[str, Any]:
    count = facts["frames"]
    rows, small = [], []
    for pair in _pairs(source, edited, str(count)):
        rows.append(_distances(*pair, edit))
        small.append(torch.cat([_work_size(frame, facts) for frame in pair]))
    mean = {name: round(sum(row[name] for row in rows) / len(rows), 2) for name in rows[0]}
    if len(small) < 2:
        return mean
    source01, edited01 = torch.stack(small, dim=1)
    truth01 = edit.edit_image(source01)
    return mean | {
        "flicker": round(flicker(edited01, truth01), 5),
        "extra_change": round(extra_change(edited01, source01), 5),
        "extra_change_of_look": round(extra_change(truth01, source01), 5),
    }


def _pairs(
    source: Path, edited: Path, frames: str
) -> Iterator[tuple[UInt8[Tensor, "H W 3"], UInt8[Tensor, "H W 3"]]]:
    inputs, results = open_frames(source, frames=frames), open_frames(edited)
    if inputs.count != results.count:
        raise ValueError(
            f"An edit needs as many frames as its input, {inputs.count}, got {results.count} in "
            f"{edited}."
        )
    return zip(inputs, results, strict=True)


def _distances(
    source: UInt8[Tensor, "H W 3"], edited: UInt8[Tensor, "H W 3"], edit: Edit
) -> dict[str, float]:
    if source.shape != edited.shape:
        raise ValueError(
            f"An edit needs the size of its input, {tuple(source.shape[:2])}, got "
            f"{tuple(edited.shape[:2])}."
        )
    source01, edited01 = _to_01(source), _to_01(edited)
    truth01 = edit.edit_image(source01)
    return {
        "psnr_source": round(psnr(source01, truth01), 2),
        "psnr_edited": round(psnr(edited01, truth01), 2),
    }


def _work_size(image: UInt8[Tensor, "H W 3"], facts: dict[str, Any]) -> Float[Tensor, "1 3 h w"]:
    width, height = facts["work_size"]
    return _to_01(resize(image, (height, width)))


def _to_01(image: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    return image.permute(2, 0, 1)[None].float() / 255
