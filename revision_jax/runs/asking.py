"""Sentences asked of many videos: each video is read once, or found in the cache, and searched for all sentences."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from revision_jax.cache import cache_folder
from revision_jax.data.video.clips import write_clip
from revision_jax.data.video.feature_cache import FeatureCache
from revision_jax.data.video.frames import probe
from revision_jax.data.video.opening import VideoError
from revision_jax.prompts import normalize_event
from revision_jax.report.moments import Moment, write_clips, write_csv, write_edl, write_vtt
from revision_jax.runs.answers import Answered
from revision_jax.runs.run import Run
from revision_jax.text import read_lines


@dataclasses.dataclass(frozen=True)
class Asking:
    """How videos are asked.

    Attributes:
      top: the most moments that are told of a query.
      threshold: the least confidence of a moment that is there; None: what `evaluate` chose.
      skip_broken: whether a file that is no whole video is told and left out.
      cached: whether features are kept in the cache folder.
    """

    top: int = 5
    threshold: float | None = None
    skip_broken: bool = False
    cached: bool = True


@dataclasses.dataclass
class Asked:
    """What came of it: answers by video, files that were left out, seconds of each part of the work."""

    answered: list[Answered] = dataclasses.field(default_factory=list)
    skipped: list[VideoError] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: {"videos": 0.0, "search": 0.0})


def sound_videos(paths: Sequence[str], skip_broken: bool) -> tuple[list[str], list[VideoError]]:
    """Those that are videos by their first frame, and what is wrong with the others. Before anything is loaded.

    Raises:
      VideoError: of the first that is none, unless these are skipped, or when none is left.
    """
    sound, broken = [], []
    for path in paths:
        try:
            probe(path)
        except VideoError as error:
            if not skip_broken:
                raise
            broken.append(error)
        else:
            sound.append(path)
    if not sound:
        raise broken[0]
    return sound, broken


def ask(
    run: Run, videos: Sequence[str], sentences: Sequence[str], how: Asking,
    on_video: Callable[[int, str], None] = lambda done, doing: None,
) -> Asked:  # fmt: skip
    """Searches every video for every sentence.

    Args:
      on_video: called with the number of finished videos and what is done next.

    Raises:
      VideoError: a file cannot be decoded to its end, and broken ones are not skipped; or no video is left.
    """
    cache = FeatureCache(cache_folder() / "features") if how.cached else None
    asked = Asked()
    for number, video in enumerate(videos):
        started = time.perf_counter()
        on_video(number, f"reads {Path(video).name}")
        try:
            features = run.encode(video, cache)
        except VideoError as error:
            if not how.skip_broken:
                raise
            asked.skipped.append(error)
            continue
        read = time.perf_counter()
        on_video(number, f"searches {Path(video).name}")
        searched = run.search(features, sentences, threshold=how.threshold)
        asked.answered.append(Answered(video, features.duration_s, searched, run.config, how.top))
        asked.seconds["videos"] += read - started
        asked.seconds["search"] += time.perf_counter() - read
    if not asked.answered:
        raise asked.skipped[0]
    return asked


class Files(NamedTuple):
    """What is written beside the printed answers; None: not. `exact`: clips to the frame."""

    csv: str | None = None
    vtt: str | None = None
    edl: str | None = None
    clips: str | None = None
    exact: bool = False


def write_files(files: Files, found: Sequence[Moment]) -> None:
    """Moments for other programs, see `report/moments.py`, and as clips."""
    for path, write in ((files.csv, write_csv), (files.vtt, write_vtt), (files.edl, write_edl)):
        if path:
            write(Path(path), found)
    if files.clips:
        cut = functools.partial(write_clip, exact=files.exact)
        write_clips(Path(files.clips), found, lambda one, out: cut(one.video, one.start_s, one.end_s, out))


def read_sentences(given: Sequence[str], file: str | None) -> list[str]:
    """The sentences of the command line and of the file.

    Raises:
      ValueError: there are none, or one is empty.
    """
    places = [("", sentence) for sentence in given]
    if file is not None:
        lines = enumerate(read_lines(file), 1)
        places += [(f"{file}:{number}: ", line.strip()) for number, line in lines if line.strip()]
    if not places:
        raise ValueError(f"no sentence given{f' and none in {file}' if file else ''}; expected an event in quotes.")
    for place, sentence in places:
        try:
            normalize_event(sentence)
        except ValueError as error:
            raise ValueError(f"{place}{error}") from error
    return [sentence for _, sentence in places]
