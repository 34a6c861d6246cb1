"""What the editing stage remembers, as checkpoints and snapshots hold it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from csd_nerf.scene.controls import EditRequest, PastRound


@dataclass(frozen=True)
class ReferenceView:
    """An edited view that is shown to the model beside the photographs of others.

    Attributes:
        prompt: The instruction by which it was edited.
        negative_prompt: What replaced the empty text.
        image: The edit, at the size at which it was made.
        region: Where it was edited.
    """

    prompt: str
    negative_prompt: str
    image: UInt8[Tensor, "h w 3"]
    region: str = ""

    def answers(self, request: EditRequest) -> bool:
        """Whether this is an edit by the request's texts, in its region."""
        asked = (request.prompt, request.negative_prompt, request.region)
        return asked == (self.prompt, self.negative_prompt, self.region)


@dataclass
class StageState:
    """Progress of the editing stage.

    Attributes:
        first_edit: The first step of the editing stage; None before it begins.
        rounds: Number of rounds done, without those that were undone.
        last_round: The step that followed the last round; None before the first round.
        waiting: Views that have not been drawn in the current order, in this order.
        evaluations: Number of model evaluations of all rounds, also of those that were undone.
        last_picture: The step that followed the last round with a contact sheet; None if there was
            none.
        reference: The edited view that is shown beside the others; None before it is edited.
        owed: Whether a round was due while editing was paused.
        history: The rounds with contact sheets, without those that were undone.
        prompt: The last round's instruction; None before the first round.
        region: Where the last round applied; empty is everywhere.
        chained: Whether the last round was asked to edit on top of what there was.
        base: Name of the file of the scene on which rounds build; None for the photographs.
    """

    first_edit: int | None = None
    rounds: int = 0
    last_round: int | None = None
    waiting: list[int] = field(default_factory=list)
    evaluations: int = 0
    last_picture: int | None = None
    reference: ReferenceView | None = None
    owed: bool = False
    history: list[PastRound] = field(default_factory=list)
    prompt: str | None = None
    region: str = ""
    chained: bool = False
    base: str | None = None

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The state in types that `torch.load(weights_only=True)` reads, views by their names."""
        return {**dataclasses.asdict(self), "waiting": [names[view] for view in self.waiting]}


def read_state(
    stage: Mapping[str, Any], *, before: Sequence[str] | None, names: Sequence[str]
) -> StageState:
    """Read a state of `StageState.as_dict`.

    Args:
        stage: The state.
        before: Names of the photographs as it was saved; None for earlier releases, which saved
            numbers. New photographs wait for the order of views that goes on.
        names: Names of the photographs now.
    """
    found, waiting = dict(stage), stage["waiting"]
    view_of = {name: view for view, name in enumerate(names)}
    if before is None:
        waiting = [view for view in waiting if view < len(names)]
    else:
        waiting = [view_of[name] for name in waiting if name in view_of]
        if stage["rounds"]:
            waiting += [view for view, name in enumerate(names) if name not in {*before}]
    if found.get("reference") is not None:
        found["reference"] = ReferenceView(**found["reference"])
    found["history"] = [PastRound(**past) for past in found.get("history", ())]
    return StageState(**{**found, "waiting": waiting})
