"""Tables of results in markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, stdev
from typing import Any

from csd_nerf.evaluation.paired import Better, paired_difference

Row = dict[str, Any]
"""The values of one method on one input, by key; unknown values are missing or None."""

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
"""What follows a heading: which values are the better ones."""
_LATEX_ARROWS = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", None: ""}


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    """Key of the column's value in a row."""
    heading: str
    scale: int = 1
    """Factor by which values are multiplied."""
    digits: int = 1
    """Decimal places."""
    better: Better = None
    """Whether the highest or the lowest mean is the best; None for neither."""


@dataclass(frozen=True)
class Table:
    """A table with one line per method: mean and sample standard deviation over its rows.

    The best mean of a column is bold if its method is better than the one with the second best
    mean by more than `SURE` standard errors of their paired difference (see `paired_difference`).
    So nothing is bold without pairs, or with one input.

    Attributes:
        rows: The values.
        names: The methods, in the order of the lines.
        columns: The columns to show.
        by: Key of the method's name in a row.
        count: Heading of the column with the number of rows; None leaves the column out.
        references: Methods that are shown but neither set in bold nor compared with.
        unit: Key of the input in a row, for the paired difference.
    """

    rows: Sequence[Row]
    names: Sequence[str]
    columns: Sequence[Column]
    by: str = "arm"
    count: str | None = "inputs"
    references: Sequence[str] = ()
    unit: str = "input"

    def markdown(self) -> str:
        """The table in markdown."""
        heads = [column.heading + ARROWS[column.better] for column in self.columns]
        lines = [["method", *self._counted(self.count), *heads]]
        lines.append(["---"] * len(lines[0]))
        for name in self.names:
            cells = [self._cell(name, column, "**{}**", " ± ") for column in self.columns]
            lines.append([name, *self._counted(self._number(name)), *cells])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        """The table in LaTeX, for the package booktabs."""
        heads = [_escaped(column.heading) + _LATEX_ARROWS[column.better] for column in self.columns]
        first = ["Method", *self._counted(self.count)]
        rules = "l" + "r" * (len(first) - 1 + len(heads))
        lines = [f"\\begin{{tabular}}{{{rules}}}", "\\toprule"]
        lines += [" & ".join([*first, *heads]) + r" \\", "\\midrule"]
        for name in self.names:
            cells = [
                self._cell(name, column, r"\textbf{{{}}}", r" $\pm$ ") for column in self.columns
            ]
            cells = [_escaped(name), *self._counted(self._number(name)), *cells]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"

    def csv(self) -> str:
        """All rows in CSV, unrounded, one line each, with the values of all keys."""
        keys = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def values(self, name: str, column: Column) -> list[float]:
        """A method's values in a column, scaled, in the order of the rows."""
        mine = (row for row in self.rows if row[self.by] == name)
        given = (row[column.key] for row in mine if row.get(column.key) is not None)
        return [float(value * column.scale) for value in given]

    def _number(self, name: str) -> str:
        return str(sum(row[self.by] == name for row in self.rows))

    def _counted(self, text: str | None) -> list[str]:
        return [] if self.count is None else [text or ""]

    def _cell(self, name: str, column: Column, bold: str, between: str) -> str:
        values = self.values(name, column)
        if not values:
            return ""
        mean = f"{fmean(values):.{column.digits}f}".replace("inf", "∞")
        if name == self._best(column):
            mean = bold.format(mean)
        if len(values) == 1 or not all(map(isfinite, values)):
            return mean
        return f"{mean}{between}{stdev(values):.{column.digits}f}"

    def _best(self, column: Column) -> str | None:
        """The method whose mean is set in bold; None if the difference is within its error."""
        rivals = {
            name: fmean(values)
            for name in self.names
            if name not in self.references and (values := self.values(name, column))
        }
        if column.better is None or len(rivals) < 2:
            return None
        ranked = sorted(rivals, key=lambda name: rivals[name], reverse=column.better == "higher")
        first, second = ranked[:2]
        found = paired_difference(self.rows, first, second, column.key, by=self.by, unit=self.unit)
        return first if found is not None and found.is_better(column.better) else None


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "&%$#_{}" else letter for letter in text)
