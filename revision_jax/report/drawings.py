"""Small pictures for the page as SVG text, in the page's own colours (light and dark)."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

from revision_jax.report.plots import Timeline

WIDTH, HEIGHT, LEFT, BOTTOM = 360, 220, 36, 30  # units of the view box
POINTS = 200  # of a curve, at most


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - 10)


def _y(percent: float) -> float:
    return 10 + (1 - percent / 100) * (HEIGHT - BOTTOM - 10)


def _framed(label: str, x_title: str, body: str) -> str:
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 10}" y1="{_y(p):.1f}" y2="{_y(p):.1f}"/>'
        f'<text x="{LEFT - 5}" y="{_y(p) + 4:.1f}" text-anchor="end">{p}</text>'
        for p in (0, 25, 50, 75, 100)
    )
    title = f'<text x="{_x(0.5):.0f}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(x_title)}</text>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">{grid}{body}{title}</svg>'


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Share of right answers against the confidence that was told, a bar a bin; on the diagonal they agree."""
    bars = "".join(
        f'<rect class="bar" x="{_x(b["low"] / 100) + 1:.1f}" width="{_x(b["high"] / 100) - _x(b["low"] / 100) - 2:.1f}"'
        f' y="{_y(b["accuracy"]):.1f}" height="{_y(0) - _y(b["accuracy"]):.1f}">'
        f"<title>{b['answers']} answers: told {b['confidence']:.0f} %, right {b['accuracy']:.0f} %</title></rect>"
        for b in bins
    )
    line = f'<line class="even" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(100)}"/>'
    return _framed("Reliability diagram", "confidence told (%): bars, right answers (%)", bars + line)


def intervals(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Rows (name, percent, low, high) as points with their intervals."""
    step, body = 1 / max(len(rows), 1), []
    for i, (name, value, low, high) in enumerate(rows):
        x = _x((i + 0.5) * step)
        body.append(
            f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{_y(low):.1f}" y2="{_y(high):.1f}"/>'
            f'<circle class="point" cx="{x:.1f}" cy="{_y(value):.1f}" r="4">'
            f"<title>{low:.1f} to {high:.1f}</title></circle>"
            f'<text x="{x + 7:.1f}" y="{_y(value) + 4:.1f}">{value:.0f}</text>'
            f'<text x="{x:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{html.escape(name)}</text>'
        )
    return _framed("Recall with intervals", "percent, with 95 % intervals", "".join(body))


def alarms(cases: Sequence[Timeline]) -> str:
    """Queries with an answer as sure as a threshold, in percent: absent ones (false alarms) and present ones."""
    first = lambda case: case.moments[0][2] if len(case.moments) else -np.inf
    absent = np.array([first(case) for case in cases if not case.truth])
    present = np.array([first(case) for case in cases if case.truth])
    finite = np.concatenate([absent, present])
    finite = np.sort(finite[np.isfinite(finite)])
    if not len(absent) or len(finite) < 2 or finite[0] == finite[-1]:
        return ""
    low, high = finite[0], finite[-1]
    grid, body = np.linspace(low, high, POINTS), ""
    for name, scores in (("present", present), ("absent", absent)):
        if len(scores):
            shares = [100.0 * np.mean(scores >= threshold) for threshold in grid]
            points = " ".join(f"{_x((t - low) / (high - low)):.1f},{_y(s):.1f}" for t, s in zip(grid, shares))
            body += f'<polyline class="{name}" points="{points}"/>'
    chosen = cases[0].threshold
    if low <= chosen <= high:
        x = _x((chosen - low) / (high - low))
        body += f'<line class="even" x1="{x:.1f}" x2="{x:.1f}" y1="{_y(0)}" y2="{_y(100)}"/>'
    ends = f'<text x="{LEFT}" y="{HEIGHT - 18}">{low:.2g}</text>'
    ends += f'<text x="{WIDTH - 10}" y="{HEIGHT - 18}" text-anchor="end">{high:.2g}</text>'
    return _framed("False alarms against the threshold", "threshold (dashed: the chosen one)", body + ends)
