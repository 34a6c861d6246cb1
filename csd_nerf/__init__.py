"""Edit 3D scenes, videos and panoramas by text with Collaborative Score Distillation (CSD).

The Python interface::

    prior = csd_nerf.load("tiny")
    result = csd_nerf.edit_images(
        prior,
        images01,
        prompt="make it night",
        settings=csd_nerf.EditSettings(iterations=30),
        generator=torch.Generator().manual_seed(0),
    )

Nothing is imported before it is used: `import csd_nerf` takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csd_nerf.core.settings import EditSettings
    from csd_nerf.editor import EditResult, edit_images
    from csd_nerf.priors import Prior, WeightsNotFoundError, load

__all__ = [
    "EditResult",
    "EditSettings",
    "Prior",
    "WeightsNotFoundError",
    "edit_images",
    "load",
]

_HOMES = {
    "EditResult": "editor",
    "EditSettings": "core.settings",
    "Prior": "priors",
    "WeightsNotFoundError": "priors",
    "edit_images": "editor",
    "load": "priors",
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
