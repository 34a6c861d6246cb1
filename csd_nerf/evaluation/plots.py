"""Plots of results, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from csd_nerf.media.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120


def save_curves(
    path: Path,
    curves: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    x: str,
    y: str,
    log_x: bool = False,
) -> None:
    """Plot curves with error bars.

    Args:
        path: PNG file to write.
        curves: The points of each curve by its name: x, mean, deviation. A curve of one point is
            drawn as a marker.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        log_x: Whether the horizontal axis is logarithmic.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for name, points in curves.items():
        places, means, deviations = zip(*sorted(points), strict=True)
        axes.errorbar(places, means, deviations, marker="o", markersize=4, capsize=2, label=name)
    if log_x:
        axes.set_xscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    _save(figure, path)


def save_bars(
    path: Path,
    names: Sequence[str],
    panels: Sequence[tuple[str, Sequence[tuple[float, float]]]],
) -> None:
    """Plot bars: one panel per measure, one bar per name.

    Args:
        path: PNG file to write.
        names: Labels of the bars.
        panels: For each panel its title, and mean and deviation for each name; a mean of NaN gives
            no bar.
    """
    figure = _figure(max(2.4, 0.35 * len(names) + 1) * len(panels), 3.2)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, bars) in zip(row, panels, strict=True):
        for place, (mean, deviation) in enumerate(bars):
            axes.bar(place, mean, yerr=deviation or None, capsize=3, color=f"C{place % 10}")
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize="small")
        axes.set_title(title, fontsize="medium")
        axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    # Without pyplot, which needs a window system and keeps figures between plots.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        figure.savefig(partial, format="png")
