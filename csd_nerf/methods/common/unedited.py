"""A model of nerfstudio that keeps the unedited scene beside its own, and shows both."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from torch import Tensor

from csd_nerf.core.random_state import random_state_kept
from csd_nerf.methods.common.errors import MethodError

UNEDITED = "unedited"
"""Name of the output that shows the unedited scene."""


class ShowsUnedited:
    """To be mixed into a model of nerfstudio.

    The unedited scene is a second model of the same class on the same device, which is neither
    trained nor saved. It takes as much memory as the parameters alone: 0.24 GB for a million splats
    with harmonics of degree 3, 0.07 GB for nerfacto's usual grid.

    Attributes:
        shows_unedited: Whether renders of a camera have the output `unedited` too, which takes as
            long as the others. The viewer sets it; evaluation and rounds don't heed it.
    """

    config: Any
    device: torch.device
    scene_box: Any
    num_train_data: int
    kwargs: dict[str, Any]
    per_gaussian: tuple[str, ...] = ()
    """Parameters whose first dimension may differ from that of a snapshot."""
    shows_unedited: bool = False
    # A tuple, since a module among the attributes would be trained and saved.
    _kept: tuple[Any, ...] = ()

    @property
    def unedited(self) -> Any:
        """The model of the unedited scene; the model itself as long as none is kept."""
        return self._kept[0] if self._kept else self

    def keep_unedited(self, parameters: Mapping[str, Tensor]) -> None:
        """Let the unedited scene be that of a state dict; see `take_parameters`.

        Raises:
            MethodError: If it is another model's. Nothing has changed.
        """
        kept = self._kept[0] if self._kept else self._bare_copy()
        kept.take_parameters(parameters)
        kept.requires_grad_(False)
        self._kept = (kept,)

    def take_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Take the values of a state dict, which stays what it is; Gaussians may differ in number.

        Raises:
            MethodError: If they are another model's. Nothing has changed.
        """
        model: Any = self
        wanted = model.state_dict()
        if parameters.keys() != wanted.keys():
            differing = sorted(parameters.keys() ^ wanted.keys())
            raise MethodError(_misfit(differing[0], "in one of both alone"))
        for name, value in wanted.items():
            first = 1 if name in self.per_gaussian else 0
            if parameters[name].shape[first:] != value.shape[first:]:
                raise MethodError(_misfit(name, f"of shape {tuple(parameters[name].shape)}"))
        # All memory is taken before anything changes.
        moved = {name: v.to(self.device, copy=True) for name, v in parameters.items()}
        for name in self.per_gaussian:
            owner, _, last = name.rpartition(".")
            model.get_submodule(owner)[last] = torch.nn.Parameter(moved[name])
        torch.nn.Module.load_state_dict(model, moved)

    def get_outputs_for_camera(
        self, camera: Cameras, obb_box: OrientedBox | None = None
    ) -> dict[str, Any]:
        """What the model renders, and, if `shows_unedited`, the colours of the unedited scene."""
        own: Any = super().get_outputs_for_camera  # pyright: ignore[reportAttributeAccessIssue]
        outputs = own(camera, obb_box)
        if not self.shows_unedited:
            return outputs
        kept = self.unedited
        if kept is self:
            return {**outputs, UNEDITED: outputs["rgb"]}
        if (background := getattr(self, "background_color", None)) is not None:
            # The viewer sets it.
            kept.background_color = background
        return {**outputs, UNEDITED: kept.get_outputs_for_camera(camera, obb_box)["rgb"]}

    @contextmanager
    def unedited_hidden(self) -> Iterator[None]:
        """A context in which renders have their own outputs alone."""
        before, self.shows_unedited = self.shows_unedited, False
        try:
            yield
        finally:
            self.shows_unedited = before

    def _bare_copy(self) -> Any:
        """A model of the same class and options, whose parameters mean nothing yet."""
        config = copy.copy(self.config)
        if hasattr(config, "num_random"):
            # Gaussians that are replaced at once.
            config.num_random = 8
        with random_state_kept():
            made = type(self)(
                config,  # pyright: ignore[reportCallIssue]
                scene_box=self.scene_box,
                num_train_data=self.num_train_data,
                **{**self.kwargs, "seed_points": None},
            )
        # The class is mixed into a module.
        module: Any = made
        return module.to(self.device).eval()


def _misfit(name: str, what: str) -> str:
    return (
        f"What the scene was must fit the model, got {name} {what}; go back to a state of a run "
        "with the same options."
    )
