"""Global random states, kept in checkpoints so that a resumed run goes on exactly.

They are made of tensors, lists and numbers: `torch.load(weights_only=True)` reads nothing else.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


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
    """Set what `random_state` read; those of GPUs only if there are as many as before."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kept = state["numpy"]
    keys = kept["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, kept["position"], kept["has_gauss"], kept["gauss"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
