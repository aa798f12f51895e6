"""Recall against what a search looks at: a line a policy, from few windows to all."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from revision_jax.report.plots import COLORS, OTHERS, STYLE
from revision_jax.report.table import method_name

# Panel -> (where its cost stands in a row, what the axis says).
COSTS = {
    "windows": ("frame_share", "dense windows asked, % of all"),
    "arithmetic": ("gflops_per_query", "GFLOP a query"),
}


def recall_against_cost(lines: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, score: str = "R1@0.3") -> None:
    """Two panels with logarithmic axes: a score against the share of dense windows, and against FLOPs.

    Args:
      lines: method -> its rows: `score` as `{"value", "runs"}` in percent, and the costs of `COSTS`. The band of a line
        goes from the worst to the best of its runs. A method of one row is a point.
    """
    others, markers = itertools.cycle(OTHERS), itertools.cycle("os^vDP")
    drawn = {method: (COLORS.get(method) or next(others), next(markers)) for method in lines}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.9), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (cost, says) in zip(panels, COSTS.values()):
            for method, rows in lines.items():
                rows, (color, marker) = sorted(rows, key=lambda row: row[cost]), drawn[method]
                x, y = [row[cost] for row in rows], [row[score]["value"] for row in rows]
                size, above = (6.5, 4) if len(rows) == 1 else (3.5, 3)
                axes.plot(
                    x,
                    y,
                    color=color,
                    marker=marker,
                    markersize=size,
                    zorder=above,
                    linewidth=1.3,
                    label=method_name(method),
                )
                runs = [row[score]["runs"] for row in rows]
                if len(rows) > 1 and len(runs[0]) > 1:
                    axes.fill_between(
                        x, list(map(min, runs)), list(map(max, runs)), color=color, alpha=0.13, linewidth=0
                    )
            axes.set(xscale="log", xlabel=says)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        panels[0].set(ylabel=f"{score} (%)")
        panels[0].set_ylim(0, None)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
