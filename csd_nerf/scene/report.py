"""Reports of editing rounds: metrics, contact sheet and JSON file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from csd_nerf.media.files import write_json
from csd_nerf.media.sheets import save_contact_sheet
from csd_nerf.scene.controls import EditRequest
from csd_nerf.scene.rounds import ViewEdit
from csd_nerf.scene.updates import Update


@dataclasses.dataclass(frozen=True)
class RoundReport:
    """A finished editing round.

    Attributes:
        index: Number of the round, counted from 0.
        step: The training step after the round.
        request: The user's request.
        update: The method that edited the views.
        edits: The edited views.
        names: The views' names, in the same order.
        metrics: From `round_metrics`.
        wants_picture: Whether to show and save a contact sheet. It is False for most of
            Instruct-NeRF2NeRF's many rounds of one view.
    """

    index: int
    step: int
    request: EditRequest
    update: Update
    edits: Mapping[int, ViewEdit]
    names: list[str]
    metrics: dict[str, float]
    wants_picture: bool

    def save(self, folder: Path, *, notices: Sequence[str] = ()) -> Path:
        """Save a contact sheet, round_INDEX.png, and a JSON file of the same name.

        The JSON file holds the request, the metrics and the notices.

        Args:
            folder: The folder of all rounds.
            notices: What was put right or could not be honoured in the whole run.

        Returns:
            Path of the contact sheet.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"round_{self.index:03d}.png"
        save_contact_sheet(path, sheet_columns(self.edits))
        record = {
            "step": self.step,
            "update": self.update,
            "views": list(self.edits),
            "names": self.names,
            "prompt": self.request.prompt,
            "negative_prompt": self.request.negative_prompt,
            "region": self.request.region,
            "settings": dataclasses.asdict(self.request.settings),
            "metrics": self.metrics,
            "notices": list(notices),
        }
        write_json(path.with_suffix(".json"), record)
        return path


def sheet_columns(edits: Mapping[int, ViewEdit]) -> dict[str, Float[Tensor, "n 3 h w"]]:
    """The columns of a contact sheet: source, start and result of every view.

    A region is outlined in the source. The result is what the scene is trained on.

    Views of other shapes keep theirs: a cell is as high and as wide as the largest, and white
    beside the others.
    """
    shapes = [edit.source01.shape[-2:] for edit in edits.values()]
    cell = (max(height for height, _ in shapes), max(width for _, width in shapes))

    def column(name: str) -> Float[Tensor, "n 3 h w"]:
        return torch.stack([_padded(getattr(edit, name).cpu(), cell) for edit in edits.values()])

    return {"source": column("outlined01"), "start": column("start01"), "edit": column("trained01")}


def _padded(image01: Float[Tensor, "3 _ _"], cell: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    below, beside = cell[0] - image01.shape[1], cell[1] - image01.shape[2]
    sides = (beside // 2, beside - beside // 2, below // 2, below - below // 2)
    return functional.pad(image01, sides, value=1.0)


def round_metrics(
    edits: Mapping[int, ViewEdit], *, seconds: float, evaluations: int, evaluations_before: int
) -> dict[str, float]:
    """Compute the metrics of a round.

    Args:
        edits: The edited views.
        seconds: Wall-clock time of the round.
        evaluations: Number of model evaluations of the round.
        evaluations_before: Number of model evaluations of all rounds before it.

    Returns:
        `change_from_source` and `change_from_start` (mean absolute differences between edits and
        sources or starts, in [0, 1]), `views`, `seconds`, `evaluations`, and `evaluations_so_far`,
        which includes this round's.
    """
    from_source = [(edit.edited01 - edit.source01).abs().mean() for edit in edits.values()]
    from_start = [(edit.edited01 - edit.start01).abs().mean() for edit in edits.values()]
    return {
        "change_from_source": float(torch.stack(from_source).mean()),
        "change_from_start": float(torch.stack(from_start).mean()),
        "views": float(len(edits)),
        "seconds": seconds,
        "evaluations": float(evaluations),
        "evaluations_so_far": float(evaluations_before + evaluations),
    }
