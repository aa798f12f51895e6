"""The plots of a study: every row a point with its interval, the rows of a series in one colour."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from revision_jax.report.plots import STYLE

SERIES = ("#1f5f99", "#c0603a", "#2f6b3a", "#8f3f68", "#7b6ba8", "#a8926b")
LONG_NAME = 12  # letters of a point's name from which points stand below each other


def write_plots(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes a PNG for each plotted column that has values; returns their paths."""
    written = []
    for column in results["plotted"]:
        rows = [row for row in results["rows"] if row["values"][column] is not None]
        if rows:
            path = folder / f"{file_name(column)}.png"
            plot(column, rows, joined=results["line"], path=path)
            written.append(path)
    return written


def file_name(column: str) -> str:
    """`R1@.3` -> `r1-3`."""
    return re.sub(r"[^a-z0-9]+", "-", column.lower()).strip("-")


def plot(column: str, rows: Sequence[Mapping[str, Any]], *, joined: bool, path: Path) -> None:
    """One column. Points with short names stand side by side, others below each other.

    Args:
      rows: of `results.json`, those that have a value.
      joined: whether the points of a series are joined by a line.
    """
    points, series = (list(dict.fromkeys(row[key] for row in rows)) for key in ("point", "series"))
    flat = max(map(len, points)) > LONG_NAME
    size = (7.2, 0.55 * len(points) + 1.2) if flat else (1.1 * len(points) + 2.4, 3.2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        for number, name in enumerate(series):
            own = [row for row in rows if row["series"] == name]
            shift = 0.12 * (number - (len(series) - 1) / 2)
            places = [points.index(row["point"]) + shift for row in own]
            values = [row["values"][column] for row in own]
            draw(axes, places, values, flat=flat, label=name, color=SERIES[number % len(SERIES)], joined=joined)
        ticks = list(range(len(points)))
        if flat:
            axes.set_yticks(ticks, points)
            axes.set(xlabel=column, ylim=(len(points) - 0.5, -0.5))
        else:
            axes.set_xticks(ticks, points)
            axes.set(ylabel=column, xlim=(-0.5, len(points) - 0.5))
        if len(series) > 1:
            axes.legend()
        figure.savefig(path)


def draw(axes: Axes, places: Sequence[float], values: Sequence[Mapping[str, Any]], **style: Any) -> None:
    """A series of values with their intervals.

    Args:
      style: flat (values run to the right), label, color, joined.
    """
    means = [value["mean"] for value in values]
    known = [value["low"] is not None for value in values]
    below = [value["mean"] - value["low"] if one else 0.0 for value, one in zip(values, known)]
    above = [value["high"] - value["mean"] if one else 0.0 for value, one in zip(values, known)]
    kind = {"fmt": "o-" if style["joined"] else "o", "capsize": 3, "color": style["color"], "label": style["label"]}
    if style["flat"]:
        axes.errorbar(means, places, xerr=[below, above], **kind)
    else:
        axes.errorbar(places, means, yerr=[below, above], **kind)
