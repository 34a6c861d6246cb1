"""The settings of nerfstudio's viewer that all methods share."""

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig

LOCAL = "127.0.0.1"


def viewer_config(*, rays: int) -> ViewerConfig:
    """The viewer for this machine alone; nerfstudio's own is open to the whole network.

    Args:
        rays: Rays that it renders together.
    """
    return ViewerConfig(websocket_host=LOCAL, num_rays_per_chunk=rays)
