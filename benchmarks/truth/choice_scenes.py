"""The benchmark on whole scenes with an instruction that has several right answers.

The edits of a scene are made round by round. Views that decide for different answers disagree, and
the scene averages them to a blend; the renders of held-out views show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.engine.trials import Trial
from benchmarks.truth.choice_scores import CHOICE_COLUMNS, Judged
from benchmarks.truth.domains import Arm, Job, Outcome
from benchmarks.truth.scenes import SCENE_SIZE, SCENE_VIEWS, SceneDomain
from benchmarks.worlds.choices import LEAST_ANSWERS, ChoiceSet
from csd_nerf.evaluation.tables import Column
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.synthetic.choices import Choice, all_choices
from csd_nerf.synthetic.dataset import SceneSettings, render_views, view_cameras, write_dataset
from csd_nerf.synthetic.options import HELD_OUT_EVERY
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Scenes, Split, draw_scenes

CHOICES = ("change floor", "change look")
"""The choices of the inputs, in turn: those whose target is in every view of a scene."""
SEEDS_APART = 40
"""The search for the scene of input number i begins at seed i * SEEDS_APART of its split."""
_OWN, _REPEATED = {"noise": "independent"}, {"repeat_noise": True}
_BY_KEY = {column.key: column for column in CHOICE_COLUMNS}
_PATCH = {"mixing": "patch"}


@dataclass(frozen=True)
class ChoiceScene:
    """A data set with the true results of all answers; `views` has all its images, in order."""

    views: ChoiceSet
    folder: Path

    @property
    def name(self) -> str:
        """Unique among the inputs."""
        return self.views.name

    @property
    def edit(self) -> Choice:
        """The choice."""
        return self.views.choice

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that are possible in all views."""
        return self.views.answers

    @property
    def source(self) -> UInt8[Tensor, "n h w 3"]:
        """The held-out views, unedited."""
        return self.views.source[_held_out()]

    @property
    def source01(self) -> Float[Tensor, "n 3 h w"]:
        """The same in [0, 1]."""
        return to_01(self.source)

    @property
    def truths01(self) -> Float[Tensor, "k n 3 h w"]:
        """The true result of each answer in the held-out views."""
        return self.views.truths01[:, _held_out()]

    def truth01(
        self, photograph01: Float[Tensor, "n 3 h w"], names: Sequence[Path]
    ) -> Float[Tensor, "n 3 h w"]:
        """The first answer in the views with these files."""
        del photograph01  # The truths are known.
        return self.views.truths01[0, _numbers(names)]

    def judge(self, edited01: Float[Tensor, "n 3 h w"], names: Sequence[Path]) -> Judged:
        """Edits or renders of the views with these files, and what they are judged by."""
        some, views = _numbers(names), self.views
        return Judged(edited01, views.truths01[:, some], views.source01[some], views.region[some])


class ChoiceSceneDomain(SceneDomain):
    """The domain of scenes with an instruction that has several right answers."""

    arms = (
        Arm("source", None),
        Arm("autoencoder", None),
        Arm("none-own-noise", "csd-no-stein", _OWN),
        Arm("none-shared-noise", "csd-no-stein"),
        Arm("none-repeated-noise", "csd-no-stein", _REPEATED, tuned_as="none-shared-noise"),
        Arm("stein-own-noise", "csd", _OWN),
        Arm("stein-shared-noise", "csd"),
        Arm("stein-repeated-noise", "csd", _REPEATED, tuned_as="stein-shared-noise"),
        Arm("patch-shared-noise", "csd", _PATCH),
        Arm("patch-repeated-noise", "csd", _PATCH | _REPEATED, tuned_as="patch-shared-noise"),
        Arm("patch-own-noise", "csd", _PATCH | _OWN),
        Arm("patch-share-own-noise", "csd", _PATCH | _OWN),
        Arm(
            "patch-own-repeated-noise",
            "csd",
            _PATCH | _OWN | _REPEATED,
            tuned_as="patch-own-noise",
        ),
        Arm("sds-repeated-noise", "sds", _REPEATED, tuned_as="sds-shared-noise"),
        Arm("ip2p-own-noise", "ip2p"),
        Arm("in2n-edited-only", "in2n", {"only_edited_views": True}),
    )
    """As in `choice_arms`; with repeated noise all rounds share what a round shares."""
    ablations = ()
    columns = (
        *(_BY_KEY[key] for key in ("agree", "changed", "spread")),
        Column("agree_renders", "renders with the commonest answer, %", 100, 0, "higher"),
        *(_BY_KEY[key] for key in ("psnr", "psnr_nearest", "blend")),
        Column("cross_view_edits", "disagreement of the edits, 1/1000", 1000, better="lower"),
    )
    """Agreement, change and spread are those of the edited training views, before the scene
    averages them; the rest of the scores is of the renders of held-out views."""
    consistency = "agree"
    baseline = "none-repeated-noise"

    def draw(self, position: int, split: Split) -> Any:
        """The input at a position of the benchmark; its data set is written to the store once."""
        choice = all_choices()[CHOICES[position % len(CHOICES)]]
        number, answers = _find_scene(choice, position, split)
        name = f"scene {position:02d} {choice.name}"
        decides = {"scene": number, "split": split, "views": SCENE_VIEWS, "size": SCENE_SIZE}
        trial = Trial({"input": name, "arm": "data set"}, decides)

        def write(folder: Path) -> dict[str, Any]:
            settings = SceneSettings(scene=number, split=split, views=SCENE_VIEWS, size=SCENE_SIZE)
            write_dataset(folder / "data", settings)
            return {}

        self._store.run(trial, write)
        views = _render_answers(name, choice, answers, draw_scenes([SPLIT_SEEDS[split][number]]))
        return ChoiceScene(views, self._store.folder(trial) / "data")

    def measure(self, job: Job, given: Any, folder: Path) -> Outcome:
        """Run a method on a scene, and score its edits and its renders against the answers."""
        result = self._run(job, given, folder)
        held_out, training = result.names
        renders, edits = (
            given.judge(result.edited01, held_out),
            given.judge(result.views01, training),
        )
        row = {
            "medium": "scene",
            "kind": given.edit.kind,
            "answer": given.answers[edits.common],
            **renders.scores(),
            "agree_renders": renders.agreement(),
            "agree": edits.agreement(),
            "changed": edits.changed(),
            "spread": edits.spread(),
            "cross_view_edits": result.cross_view_edits,
            "evaluations": result.evaluations,
            "seconds": result.seconds,
        }
        return Outcome(row, result.edited01, given.truths01[renders.common])


def _held_out() -> Tensor:
    return torch.arange(HELD_OUT_EVERY // 2, SCENE_VIEWS, HELD_OUT_EVERY)


def _numbers(names: Sequence[Path]) -> list[int]:
    """The views' numbers, by which `write_dataset` names their files."""
    return [int(name.stem) for name in names]


def _find_scene(choice: Choice, position: int, split: Split) -> tuple[int, tuple[str, ...]]:
    """The first scene with enough answers that are possible in all views, and these answers."""
    cameras = view_cameras(SCENE_VIEWS)
    first = SEEDS_APART * position
    for number in range(first, first + SEEDS_APART):
        scenes = draw_scenes([SPLIT_SEEDS[split][number]]).repeat(SCENE_VIEWS)
        seen = render_views(
            draw_scenes([SPLIT_SEEDS[split][number]]), cameras, size=SCENE_SIZE // 2
        )
        possible = choice.possible(scenes, seen).all(0).tolist()
        answers = tuple(n for n, can in zip(choice.answers, possible, strict=True) if can)
        if len(answers) >= LEAST_ANSWERS:
            return number, answers
    raise ValueError(
        f"No scene of {split} at position {position} has {LEAST_ANSWERS} answers to "
        f"{choice.name!r} in all views; take fewer inputs."
    )


def _render_answers(
    name: str, choice: Choice, answers: tuple[str, ...], scenes: Scenes
) -> ChoiceSet:
    cameras = view_cameras(SCENE_VIEWS)
    seen = render_views(scenes, cameras, size=SCENE_SIZE)
    edits = {edit.name: edit for edit in choice.edits}
    truths = [
        edit.edit_image(render_views(edit.edit_scenes(scenes), cameras, size=SCENE_SIZE).image01)
        for edit in (edits[answer] for answer in answers)
    ]
    everywhere = torch.ones_like(seen.label, dtype=torch.bool)
    possible = torch.tensor([answer in answers for answer in choice.answers])
    preferences = choice.preferences(seen.label, possible.expand(SCENE_VIEWS, -1))
    return ChoiceSet(
        name,
        "views",
        choice,
        answers,
        to_bytes(seen.image01),
        torch.stack(truths),
        everywhere if choice.target is None else seen.label == choice.target,
        preferences[:, possible],
    )
