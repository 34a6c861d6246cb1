"""Edits the views of a round, or what a camera sees, as the options and the user say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.bundled import keeps_detail
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.priors import Prior
from csd_nerf.scene.controls import EditRequest
from csd_nerf.scene.history import base_file
from csd_nerf.scene.inputs import Ground, ViewInput, camera_input, seen_part, view_input
from csd_nerf.scene.masks import SceneMasks
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.progress import Task
from csd_nerf.scene.protocol import LiveScene, Scene
from csd_nerf.scene.rounds import Round, ViewEdit
from csd_nerf.scene.state import ReferenceView, StageState
from csd_nerf.scene.together import edit_together


class ViewEditor:
    """Edits views of a scene; changes neither the scene nor the stage's state."""

    def __init__(self, scene: Scene, options: StageOptions, prior: Callable[[], Prior]) -> None:
        self._scene, self._options, self._prior = scene, options, prior

    def generator(self, request: EditRequest, state: StageState) -> torch.Generator:
        """The source of a round's randomness, on the CPU."""
        seed = self._options.seed if request.seed is None else request.seed
        return torch.Generator().manual_seed(1_000_003 * seed + state.rounds)

    def edit(
        self,
        views: list[int],
        request: EditRequest,
        state: StageState,
        *,
        masks: SceneMasks | None,
        ground: Ground,
        generator: torch.Generator,
        task: Task,
    ) -> tuple[Round, ReferenceView | None]:
        """Edit the views of a round.

        Args:
            views: The views.
            request: The user's request.
            state: The stage's state before the round.
            masks: Where views are edited; None is everywhere.
            ground: What is edited.
            generator: From `generator`.
            task: Told of progress.

        Returns:
            The edits, and the view that is shown beside others from now on.
        """
        done, reference = Round({}, 0), self.reference(request, state)
        parts = {} if masks is None else {view: masks.mask(view) for view in views}
        if self._options.reference_views and reference is None:
            first, views = self._inputs(views[:1], ground), views[1:]
            done = self._edit(first, request, state, generator, task, masks=parts)
            (edit,) = done.edits.values()
            image = to_bytes(edit.edited01).cpu()
            texts = (request.prompt, request.negative_prompt)
            reference = ReferenceView(*texts, image, request.region)
        if views:
            inputs = self._inputs(views, ground)
            beside = {"masks": parts, "reference": reference}
            done += self._edit(inputs, request, state, generator, task, **beside)
        return done, reference

    def edit_seen(
        self,
        camera: Any,
        request: EditRequest,
        state: StageState,
        *,
        masks: SceneMasks | None,
        ground: Ground,
        task: Task,
    ) -> ViewEdit:
        """Edit what a camera sees as the next round would edit a view, alone.

        Raises:
            ValueError: If the camera doesn't see the region.
        """
        assert isinstance(self._scene, LiveScene)
        options, prior = self._options, self._prior()
        given = camera_input(self._scene, camera, ground=ground, options=options, prior=prior)
        part = None if masks is None else seen_part(given, masks)
        done = self._edit(
            {0: given},
            request,
            state,
            self.generator(request, state),
            task,
            masks=None if part is None else {0: part},
            reference=self.reference(request, state),
            label="preview of round",
        )
        return done.edits[0]

    def reference(self, request: EditRequest, state: StageState) -> ReferenceView | None:
        """The edited view that is shown beside others; None if the request asks for a new one."""
        found = state.reference
        # A resumed run may have been told to go on without.
        if not self._options.reference_views or found is None or not found.answers(request):
            return None
        return found

    def _keeps_detail(self, prompt: str) -> bool:
        wanted = self._options.keep_detail
        return keeps_detail(self._prior().name, [prompt]) if wanted is None else wanted

    def _inputs(self, views: list[int], ground: Ground) -> dict[int, ViewInput]:
        given = {"ground": ground, "options": self._options, "prior": self._prior()}
        return {view: view_input(self._scene, view, **given) for view in views}

    def _edit(
        self,
        inputs: Mapping[int, ViewInput],
        request: EditRequest,
        state: StageState,
        generator: torch.Generator,
        task: Task,
        *,
        masks: Mapping[int, Float[Tensor, "_ _"]] | None = None,
        reference: ReferenceView | None = None,
        label: str = "editing round",
    ) -> Round:
        options, keeps = self._options, self._keeps_detail(request.prompt)
        if options.repeat_noise:
            seed = options.seed if request.seed is None else request.seed
            generator.manual_seed(1_000_003 * seed - 1)
        if reference is not None:
            prompt = f"{request.prompt.rstrip(' .')}. {options.reference_prompt}"
            request = dataclasses.replace(request, prompt=prompt)
        controls01 = {v: i.control01 for v, i in inputs.items() if i.control01 is not None}
        given = {
            "photographs01": {view: given.original01 for view, given in inputs.items()},
            "starts01": {view: given.start01 for view, given in inputs.items()},
            "sources01": {view: given.source01 for view, given in inputs.items()},
            "controls01": controls01,
            "reference01": None if reference is None else to_01(reference.image),
            "masks": masks or None,
            "request": request,
            "update": options.update,
            "denoising_steps": options.denoising_steps,
            "noise_range": options.noise_range,
            "keep_detail": keeps,
        }
        told = {"task": task, "progress": f"{label} {state.rounds}"}
        return edit_together(self._prior(), inputs=given, generator=generator, **told)


def ground_of(request: EditRequest, state: StageState, *, step: int) -> tuple[Ground, str | None]:
    """What the next round edits, and the name of the file of the scene on which it builds.

    Without `chain` that is the photographs, also as long as nothing is edited.
    """
    if not request.chain or state.rounds == 0:
        return "photographs", None
    if request.prompt == state.prompt and state.chained:
        return ("photographs", None) if state.base is None else ("kept", state.base)
    return "present", base_file(index=state.rounds, step=step)
