"""Thumbnails of a report: pictures of first answers and of the truth, where the split's video files are still there."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import rich.console
import rich.progress

from revision_jax.data.store.locations import find_videos
from revision_jax.data.video.opening import VideoError
from revision_jax.data.video.thumbnails import SIDE, thumbnails
from revision_jax.report.plots import Timeline
from revision_jax.report.thumbnails import MOST, MOST_BYTES, Moment, Thumbnails, wanted

LONGEST_S = 60.0  # for all pictures; those that are not made by then are left out
log = logging.getLogger(__name__)


def make_thumbnails(directory: Path, cases: Sequence[Timeline]) -> Thumbnails:
    """Pictures of the moments that `wanted` names, in its order as far as bytes and time allow.

    Args:
      directory: of the split.
    """
    moments = wanted(cases)
    if not moments:
        return Thumbnails()
    files = find_videos(directory, {video_id for video_id, _ in moments})
    if not files:
        return Thumbnails(told="No pictures: the video files of this data are not known, or no longer where they were.")
    started, pictures, broken = time.perf_counter(), {}, []
    with _bar() as bar:
        task = bar.add_task("pictures of the report", total=len(moments))
        for video_id, file in files.items():
            times = [second for name, second in moments if name == video_id]
            try:
                made = thumbnails(file, times, until=started + LONGEST_S)
                pictures |= {(video_id, second): picture for second, picture in made.items()}
            except VideoError as error:
                broken.append(video_id)
                log.warning("no pictures of this video in the report: %s", error)
            bar.update(task, advance=len(times))
    kept = _within(pictures, moments)
    size = f"{sum(map(len, kept.values())) / 2**20:.2f} MiB"
    told = f"{len(kept)} pictures of {SIDE} pixels ({size}), failures first; at most {MOST}, of {MOST_BYTES >> 20} MiB"
    told += f"; {len(moments) - len(kept)} of those wanted are not there" if len(kept) < len(moments) else ""
    told += f"; {len(broken)} videos could not be read" if broken else ""
    log.info("%s; %.1f s", told, time.perf_counter() - started)
    return Thumbnails(kept, f"{told}. The middle of the first answer, and of the true moment nearest to it.")


def _within(pictures: dict[Moment, bytes], moments: Sequence[Moment]) -> dict[Moment, bytes]:
    """The first ones that together have at most `MOST_BYTES`."""
    kept, size = {}, 0
    for moment in moments:
        size += len(pictures.get(moment, b""))
        if size > MOST_BYTES:
            break
        if moment in pictures:
            kept[moment] = pictures[moment]
    return kept


def _bar() -> rich.progress.Progress:
    console = rich.console.Console(stderr=True)
    columns = [
        rich.progress.TextColumn("{task.description}"), rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    ]  # fmt: skip
    return rich.progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
