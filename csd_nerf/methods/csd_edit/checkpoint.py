"""What a checkpoint of ours holds beside the scene, so that a resumed run goes on exactly.

Everything is made of tensors, lists, numbers and strings: torch.load takes nothing else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nerfstudio.model_components.ray_samplers import ProposalNetworkSampler


@dataclass
class EditProgress:
    """Where the editing stage stands.

    Attributes:
        first_edit: The step at which it began; None before.
        rounds: Rounds done.
        last_round: The step before which the last one came; None before.
        waiting: Views whose turn has not come yet, in the order they will be taken.
        evaluations: Model evaluations of all rounds.
        last_report: The step before which the last round came that left a report; None before.
    """

    first_edit: int | None = None
    rounds: int = 0
    last_round: int | None = None
    waiting: list[int] = field(default_factory=list)
    evaluations: int = 0
    last_report: int | None = None


def random_state() -> dict[str, Any]:
    """Read the global random states of Python, numpy and torch."""
    version, internal, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    keys = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return {
        "python": [version, list(internal), gauss],
        "numpy": {
            "keys": keys,
            "position": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set what `random_state` read; GPUs only where there are as many as there were."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kept = state["numpy"]
    keys = kept["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, kept["position"], kept["has_gauss"], kept["gauss"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def sampler_state(sampler: ProposalNetworkSampler) -> dict[str, int]:
    """Read the counters that say when the proposal networks are trained next."""
    return {"step": int(sampler._step), "since_update": int(sampler._steps_since_update)}


def restore_sampler_state(sampler: ProposalNetworkSampler, state: dict[str, int]) -> None:
    """Set what `sampler_state` read; nerfstudio itself starts from zero."""
    sampler._step = state["step"]
    sampler._steps_since_update = state["since_update"]
