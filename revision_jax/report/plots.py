"""The pictures of a report: matplotlib figures, written as PNG files. Times are seconds, scores percent."""

from __future__ import annotations  # so that no annotation imports matplotlib

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from revision_jax import lazy
from revision_jax.report.table import clock, method_name

# Where only the names of this file are needed, nothing is drawn. No pyplot: a notebook has its own display.
matplotlib = lazy.module("matplotlib")
backend = lazy.module("matplotlib.backends.backend_agg")
figures = lazy.module("matplotlib.figure")
lines = lazy.module("matplotlib.lines")
patches = lazy.module("matplotlib.patches")
ticker = lazy.module("matplotlib.ticker")

STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e6e6e6", "axes.edgecolor": "#999999", "xtick.color": "#555555", "ytick.color": "#555555",
    "figure.dpi": 150, "legend.frameon": False, "text.parse_math": False,  # a sentence may hold dollars
}  # fmt: skip
COLORS = {
    "clip": "#b8b8b8", "depth0": "#e9b872", "before": "#a9c4de", "depth1": "#1f5f99", "depth2": "#6a9f58",
    "depth1_retrieve_then_ground": "#d0b93a", "depth3_fused": "#3a8f8f", "depth3": "#2f6b3a",
    "depth2_bottom_up": "#c98ba8", "depth3_bottom_up": "#8f3f68", "depth3_top_down_rescaled": "#55925f",
}  # fmt: skip
OTHERS = ("#7b6ba8", "#a86b6b", "#6b93a8", "#a8926b")  # for methods without a color of their own, in turn
TRUTH, PREDICTION = "#2e8b57", "#1f5f99"
ZOOM_S = 60.0  # what is shown on each side of a moment


@dataclasses.dataclass(frozen=True)
class Timeline:
    """One query's truth and answer.

    Attributes:
      sentence: the query.
      duration_s: length of its video.
      truth: true moments; empty for an absent event.
      moments: ranked predictions (start, end, confidence).
      threshold: the least confidence that counts as present.
      video_id: its video.
      held: whether the event was among the windows that each upper level sent down.
      levels: the answers of other methods, e.g. the search at lower depths: method -> moments as above.
      error: why the query could not be asked; empty where it was.
    """

    sentence: str
    duration_s: float
    truth: Sequence[Sequence[float]]
    moments: Sequence[Sequence[float]]
    threshold: float
    video_id: str = ""
    held: Sequence[bool] = ()
    levels: Mapping[str, Sequence[Sequence[float]]] = dataclasses.field(default_factory=dict)
    error: str = ""


def loss_curve(
    steps: Sequence[int], losses: Sequence[float], path: Path, validations: Mapping[int, float] = {}
) -> None:  # fmt: skip
    """The training loss of every step and its running mean; validations, step -> loss, as points."""
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=(6.4, 2.8), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, losses, color="#c9d6e3", linewidth=0.8, label="each step")
        axes.plot(steps, _running_mean(losses), color=PREDICTION, linewidth=1.8, label="running mean")
        if validations:
            axes.plot(*zip(*sorted(validations.items())), color=TRUTH, marker="o", markersize=4, label="validation")
        axes.set(xlabel="step", ylabel="loss (nats a token)", xlim=(steps[0], max(steps[-1], steps[0] + 1)))
        axes.set_ylim(0, None)
        axes.legend()
        _save(figure, path)


def _running_mean(values: Sequence[float], decay: float = 0.9) -> list[float]:
    """Exponential, corrected for its start."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = decay * total + value, decay * weight + 1.0
        means.append(total / weight)
    return means


def recall_bars(recalls: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """R@1 and R@5 of several methods, a group of bars for each IoU threshold.

    Args:
      recalls: method -> {"R1@0.3": percent, ...}.
    """
    thetas = ("0.1", "0.3", "0.5", "0.7")
    methods = [method for method in COLORS if method in recalls]
    methods += [method for method in recalls if method not in COLORS and method != "before_depth0"]
    others = itertools.cycle(OTHERS)
    colors = {method: COLORS.get(method) or next(others) for method in methods}
    width = 0.8 / len(methods)
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=(9.2, 3.1), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, rank in zip(panels, (1, 5)):
            for i, method in enumerate(methods):
                heights = [recalls[method][f"R{rank}@{theta}"] for theta in thetas]
                places = [x + (i - (len(methods) - 1) / 2) * width for x in range(len(thetas))]
                bars = axes.bar(places, heights, width * 0.92, color=colors[method], label=method_name(method))
                axes.bar_label(bars, fmt="%.0f", fontsize=6.5, padding=1, color="#444444")
            axes.set_xticks(range(len(thetas)), [f"IoU > {theta}" for theta in thetas])
            axes.set(title=f"R@{rank}", ylim=(0, 105))
            axes.grid(axis="x", visible=False)
        panels[0].set_ylabel("queries found (%)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
        _save(figure, path)


def timelines(cases: Sequence[Timeline], path: Path, top: int = 5) -> None:
    """Truth above, the first predictions below: the whole video on the left, a close-up on the right."""
    with matplotlib.rc_context(STYLE):
        # Places are given, in inches: a layout engine draws all rows once more to find them.
        height = 0.95 * len(cases) + 0.6
        figure = figures.Figure(figsize=(10, height))
        grid = figure.subplots(
            len(cases), 2, squeeze=False,
            gridspec_kw=dict(
                left=0.05, right=0.98, top=1 - 0.25 / height, bottom=0.65 / height, hspace=0.9, wspace=0.12,
                width_ratios=(3, 2),
            ),
        )  # fmt: skip
        for (whole, close), case in zip(grid, cases):
            _strip(whole, case, top, (0.0, case.duration_s), marks=True)
            whole.set_title(_caption(case), loc="left", fontsize=8.5, color="#222222")
            _strip(close, case, top, _close_up(case), marks=False)
        figure.legend(
            handles=[
                patches.Patch(color=TRUTH, label="truth"),
                patches.Patch(color=PREDICTION, label=f"predictions 1 to {top} (paler = lower rank)"),
                patches.Patch(facecolor="white", edgecolor=PREDICTION, label="below the threshold"),
                lines.Line2D([], [], color=PREDICTION, marker="^", ls="", markersize=5, label="first prediction"),
            ],
            loc="lower center", ncols=4,
        )  # fmt: skip
        _save(figure, path)


class Bars(NamedTuple):
    """Two answers about so many frames or windows, as intervals [start, end); None = it names none."""

    name: str
    parts: int
    truth: tuple[int, int] | None
    told: tuple[int, int] | None


def bars_of_answers(answers: Sequence[Bars]) -> np.ndarray:
    """Pixels `[H, W, 3]` uint8: for each the right answer above the model's, under its name."""
    with matplotlib.rc_context(STYLE | {"figure.dpi": 100}):
        figure = figures.Figure(figsize=(7, 0.75 * len(answers) + 0.2), layout="constrained")
        rows = figure.subplots(len(answers), 1, squeeze=False)
        for axes, one in zip(rows[:, 0], answers):
            for height, span, color in ((1, one.truth, TRUTH), (0, one.told, PREDICTION)):
                if span is not None:
                    axes.barh(height, span[1] - span[0], left=span[0], height=0.7, color=color)
            axes.set(xlim=(0, one.parts), ylim=(-0.5, 1.5))
            axes.set_title(one.name, loc="left", fontsize=7)
            axes.set_yticks([0, 1], ["model", "truth"], fontsize=6)
            axes.tick_params(axis="x", labelsize=6)
            axes.grid(axis="y", visible=False)
        canvas = backend.FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _strip(axes, case: Timeline, top: int, limits: tuple[float, float], marks: bool) -> None:
    # A moment of seconds is thinner than a pixel of an hour: bars get a least width, marks point at them.
    least = (limits[1] - limits[0]) * 0.006
    for start, end in case.truth:
        axes.barh(1, max(end - start, least), left=start, height=0.62, color=TRUTH)
    for rank, (start, end, confidence) in reversed(list(enumerate(case.moments[:top]))):
        shade = 1.0 - 0.17 * rank
        sure = confidence >= case.threshold
        axes.barh(
            0, max(end - start, least), left=start, height=0.62, alpha=shade, linewidth=0.8,
            color=PREDICTION if sure else "white", edgecolor=PREDICTION,
        )  # fmt: skip
    if marks and case.moments:
        start, end, _ = case.moments[0]
        axes.plot((start + end) / 2, -0.55, marker="^", color=PREDICTION, markersize=5, clip_on=False)
    axes.set(xlim=limits, ylim=(-0.6, 1.5))
    axes.set_yticks([0, 1], ["model", "truth"], fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda seconds, _: clock(max(seconds, 0.0))))
    axes.grid(axis="y", visible=False)


def _close_up(case: Timeline) -> tuple[float, float]:
    """What to look at: the true moment nearest to the first prediction, or that prediction."""
    first = case.moments[0] if case.moments else None
    if case.truth:
        start, end = min(case.truth, key=lambda moment: abs(moment[0] - first[0]) if first else moment[0])
    else:
        start, end = first[:2] if first else (0.0, 2 * ZOOM_S)
    reach = max(ZOOM_S, 0.75 * (end - start))
    return (start + end) / 2 - reach, (start + end) / 2 + reach


def _caption(case: Timeline, width: int = 78) -> str:
    sentence = case.sentence if len(case.sentence) <= width else case.sentence[: width - 1] + "…"
    return sentence if case.truth else f"{sentence}  (never happens)"


def _save(figure: figures.Figure, path: Path) -> None:
    figure.savefig(path, pil_kwargs={"compress_level": 2})  # a third larger, at half of the time
