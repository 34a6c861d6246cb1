"""The computed costs of several GPUs."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main
from benchmarks.scaling.tables import iteration


def test_a_ring_is_walked_step_by_step():
    # In each of N - 1 steps every rank hands on one share, of up to 3 images of 100 bytes.
    particles, gpus, rate = 10, 4, 50.0
    steps = [max(len(range(rank, particles, gpus)) for rank in range(gpus)) * 100] * (gpus - 1)
    found = iteration(particles, gpus, rate, evaluations=5, seconds=0.5, size=100.0)
    assert found.gather == sum(steps) / rate == 18.0
    assert found.compute == 3 * 5 * 0.5
    assert found.share == pytest.approx(18 / 25.5)
    alone = iteration(particles, 1, rate, evaluations=5, seconds=0.5, size=100.0)
    assert (alone.compute, alone.gather) == (25.0, 0.0)


def test_the_tables(capsys, tmp_path):
    output = tmp_path / "scaling.md"
    options = ["--gpus", "2", "3", "--particles", "16", "1000", "--output", str(output)]
    main(["scaling", *options])
    text = capsys.readouterr().out
    assert text.strip() == output.read_text().strip()
    assert text.count("| GPUs | 16 images | 1,000 images |") == 3
    # 8 images on each of two GPUs take 56 ms; 8 residuals of 64 KiB over 12.5 GB/s take 42 us.
    assert "| 2 | 2.0 (0.07%) |" in text.split("Ethernet")[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpus", "0"], "--gpus must be at least 1 each, got (0,)."),
        (["--milliseconds", "0"], "--milliseconds must be above 0, got 0.0."),
    ],
)
def test_mistakes(capsys, options, told):
    with pytest.raises(SystemExit):
        main(["scaling", *options])
    assert told in capsys.readouterr().err
