"""The examples in the docstrings of `Scene` and `LiveScene`, as a module."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from csd_nerf.scene.protocol import LiveScene, Scene


def _example(of: type) -> str:
    return textwrap.dedent(inspect.getsource(of).split("```python\n")[1].split("```")[0])


EXAMPLE, LIVE_EXAMPLE = _example(Scene), _example(LiveScene)


def run_example() -> dict[str, Any]:
    """Run it; gives its names."""
    names: dict[str, Any] = {}
    exec(EXAMPLE, names)
    return names


def image_scene_class() -> Any:
    """Its scene, without running the loop."""
    names: dict[str, Any] = {}
    exec(EXAMPLE.split("scene = ")[0], names)
    return names["ImageScene"]


def live_scene_class() -> Any:
    """That of `LiveScene`."""
    names: dict[str, Any] = {}
    exec(EXAMPLE.split("scene = ")[0] + LIVE_EXAMPLE, names)
    return names["LiveImageScene"]
