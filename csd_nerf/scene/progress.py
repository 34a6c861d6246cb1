"""Tells the user what the editing stage is doing: seldom enough to cost nothing."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from csd_nerf.scene.controls import Progress
from csd_nerf.scene.plan import StepPlan

TELL_EVERY = 0.25
"""Least number of seconds between two messages of a count."""
HOLD = 15.0
"""Seconds for which a failure or a result stays, unless something else is done."""
_SMOOTHING = 0.1
"""Weight of the last step in the mean duration of a training step."""


class Teller:
    """Passes messages on, those of counts and of training only now and then.

    Nothing here waits for the device: counts are those of what was asked of it.
    """

    def __init__(self, show: Callable[[Progress], None]) -> None:
        self._show = show
        self._last = self._held_until = -float("inf")
        self._step_ended: float | None = None
        self._step_seconds: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether the last message is old enough for one more of a count."""
        return perf_counter() - self._last >= TELL_EVERY

    def say(
        self, text: str, *, share: float | None = None, seconds_left: float | None = None
    ) -> None:
        """Pass a message on at once."""
        self._last, self._held_until = perf_counter(), -float("inf")
        self._show(Progress(text, share, seconds_left))

    def hold(self, text: str) -> None:
        """Pass a failure or a result on, which training doesn't replace for a while."""
        self.say(text)
        self._held_until = self._last + HOLD

    def begin_step(self) -> None:
        """Measure: a training step has ended, if there was one."""
        if self._step_ended is not None:
            seconds = perf_counter() - self._step_ended
            before = seconds if self._step_seconds is None else self._step_seconds
            self._step_seconds = before + _SMOOTHING * (seconds - before)

    def end_step(self) -> None:
        """Measure: what comes before a training step is done."""
        self._step_ended = perf_counter()

    def train(self, plan: StepPlan, step: int, *, every: int, waits: bool | None) -> None:
        """Tell how far training is, if a message is due and none is held.

        Args:
            plan: The steps of the run.
            step: The step that follows.
            every: Steps between two rounds.
            waits: If editing is paused, whether a round waits; else None.
        """
        if not self.is_due or perf_counter() < self._held_until:
            return
        if waits is not None:
            self.say("paused, a round waits" if waits else "paused")
            return
        text, left, total = _training(plan, step, every=every)
        mean = self._step_seconds
        self.say(text, share=1 - left / total, seconds_left=None if mean is None else left * mean)


def _training(plan: StepPlan, step: int, *, every: int) -> tuple[str, int, int]:
    """What training leads to, the steps until then, and all steps from the last such thing."""
    first = plan.first_edit
    if step < first:
        return f"source {step}/{first}", first - step, first
    left = every - (step - first) % every
    if step + left < plan.end:
        return f"next round in {left:,} step{'s' * (left > 1)}", left, every
    left = plan.end - step
    total = (plan.end - first - 1) % every + 1
    return f"training ends in {left:,} step{'s' * (left > 1)}", left, total


class Task:
    """The progress of a round or a preview, whose views may be edited in several parts."""

    def __init__(self, teller: Teller, name: str, *, views: int) -> None:
        """Begin.

        Args:
            teller: Passes messages on.
            name: What begins them, such as "round 2".
            views: Number of views of all parts.
        """
        self._teller, self._name, self._views = teller, name, views
        self._done = self._part = 0
        self._began = perf_counter()

    def say(self, text: str, *, of_part: float = 0.0) -> None:
        """Tell of something that can't be counted, at once; `of_part` is the part's share done."""
        self._teller.say(f"{self._name}: {text}", share=self._share(of_part))

    def begin_part(self, views: int) -> None:
        """Begin to edit so many views together."""
        self._done, self._part = self._done + self._part, views
        self.say(f"encoding {views} view{'s' * (views > 1)}")

    def count(self, unit: str, done: int, total: int) -> None:
        """Tell how far the present part is, if a message is due.

        Args:
            unit: What is counted: iteration, view or step.
            done: Number of these.
            total: Their number at the end.
        """
        if done == total and unit != "view":
            self.say("decoding", of_part=1.0)
            return
        if not self._teller.is_due:
            return
        share = self._share(done / total)
        spent = perf_counter() - self._began
        self._teller.say(
            f"{self._name}: {unit} {done}/{total}",
            share=share,
            seconds_left=spent * (1 - share) / share if share else None,
        )

    def _share(self, of_part: float) -> float:
        return (self._done + self._part * of_part) / max(self._views, 1)
