"""What an edit takes with each prior, as the rows of a table: computed, not measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from csd_nerf.adapters.presets import panorama_values
from csd_nerf.core.residuals import EDIT_RESIDUALS
from csd_nerf.priors import precision, usual_numbers
from csd_nerf.priors.architectures import configurations
from csd_nerf.priors.memory import Choice, choose
from csd_nerf.priors.predictions import Edit, edit_flops, peak_bytes
from csd_nerf.priors.prior_costs import PriorCosts, prior_costs

VIEWS = 16
"""Views of a round, as in the paper."""
FULL_BATCH: int = panorama_values("full", "csd")["max_batch"]
"""Evaluations a call of the full presets."""
SMALL_BATCH: int = panorama_values("small", "csd")["max_batch"]
"""Evaluations a call of the small presets."""


@dataclass(frozen=True)
class PriorRow:
    """What an edit of `VIEWS` views at the model's preferred size takes, in 200 iterations."""

    name: str
    kind: str
    """`edit` or `text`."""
    dtype: str
    half: str
    """The half precision of its family."""
    size: int
    """Edge of the views in pixels."""
    parameters: int
    """Of all parts."""
    weight_bytes: int
    """Of all parts, in this precision."""
    evaluations: int
    """Evaluations of a view in an iteration."""
    full_bytes: int
    """Peak with the full presets' calls."""
    small_bytes: int
    """Peak with the small presets' calls."""
    freed_bytes: int
    """Peak with the small presets' calls and the text encoders on the CPU."""
    flops: int

    def seconds(self, rate: float) -> float:
        """Time of the edit at this rate, in operations a second."""
        return self.flops / rate


def costs_on(name: str, device: torch.device) -> PriorCosts:
    """The costs of a prior in the precision `auto` on a device; see `PriorCosts` for errors."""
    family = configurations(name)[1]
    return prior_costs(name, precision("auto", device=device, half=family.half))


def round_of(costs: PriorCosts) -> Edit:
    """An edit of `VIEWS` views with the numbers of the prior's authors."""
    usual: dict[str, Any] = usual_numbers(costs.name)
    residual = EDIT_RESIDUALS["csd" if costs.family.kind == "edit" else "dds"]
    terms = residual(
        image_scale=usual.get("image_scale", 1.0),
        text_scale=usual.get("text_scale", 1.0),
        source_share=1.0,
    )
    return Edit(VIEWS, terms)


def row_of(name: str, device: torch.device) -> PriorRow:
    """The row of a prior; errors as `PriorCosts`."""
    costs = costs_on(name, device)
    edit = round_of(costs)
    parts = costs.parts.values()
    return PriorRow(
        name=name,
        kind=costs.family.kind,
        dtype=str(costs.dtype).removeprefix("torch."),
        half=costs.family.half,
        size=costs.preferred_size,
        parameters=sum(part.parameters for part in parts),
        weight_bytes=sum(part.loaded_bytes for part in parts),
        evaluations=len(edit.terms.weights),
        full_bytes=peak_bytes(costs, edit, max_batch=FULL_BATCH),
        small_bytes=peak_bytes(costs, edit, max_batch=SMALL_BATCH),
        freed_bytes=peak_bytes(costs, edit, max_batch=SMALL_BATCH, offload="text"),
        flops=edit_flops(costs, edit),
    )


def fitting(name: str, device: torch.device, free: int) -> Choice:
    """How the same edit fits the memory that is free; errors as `PriorCosts`."""
    costs = costs_on(name, device)
    return choose(costs, round_of(costs), free_bytes=free, device=device.type)


def markdown(rows: list[PriorRow], rate: float) -> str:
    """The table of docs/priors.md."""
    lines = [
        "| name | parameters, 10^9 | weights, GB | peak, calls of "
        f"{FULL_BATCH} | calls of {SMALL_BATCH} | and text encoders on the CPU | PFLOP a round "
        f"| at {rate / 1e12:.0f} TFLOP/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        gigabytes = (row.full_bytes, row.small_bytes, row.freed_bytes)
        peaks = " | ".join(f"{count / 1e9:.1f}" for count in gigabytes)
        lines.append(
            f"| `{row.name}` | {row.parameters / 1e9:.2f} | {row.weight_bytes / 1e9:.1f} | {peaks} "
            f"| {row.flops / 1e15:.1f} | {duration(row.seconds(rate))} |"
        )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time in its usual unit."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
