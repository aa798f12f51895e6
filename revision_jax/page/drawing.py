"""Parts of the page as HTML: the player, an answer with its timeline, past questions. All text of others is escaped."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jinja2

from revision_jax.page.library import Video
from revision_jax.quoting import escaped
from revision_jax.report.table import clock
from revision_jax.runs.answers import Answered, levels

TICKS = 4  # parts of a timeline between two times


@dataclasses.dataclass(frozen=True)
class Span:
    """A piece of a timeline: where it stands, in percent of the video, and its seconds."""

    left: float
    width: float
    start_s: float
    label: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a timeline: what it is, how much of the video it covers, its pieces."""

    name: str
    percent: float
    spans: Sequence[Span]


def player(video: Video | None) -> str:
    """The player with a video, or with none."""
    return _template("player.html.j2").render(video=video)


def status(text: str, kind: str = "told") -> str:
    """One line about what happens. kind: told | error."""
    return _template("status.html.j2").render(text=escaped(text), kind=kind)


def answer(video: Video, answered: Answered) -> str:
    """The answer to one question: moments, and the windows that each level of the search kept."""
    (result,) = answered.searched.results
    length = answered.duration_s
    span = functools.partial(_span, length=length)
    rows = [
        Row(name, percent, [span(start, end) for start, end in windows.tolist()])
        for (name, percent), windows in zip(levels(answered, result), result.sent)
    ]
    moments = [
        (span(start, end), f"{confidence:.2f}") for start, end, confidence in result.found[: answered.top].tolist()
    ]
    ticks = [(100 * part / TICKS, clock(length * part / TICKS)) for part in range(TICKS + 1)]
    return _template("answer.html.j2").render(
        video=video, sentence=escaped(result.sentence), result=result, rows=rows, moments=moments, ticks=ticks,
        surest=f"{result.score:.2f}" if len(result.moments) else "", needed=f"{result.threshold:.2f}",
        seconds=f"{answered.searched.cost.seconds:.1f}",
    )  # fmt: skip


def headline(video: Video, answered: Answered) -> str:
    """A past question in one line of text."""
    (result,) = answered.searched.results
    found = f"{clock(result.found[0][0])} - {clock(result.found[0][1])}" if result.present else "not there"
    return f"{escaped(result.sentence)} · {video.name} · {found}"


def past(questions: Sequence[tuple[str, str]]) -> str:
    """Past questions, (headline, answer), newest first; each opens to its answer."""
    return _template("past.html.j2").render(questions=questions)


def _span(start_s: float, end_s: float, length: float) -> Span:
    left, right = (100 * min(max(time_s / length, 0.0), 1.0) for time_s in (start_s, end_s))
    return Span(round(left, 3), round(right - left, 3), start_s, f"{clock(start_s)} - {clock(end_s)}")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)
