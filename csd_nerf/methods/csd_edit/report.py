"""What an editing round leaves for people to look at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.utils import writer
from PIL import Image
from torch import Tensor
from torch.nn import functional

from csd_nerf.methods.csd_edit.controls import EditRequest
from csd_nerf.methods.csd_edit.rounds import ViewEdit


def contact_sheet01(edits: Mapping[int, ViewEdit]) -> Float[Tensor, "3 height width"]:
    """Lay the views out in columns, with source, start and edit below each other.

    Views of other sizes than the first are resampled to it.
    """
    views = list(edits.values())
    size = views[0].source01.shape[-2:]
    columns = []
    for view in views:
        rows = torch.stack([view.source01, view.start01, view.edited01])
        if rows.shape[-2:] != size:
            rows = functional.interpolate(rows, size, mode="area")
        columns.append(torch.cat(list(rows), dim=1))
    return torch.cat(columns, dim=2).cpu()


def round_metrics(edits: Mapping[int, ViewEdit], *, seconds: float) -> dict[str, float]:
    """Summarise a round.

    Returns:
        `change_from_source` and `change_from_start`: mean absolute differences of the edits, in
        [0, 1]; `views` and `seconds`.
    """
    from_source = [(view.edited01 - view.source01).abs().mean() for view in edits.values()]
    from_start = [(view.edited01 - view.start01).abs().mean() for view in edits.values()]
    return {
        "change_from_source": float(torch.stack(from_source).mean()),
        "change_from_start": float(torch.stack(from_start).mean()),
        "views": float(len(edits)),
        "seconds": seconds,
    }


def write_round(
    folder: Path,
    edits: Mapping[int, ViewEdit],
    request: EditRequest,
    *,
    index: int,
    step: int,
    seconds: float,
) -> Path:
    """Write a round's contact sheet and record, and hand its metrics to nerfstudio's writers.

    Args:
        folder: Gets `round_INDEX.png` and `round_INDEX.json`.
        edits: The edited views.
        request: What was asked for.
        index: Number of the round, from 0.
        step: The training step that it came before.
        seconds: What it took, renders included.

    Returns:
        The contact sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheet01 = contact_sheet01(edits).permute(1, 2, 0)
    path = folder / f"round_{index:03d}.png"
    Image.fromarray((sheet01 * 255).round().to(torch.uint8).numpy()).save(path)
    metrics = round_metrics(edits, seconds=seconds)
    record = {
        "step": step,
        "views": list(edits),
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "settings": dataclasses.asdict(request.settings),
        "metrics": metrics,
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", "utf8")
    writer.put_dict(name="Edit Round", scalar_dict=metrics, step=step)
    writer.put_image(name="Edit Round/sheet", image=sheet01, step=step)
    return path
