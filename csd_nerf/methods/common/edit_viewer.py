"""Puts the Edit tab and the unedited scene into nerfstudio's viewer."""

from __future__ import annotations

from typing import Any

from nerfstudio.viewer.utils import CameraState, get_camera
from nerfstudio.viewer.viewer import Viewer
from viser import ClientHandle, GuiTabHandle, Icon
from viser._gui_handles import GuiTabGroupHandle

from csd_nerf.methods.common.controls import ViewerControls
from csd_nerf.methods.common.unedited import UNEDITED
from csd_nerf.methods.common.viewer import EditViewerConfig

PREVIEW_EDGE = 512
"""Height in pixels of a preview's camera; the stage renders at the prior's size."""

_PAUSED = "Training is paused, and nothing is edited meanwhile: press Resume Training."
_FINISHED = (
    "The run is finished and saved. A new run goes on from it: --load-dir with its checkpoints, "
    "and more --pipeline.edit-steps."
)
_BRAND = (255, 211, 105)
"""nerfstudio's colour in its viewer."""


def open_edit_tab(viewer: Viewer, controls: ViewerControls) -> None:
    """Add the Edit tab to a viewer of nerfstudio, before all others, and the unedited scene.

    The viewer's model has to be one that can show it, `ShowsUnedited`.

    Args:
        viewer: A viewer that is set up.
        controls: What the tab changes.
    """
    gui = viewer.viser_server.gui
    # Wider than nerfstudio's, for pictures side by side. Its title bar, whose pictures come from
    # the internet, makes room for them.
    gui.configure_theme(
        control_layout="collapsible", control_width="large", dark_mode=True, brand_color=_BRAND
    )
    controls.open(viewer.viser_server, NerfstudioDesk(viewer), container=_first_tab(viewer))
    for button in (viewer.pause_train, viewer.resume_train):
        # After nerfstudio's own, which changes the state.
        button.on_click(lambda _: controls.refresh())
    if isinstance(viewer.config, EditViewerConfig):
        viewer.control_panel._max_res.value = viewer.config.max_res
    # Hides the handles of the crop, which nerfstudio shows until its panel is first used.
    viewer.control_panel.update_control_panel()

    def show_both(client: ClientHandle) -> None:
        machine = viewer.render_statemachines[client.client_id]
        plain = machine._render_img

        def render(camera_state: CameraState) -> dict[str, Any]:
            model: Any = viewer.get_model()
            model.shows_unedited = UNEDITED in _looked_at(viewer)
            outputs = plain(camera_state)
            # Outputs can be chosen before they are computed.
            outputs.setdefault(UNEDITED, outputs["rgb"])
            return outputs

        machine._render_img = render

    # After nerfstudio's own, which makes the client's renderer.
    viewer.viser_server.on_client_connect(show_both)


class NerfstudioDesk:
    """What the tab asks of nerfstudio's viewer; see `Desk`."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer

    def camera(self, client: ClientHandle) -> Any:
        """What a browser sees."""
        state = self._viewer.get_camera_state(client)
        return get_camera(state, PREVIEW_EDGE, round(PREVIEW_EDGE * state.aspect))

    def show_output(self, name: str | None) -> None:
        """Show an output, or the edited beside the unedited scene."""
        panel = self._viewer.control_panel
        if name is None:
            panel._split_output_render.value = UNEDITED
        panel._output_render.value = name or "rgb"
        panel._split.value = name is None

    def waits_for(self) -> str:
        """Why no training step will read a press."""
        trainer = self._viewer.trainer
        state = "training" if trainer is None else trainer.training_state
        return {"paused": _PAUSED, "completed": _FINISHED}.get(state, "")


def _looked_at(viewer: Viewer) -> set[str]:
    """The outputs that the viewer shows."""
    panel = viewer.control_panel
    return {panel.output_render, panel.split_output_render if panel.split else panel.output_render}


def _first_tab(viewer: Viewer) -> GuiTabHandle:
    """A new tab before nerfstudio's, which the browser therefore opens first."""
    root: Any = viewer.viser_server.gui._container_handle_from_id["root"]
    (group,) = (part for part in root._children.values() if isinstance(part, GuiTabGroupHandle))
    tab = group.add_tab("Edit", Icon.WAND)
    for row in (group._labels, group._icons_html, group._tabs):
        _last_first(row)
    group._sync_with_client()
    return tab


def _last_first(row: list[Any]) -> None:
    row.insert(0, row.pop())
