"""The example in the docstring of `Scene`, as a module."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from csd_nerf.scene.protocol import Scene

EXAMPLE = textwrap.dedent(inspect.getsource(Scene).split("```python\n")[1].split("```")[0])


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
