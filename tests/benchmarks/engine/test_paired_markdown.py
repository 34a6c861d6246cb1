from __future__ import annotations

from benchmarks.engine.tables import paired_markdown
from csd_nerf.evaluation.tables import Column

COLUMNS = (
    Column("psnr", "PSNR, dB", digits=2, better="higher"),
    Column("flicker", "flicker, 1/1000", 1000, 2, better="lower"),
)
PSNR = {
    "csd": {"a": (20.0, 21.0), "b": (21.0,), "c": (5.0,)},
    "sds": {"a": (19.0, 20.0), "b": (20.5,)},
}
ROWS = [
    {"arm": arm, "input": name, "seed": seed, "psnr": value, "flicker": value / 1000}
    for arm, inputs in PSNR.items()
    for name, values in inputs.items()
    for seed, value in enumerate(values)
]
ROWS += [{"arm": "source", "input": "z", "seed": 0, "psnr": 30.0}]


def test_the_table_shows_signs_errors_and_what_is_sure():
    lines = paired_markdown(ROWS, ["source", "csd", "sds"], COLUMNS, baseline="sds").splitlines()
    assert lines[0] == "| minus sds | inputs | pairs | PSNR, dB ↑ | flicker, 1/1000 ↓ |"
    # 1 and 0.5: mean 0.75, standard error 0.25; more of a measure that should be low isn't bold.
    assert lines[2:] == ["| csd | 2 | 3 | **+0.75** ± 0.25 | +0.75 ± 0.25 |"]
    (line,) = paired_markdown(ROWS, ["sds"], COLUMNS, baseline="csd").splitlines()[2:]
    assert line == "| sds | 2 | 3 | -0.75 ± 0.25 | **-0.75** ± 0.25 |"
    assert paired_markdown(ROWS, ["source"], COLUMNS, baseline="sds") == ""
