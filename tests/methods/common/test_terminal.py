"""What is printed during training, by nerfstudio's own writer with given times."""

from __future__ import annotations

import pytest

from csd_nerf.methods.common.terminal import count_round, count_steps, logging_config, writer

STEP, RAYS = 0.5, 512.0


@pytest.fixture
def printed(monkeypatch, capsys):
    """Take steps with these times; returns the last line that is printed, by column."""
    for name, empty in (("EVENT_WRITERS", []), ("EVENT_STORAGE", []), ("GLOBAL_BUFFER", {})):
        monkeypatch.setattr(writer, name, empty)
    config = logging_config()
    config.local_writer.max_log_size = 0
    config.steps_per_log = 1
    writer.setup_local_writer(config, max_iter=0)

    def take(step: int, *, round_seconds: float = 0.0, every: int = 0) -> dict[str, str]:
        if round_seconds:
            count_round(seconds=round_seconds, every=every)
        seconds = STEP + round_seconds
        writer.put_time(writer.EventName.ITER_TRAIN_TIME, seconds, step, update_eta=True)
        writer.put_time(writer.EventName.TRAIN_RAYS_PER_SEC, RAYS / seconds, step)
        writer.write_out_storage()
        last = capsys.readouterr().out.splitlines()[-1]
        columns = ("done", "step", "eta", "rays")
        return {name: last[20:][21 * i - 21 : 21 * i].strip() for i, name in enumerate(columns)} | {
            "done": last[:20].strip()
        }

    return take


def test_the_time_left_is_right_in_the_line_after_a_round(printed):
    count_steps(begin=0, end=40)
    for step in range(6):
        line = printed(step)
    assert line["eta"] == writer._format_time((40 - 5) * STEP)
    # The editing stage: steps 6 to 39, rounds before steps 6, 16, 26 and 36.
    count_steps(begin=6, end=40)
    line = printed(6, round_seconds=100.0, every=10)
    assert line["done"] == "0 (0.00%)"
    assert line["step"] == writer._format_time(STEP)
    assert line["eta"] == writer._format_time((40 - 6) * STEP + 3 * 100.0)
    assert line["rays"] == "1.02 K"
    assert printed(7)["eta"] == writer._format_time((40 - 7) * STEP + 3 * 100.0)
    for step in range(8, 16):
        line = printed(step)
    assert line["eta"] == writer._format_time((40 - 15) * STEP + 3 * 100.0)
    # Later rounds are faster: the first loads the prior.
    assert printed(16, round_seconds=20.0, every=10)["eta"] == writer._format_time(
        (40 - 16) * STEP + 2 * 20.0
    )
    for step in range(17, 36):
        line = printed(step)
    assert line["eta"] == writer._format_time((40 - 35) * STEP + 1 * 20.0)
    assert printed(36, round_seconds=20.0, every=10)["eta"] == writer._format_time((40 - 36) * STEP)


def test_a_new_stage_counts_no_round_of_an_earlier_run(printed):
    count_steps(begin=0, end=10)
    printed(0, round_seconds=50.0, every=5)
    count_steps(begin=0, end=10)
    assert printed(1)["eta"] == writer._format_time((10 - 1) * STEP)
