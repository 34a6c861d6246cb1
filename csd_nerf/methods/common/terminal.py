"""The steps and the remaining time that nerfstudio prints.

nerfstudio takes the time left to be the steps left times the mean time of the last steps, and a
step includes the editing round before it. Here rounds count by themselves: the time left is that of
the steps left without rounds, and that of the rounds left, each as long as the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig
from nerfstudio.utils import writer
from nerfstudio.utils.writer import EventName, LocalWriter

_STAGE_BEGIN = "csd_stage_begin"
_ROUND = "csd_round"
_ITERATION, _ETA = EventName.ITER_TRAIN_TIME.value, EventName.ETA.value
_RAYS = EventName.TRAIN_RAYS_PER_SEC.value


@dataclass
class _LastRound:
    """The last editing round."""

    seconds: float
    every: int
    """Steps between rounds."""
    is_counted: bool = True
    """Whether the last step's time still includes it."""


def count_steps(*, begin: int, end: int) -> None:
    """From now on, print steps counted from `begin`, and the time left until step `end`."""
    writer.GLOBAL_BUFFER[_STAGE_BEGIN] = begin
    writer.GLOBAL_BUFFER["max_iter"] = end
    writer.GLOBAL_BUFFER.pop(_ROUND, None)


def count_round(*, seconds: float, every: int) -> None:
    """Count an editing round, which the current step's time includes, by itself.

    Args:
        seconds: Duration of the round.
        every: Steps between two rounds, counted from the beginning of the stage.
    """
    writer.GLOBAL_BUFFER[_ROUND] = _LastRound(seconds, every)


class StageWriter(LocalWriter):
    """nerfstudio's terminal writer, with steps and rounds of a stage; see the module."""

    def write_stats_log(self, step: int) -> None:
        """Put the times of this step right, and print them when due."""
        last: _LastRound | None = writer.GLOBAL_BUFFER.get(_ROUND)
        if last is not None:
            _count_rounds_apart(last, step)
        super().write_stats_log(step)

    def _print_stats(self, latest_map: dict[str, Any], padding: str = " ") -> None:
        buffer = writer.GLOBAL_BUFFER
        step, end, begin = buffer["step"], buffer["max_iter"], buffer.get(_STAGE_BEGIN, 0)
        buffer["step"], buffer["max_iter"] = step - begin, max(end - begin, 1)
        try:
            super()._print_stats(latest_map, padding)
        finally:
            buffer["step"], buffer["max_iter"] = step, end


def _count_rounds_apart(last: _LastRound, step: int) -> None:
    """Take the last round out of the means over steps, and add the rounds left to the time left."""
    buffer = writer.GLOBAL_BUFFER
    times = buffer["events"].get(_ITERATION)
    if times is None:
        return
    if last.is_counted:
        whole = times["buffer"][-1]
        alone = times["buffer"][-1] = max(whole - last.seconds, 0.0)
        if (rays := buffer["events"].get(_RAYS)) is not None and alone > 0:
            rays["buffer"][-1] *= whole / alone
        for counted in (times, rays):
            if counted is not None:
                counted["avg"] = sum(counted["buffer"]) / len(counted["buffer"])
        last.is_counted = False
    begin, end = buffer.get(_STAGE_BEGIN, 0), buffer["max_iter"]
    rounds_left = (end - 1 - begin) // last.every - (step - begin) // last.every
    left = (end - step) * times["avg"] + rounds_left * last.seconds
    means = {
        name: buffer["events"][name]["avg"]
        for name in (_ITERATION, _RAYS)
        if name in buffer["events"]
    }
    for event in writer.EVENT_STORAGE:
        event["event"] = {**means, _ETA: left}.get(event["name"], event["event"])


def logging_config() -> LoggingConfig:
    """Nerfstudio's logging with `StageWriter` at the terminal."""
    return LoggingConfig(local_writer=LocalWriterConfig(_target=StageWriter, enable=True))
