from __future__ import annotations

import csv
import io
import math
from statistics import stdev

import pytest

from csd_nerf.evaluation.paired import paired_difference
from csd_nerf.evaluation.plots import save_bars, save_curves
from csd_nerf.evaluation.tables import Column, Table

ROWS = [
    {"arm": "truth_", "psnr": 40.0},
    {"arm": "ours", "psnr": 20.0, "flicker": 0.0021},
    {"arm": "ours", "psnr": 23.0, "flicker": 0.0040},
    {"arm": "theirs", "psnr": 21.0, "flicker": 0.0010, "note": "a, b"},
]
COLUMNS = (
    Column("psnr", "PSNR, dB", better="higher"),
    Column("flicker", "flicker, 1/1000", 1000, 2, better="lower"),
    Column("seconds", "100% of time"),
)
TABLE = Table(ROWS, ["truth_", "ours", "theirs"], COLUMNS, references=["truth_"])


def test_markdown_has_means_and_deviations():
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "| method | inputs | PSNR, dB ↑ | flicker, 1/1000 ↓ | 100% of time |"
    assert lines[1] == "| --- | --- | --- | --- | --- |"
    assert lines[2] == "| truth_ | 1 | 40.0 |  |  |"
    assert lines[3] == f"| ours | 2 | 21.5 ± {stdev([20, 23]):.1f} | 3.05 ± 1.34 |  |"
    assert lines[4] == "| theirs | 1 | 21.0 | 1.00 |  |", "Without pairs nothing is bold."


def paired(**values: list[float]) -> Table:
    """A table of arms with a value for each input."""
    rows = [
        {"arm": arm, "input": place, "x": value}
        for arm, given in values.items()
        for place, value in enumerate(given)
    ]
    return Table(rows, list(values), [Column("x", "x", better="lower")], references=["truth"])


def bold(table: Table) -> list[str]:
    lines = table.markdown().splitlines()[2:]
    assert [r"\textbf" in line for line in table.latex().splitlines()[4:-2]] == [
        "**" in line for line in lines
    ]
    return [line.split(" | ")[0].removeprefix("| ") for line in lines if "**" in line]


def test_infinite_values_print_as_such_and_break_nothing():
    rows = [
        {"arm": "exact", "input": "a", "psnr": math.inf},
        {"arm": "exact", "input": "b", "psnr": math.inf},
        {"arm": "near", "input": "a", "psnr": math.inf},
        {"arm": "near", "input": "b", "psnr": 30.0},
    ]
    text = Table(rows, ["exact", "near"], [Column("psnr", "PSNR", better="higher")]).markdown()
    assert "| exact | 2 | ∞ |" in text
    assert "| near | 2 | ∞ |" in text
    assert paired_difference(rows, "exact", "near", "psnr").mean == math.inf
    assert paired_difference(rows, "exact", "near", "psnr").error is None
    rows[0]["psnr"] = 20.0
    assert math.isnan(paired_difference(rows, "exact", "near", "psnr").mean)


def test_the_best_is_bold_if_it_is_surely_better_than_the_second():
    hard = [10.0, 50.0, 90.0]
    near = [value + gain for value, gain in zip(hard, (0.9, 1.0, 1.1), strict=True)]
    far = [value + 30 for value in hard]
    assert bold(paired(far=far, best=hard, second=near)) == ["best"]
    # The gain over the second is as large, but differs from input to input: 1 ± 1.
    unsure = [value + gain for value, gain in zip(hard, (-1.0, 1.0, 3.0), strict=True)]
    assert bold(paired(far=far, best=hard, second=unsure)) == []
    assert bold(paired(a=hard, b=hard)) == [], "Level."
    assert bold(paired(truth=[0.0, 0.0, 0.0], best=hard, second=near)) == ["best"]
    assert bold(paired(best=hard)) == [], "It has no rival."
    assert bold(paired(best=[1.0], second=[9.0])) == [], "One input has no error."


def test_inputs_may_go_by_another_name():
    rows = [
        {"line": line, "participant": who, "x": value}
        for line, values in {"a": (1.0, 1.5), "b": (2.0, 2.4)}.items()
        for who, value in enumerate(values)
    ]
    column = Column("x", "x", better="lower")
    table = Table(rows, ["a", "b"], [column], by="line", unit="participant")
    assert "| a | 2 | **1.2** ± 0.4 |" in table.markdown()
    assert "**" not in Table(rows, ["a", "b"], [column], by="line").markdown()


def test_latex_is_a_booktabs_table_with_what_tex_would_read_escaped():
    text = TABLE.latex()
    assert text.startswith("\\begin{tabular}{lrrrr}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert r"100\% of time \\" in text
    assert r"truth\_ & 1 & 40.0 &  &  \\" in text
    assert r"ours & 2 & 21.5 $\pm$ 2.1 & 3.05 $\pm$ 1.34 &  \\" in text
    assert r"PSNR, dB $\uparrow$ & flicker, 1/1000 $\downarrow$" in text


def test_csv_holds_all_rows_unrounded():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert [row["psnr"] for row in rows] == ["40.0", "20.0", "23.0", "21.0"]
    assert rows[3]["note"] == "a, b"
    assert rows[0]["flicker"] == ""


def test_the_number_of_rows_can_be_left_out():
    table = Table(ROWS, ["ours"], COLUMNS[:1], count=None)
    assert table.markdown().splitlines()[0] == "| method | PSNR, dB ↑ |"
    assert "{lr}" in table.latex()


@pytest.mark.parametrize("log_x", [False, True])
def test_plots_are_pictures(tmp_path, log_x):
    from PIL import Image

    save_curves(
        tmp_path / "deep" / "curves.png",
        {"a": [(2.0, 3.0, 0.1), (1.0, 2.0, 0.0)], "b": [(1.0, 1.0, 0.5)]},
        x="cost",
        y="quality",
        log_x=log_x,
    )
    save_bars(tmp_path / "bars.png", ["a", "b"], [("x", [(1.0, 0.1), (float("nan"), 0.0)])])
    for path in (tmp_path / "deep" / "curves.png", tmp_path / "bars.png"):
        assert Image.open(path).format == "PNG"
        assert Image.open(path).width > 200
    assert len([*tmp_path.rglob("*.*")]) == 2
