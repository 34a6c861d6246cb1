"""The settings of nerfstudio's viewer that all methods share."""

from __future__ import annotations

from dataclasses import dataclass

from nerfstudio.configs.base_config import ViewerConfig

LOCAL = "127.0.0.1"


@dataclass
class EditViewerConfig(ViewerConfig):
    """nerfstudio's options of its viewer."""

    max_res: int = 512
    """Longest edge in pixels of the pictures of the scene at the start; the viewer's Control tab
    changes it."""


def viewer_config(*, rays: int, max_res: int | None = None) -> ViewerConfig:
    """The viewer for this machine alone; nerfstudio's own is open to the whole network.

    Args:
        rays: Rays that it renders together.
        max_res: For methods with the Edit tab: longest edge in pixels of its pictures of the scene
            at the start.
    """
    if max_res is None:
        return ViewerConfig(websocket_host=LOCAL, num_rays_per_chunk=rays)
    return EditViewerConfig(websocket_host=LOCAL, num_rays_per_chunk=rays, max_res=max_res)
