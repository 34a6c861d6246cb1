from __future__ import annotations

from benchmarks.engine.progress import Progress


def test_the_time_left_is_that_of_the_trials_that_were_run():
    now = [100.0]
    progress = Progress(5, clock=lambda: now[0])
    assert progress.tick(kept=True) == "1 of 5", "Kept trials say nothing about time."
    now[0] += 40
    assert progress.tick(kept=False) == "2 of 5, 2 min left"
    assert progress.tick(kept=True) == "3 of 5, 80 s left"
    now[0] += 20
    assert progress.tick(kept=False) == "4 of 5, 30 s left"
    assert progress.tick(kept=False) == "5 of 5"
