"""A scene that is nothing but its photographs, and the round that is a cell of a preview."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.media.pixels import resize01
from csd_nerf.methods.preview.photographs import PreviewPhotographs
from csd_nerf.priors import Prior
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.protocol import Scene, SceneRender
from csd_nerf.scene.report import RoundReport
from csd_nerf.scene.stage import EditingStage


class PhotographsAlone(Scene):
    """A `Scene` whose renders are its photographs.

    It is not trained, so that a round starts from the photographs whatever `start` says.
    """

    def __init__(self, photographs: PreviewPhotographs) -> None:
        self._photographs = photographs

    @property
    def num_views(self) -> int:
        """Number of photographs."""
        return len(self._photographs.names)

    def name(self, view: int) -> str:
        """Name of a photograph."""
        return self._photographs.names[view]

    def photograph01(self, view: int) -> Float[Tensor, "3 H W"]:
        """A photograph."""
        return self._photographs.photograph01(view)

    def render(self, view: int, *, size: tuple[int, int]) -> SceneRender:
        """The photograph, resized; its depth is not known, and NaN."""
        image01 = resize01(self.photograph01(view)[None], size)[0]
        return SceneRender(image01, depth=torch.full(size, torch.nan))

    def set_edited(self, images: Mapping[int, UInt8[Tensor, "_ _ 3"]]) -> None:
        """Nothing is trained."""

    def reset_images(self) -> None:
        """Nothing is trained."""

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Nothing is trained."""

    def state_dict(self) -> dict[str, Any]:
        """There is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is no state."""


def first_round(
    scene: PhotographsAlone, options: StageOptions, *, prior: Callable[[], Prior]
) -> RoundReport:
    """The first editing round of a run, over all views of a scene.

    It is that of a run on a data set with only these training views.

    Args:
        scene: The scene.
        options: Options of the run's editing stage.
        prior: Returns the prior.

    Raises:
        RoundError: If the round fails.
    """
    options = dataclasses.replace(options, edit_views=scene.num_views, chain=False)
    stage = EditingStage(scene, options, prior=prior)
    stage.plan_run(source_is_trained=True)
    report = stage.before_step(0)
    assert report is not None, "a round is due as editing begins"
    return report
