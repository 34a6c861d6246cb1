"""The steps and the remaining time that nerfstudio prints."""

from __future__ import annotations

from typing import Any

from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig
from nerfstudio.utils import writer
from nerfstudio.utils.writer import EventName, LocalWriter

_STAGE_BEGIN = "csd_stage_begin"


def count_steps(*, begin: int, end: int) -> None:
    """From now on, print steps counted from `begin`, and the time left until step `end`."""
    writer.GLOBAL_BUFFER[_STAGE_BEGIN] = begin
    writer.GLOBAL_BUFFER["max_iter"] = end


def forget_last_step() -> None:
    """Leave the last step out of the mean step time, because it included an editing round."""
    times = writer.GLOBAL_BUFFER["events"].get(EventName.ITER_TRAIN_TIME.value)
    if times is not None and len(times["buffer"]) > 1:
        times["buffer"].pop()


class StageWriter(LocalWriter):
    """nerfstudio's terminal writer, with steps counted from the beginning of a stage."""

    def _print_stats(self, latest_map: dict[str, Any], padding: str = " ") -> None:
        buffer = writer.GLOBAL_BUFFER
        step, end, begin = buffer["step"], buffer["max_iter"], buffer.get(_STAGE_BEGIN, 0)
        buffer["step"], buffer["max_iter"] = step - begin, max(end - begin, 1)
        try:
            super()._print_stats(latest_map, padding)
        finally:
            buffer["step"], buffer["max_iter"] = step, end


def logging_config() -> LoggingConfig:
    """Nerfstudio's logging with `StageWriter` at the terminal."""
    return LoggingConfig(local_writer=LocalWriterConfig(_target=StageWriter, enable=True))
