"""What an editing round leaves for people to look at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from csd_nerf.scene.request import EditRequest
from csd_nerf.scene.rounds import ViewEdit
from csd_nerf.scene.updates import Update

REPORT_EVERY = 100
"""Training steps at least between two reports of Instruct-NeRF2NeRF's many small rounds."""


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


def round_metrics(
    edits: Mapping[int, ViewEdit], *, seconds: float, evaluations: int, evaluations_before: int = 0
) -> dict[str, float]:
    """Summarise a round.

    Args:
        edits: The edited views.
        seconds: Wall-clock time of the round.
        evaluations: Its model evaluations.
        evaluations_before: Those of the rounds before it.

    Returns:
        `change_from_source` and `change_from_start`: mean absolute differences of the edits, in
        [0, 1]; `views`, `seconds`, `evaluations`, and `evaluations_so_far`, this round's included.
    """
    from_source = [(view.edited01 - view.source01).abs().mean() for view in edits.values()]
    from_start = [(view.edited01 - view.start01).abs().mean() for view in edits.values()]
    return {
        "change_from_source": float(torch.stack(from_source).mean()),
        "change_from_start": float(torch.stack(from_start).mean()),
        "views": float(len(edits)),
        "seconds": seconds,
        "evaluations": float(evaluations),
        "evaluations_so_far": float(evaluations_before + evaluations),
    }


def save_round(
    path: Path,
    edits: Mapping[int, ViewEdit],
    request: EditRequest,
    *,
    update: Update,
    step: int,
    metrics: Mapping[str, float],
) -> None:
    """Save a round's contact sheet and, as JSON beside it, what was asked for and its metrics.

    Args:
        path: The contact sheet's file, a PNG.
        edits: The edited views.
        request: What was asked for.
        update: How the views were edited.
        step: The training step that the round came before.
        metrics: From `round_metrics`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = (contact_sheet01(edits).permute(1, 2, 0) * 255).round().to(torch.uint8)
    Image.fromarray(sheet.numpy()).save(path)
    record = {
        "step": step,
        "update": update,
        "views": list(edits),
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "settings": dataclasses.asdict(request.settings),
        "metrics": dict(metrics),
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", "utf8")
