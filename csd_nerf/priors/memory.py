"""Chooses how a prior is loaded and called, by the memory that its device has free."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from csd_nerf.priors.placement import Offload, Quantize
from csd_nerf.priors.predictions import Edit, further_peak_bytes, most_evaluations, peak_bytes
from csd_nerf.priors.prior_costs import PriorCosts
from csd_nerf.priors.splitting import split_bytes

SCENE_RESERVE = {"cuda": 8 << 30, "cpu": 1 << 30}
"""Bytes left to the training of a scene on the same device, by its type. On a GPU: nerfstudio names
6 GB for nerfacto, and the editing stage trains on four times as many rays, with LPIPS. Ours, and
not measured."""

_PLACES: tuple[tuple[Offload, Quantize], ...] = (
    ("none", "none"),
    ("text", "none"),
    ("model", "none"),
    ("none", "8bit"),
    ("text", "8bit"),
    ("none", "4bit"),
    ("text", "4bit"),
)
"""In the order of preference. Offloading leaves the result as it is, and quantising changes it;
weights that are quantised can't be offloaded by layers."""


@dataclass(frozen=True)
class Choice:
    """How a prior is loaded and called."""

    max_batch: int | None
    """Most evaluations in one call; None means all of an iteration."""
    offload: Offload
    quantize: Quantize
    peak_bytes: int
    """The predicted peak of an edit so."""
    free_bytes: int
    """What was free, without the reserve."""
    further: tuple[tuple[int, int], ...] = ()
    """Both of each further device of a split."""

    @property
    def devices(self) -> tuple[tuple[int, int], ...]:
        """Predicted peak and free bytes of each device, the prior's own first."""
        return ((self.peak_bytes, self.free_bytes), *self.further)

    @property
    def fits(self) -> bool:
        """Whether the peaks are within what was free."""
        return all(peak <= free for peak, free in self.devices)

    @property
    def reason(self) -> str:
        """The choice and why, as a clause without a full stop."""
        calls = "all evaluations of an iteration in one call"
        if self.max_batch is not None:
            plural = "s" if self.max_batch > 1 else ""
            calls = f"{self.max_batch} evaluation{plural} a call"
        waits = {
            "none": "everything on the device",
            "text": "text encoders on the CPU until they encode",
            "model": "text encoders and the denoiser's layers on the CPU until they are called",
        }[self.offload]
        weights = "" if self.quantize == "none" else f", weights in {self.quantize}"
        needs, free = (
            " and ".join(f"{count / 1e9:.1f}" for count in counts) + " GB"
            for counts in zip(*self.devices, strict=True)
        )
        end = f"which takes about {needs} of {free}"
        if not self.fits:
            end = f"which takes the least, about {needs}, and still more than the {free} that are"
            end += " free: take a smaller edit size, fewer views or a smaller model"
        return f"{calls}, {waits}{weights}, {end}"


def choose(
    costs: PriorCosts,
    edit: Edit,
    *,
    free_bytes: int,
    reserve: int = 0,
    device: str = "cuda",
    fixed: Mapping[str, Any] | None = None,
    can_quantize: bool | None = None,
    split: Sequence[int] = (),
) -> Choice:
    """Choose the first of the ways to run an edit that fits.

    In this order: all evaluations at once; smaller calls; text encoders on the CPU; the denoiser's
    layers too; 8-bit and then 4-bit weights. Within each, the largest call that fits, of all
    evaluations, a half, a quarter and so on. More memory never leads to a later choice.

    Args:
        costs: Of the prior, in the precision in which it will run.
        edit: What will be edited.
        free_bytes: Free memory of the device.
        reserve: What of it is to be left to others.
        device: Type of the device; only on `cuda` is there something to offload to.
        fixed: Values of `max_batch`, `offload` and `quantize` that the user gave.
        can_quantize: Whether weights may be quantised; None asks whether bitsandbytes and
            accelerate are installed.
        split: Free memory of the further devices over which the denoiser is split, whose layers
            then stay where they are, as they are.

    Returns:
        The choice; if nothing fits, what takes the least memory.
    """
    if can_quantize is None:
        can_quantize = all(find_spec(name) for name in ("bitsandbytes", "accelerate"))
    places = _places(device, can_quantize=can_quantize, is_split=bool(split))
    own, others = None, [0 for _ in split]
    if split:
        blocks = costs.denoiser.block_bytes
        rest = costs.denoiser.kept_bytes - sum(blocks)
        own, *others = split_bytes(blocks, [free_bytes, *split], rest=rest)
    tried: list[Choice] = []
    for options in _candidates(most_evaluations(costs, edit), places, dict(fixed or {})):
        batch = options["max_batch"]
        peaks = [further_peak_bytes(costs, edit, part, max_batch=batch) for part in others]
        choice = Choice(
            **options,
            peak_bytes=peak_bytes(costs, edit, **options, denoiser_bytes=own),
            free_bytes=free_bytes - reserve,
            further=tuple(zip(peaks, split, strict=True)),
        )
        if choice.fits:
            return choice
        tried.append(choice)
    return min(tried, key=lambda choice: sum(peak for peak, _ in choice.devices))


def _places(device: str, *, can_quantize: bool, is_split: bool) -> list[dict[str, Any]]:
    """The places that a device allows, in the order of preference."""
    return [
        {"offload": offload, "quantize": quantize}
        for offload, quantize in _PLACES
        if (offload, quantize) == ("none", "none")
        or (device == "cuda" and (quantize == "none" or can_quantize))
        if not is_split or (offload != "model" and quantize == "none")
    ]


def _candidates(
    evaluations: int, places: list[dict[str, Any]], fixed: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    given = {name: fixed[name] for name in ("offload", "quantize") if name in fixed}
    batches: list[int | None] = [None]
    while evaluations > 1:
        evaluations //= 2
        batches.append(evaluations)
    if "max_batch" in fixed:
        batches = [fixed["max_batch"]]
    # What the user gave may be none of the places.
    for place in [p for p in places if given.items() <= p.items()] or [{**places[0], **given}]:
        for batch in batches:
            yield {"max_batch": batch, **place}


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a GPU, or of the machine for the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = Path("/proc/meminfo")
    if known.exists():
        # What caches of files hold is free, too.
        fields = dict(line.split(":", 1) for line in known.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
