"""Found moments as files for other programs: CSV, WebVTT chapters of each video, an edit decision list (CMX 3600)."""

import csv
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from revision_jax.files import write_text
from revision_jax.quoting import escaped

FRAMES = 25  # a second, of times in an edit decision list


class Moment(NamedTuple):
    """Where a sentence was found: its video, seconds, confidence."""

    sentence: str
    video: str
    start_s: float
    end_s: float
    confidence: float


def write_csv(path: Path, moments: Sequence[Moment]) -> None:
    """A row a moment, under a heading; UTF-8, lines end as RFC 4180 has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(Moment._fields)
        rows.writerows(moments)


def write_vtt(folder: Path, moments: Sequence[Moment]) -> None:
    """WebVTT chapters, a file a video that has moments: `NAME.vtt`, the moments in the order of the video."""
    by_video: dict[str, list[Moment]] = {}
    for moment in moments:
        by_video.setdefault(moment.video, []).append(moment)
    for video, name in file_names(list(by_video)).items():
        cues = [
            f"{_vtt_time(one.start_s)} --> {_vtt_time(one.end_s)}\n{html.escape(escaped(one.sentence), quote=False)}"
            for one in sorted(by_video[video], key=lambda one: (one.start_s, one.end_s))
        ]
        write_text(folder / f"{name}.vtt", "\n\n".join(["WEBVTT", *cues]) + "\n")


def write_edl(path: Path, moments: Sequence[Moment]) -> None:
    """An edit decision list: the moments one after the other, cut from their videos; times in frames of 1/25 s."""
    lines, at = ["TITLE: moments", "FCM: NON-DROP FRAME"], 0  # frames so far
    for number, one in enumerate(moments, 1):
        start = round(one.start_s * FRAMES)
        length = max(round(one.end_s * FRAMES) - start, 1)
        times = (start, start + length, at, at + length)
        lines += [
            "",
            f"{number:03d}  AX       V     C        {' '.join(map(_timecode, times))}",
            f"* FROM CLIP NAME: {escaped(Path(one.video).name)}",
            f"* COMMENT: {escaped(one.sentence)} ({one.confidence:.2f})",
        ]
        at += length
    write_text(path, "\n".join(lines) + "\n")


def write_clips(folder: Path, moments: Sequence[Moment], write: Callable[[Moment, Path], None]) -> None:
    """A clip a moment: `NAME-h.mm.ss-NUMBER.mkv`, the number being its rank among all; `write` makes the file."""
    names = file_names([moment.video for moment in moments])
    for rank, moment in enumerate(moments, 1):
        time = _vtt_time(moment.start_s)[:8].replace(":", ".")
        write(moment, folder / f"{names[moment.video]}-{time}-{rank}.mkv")


def file_names(videos: Sequence[str]) -> Mapping[str, str]:
    """A name without ending for what is written about each video; videos of one name get numbers."""
    names: dict[str, str] = {}
    for video in dict.fromkeys(videos):
        stem = "".join(c if c.isalnum() or c in " ._-" else "_" for c in Path(video).stem) or "video"
        taken, name, number = set(names.values()), stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        names[video] = name
    return names


def _vtt_time(seconds: float) -> str:
    whole = round(seconds * 1000)
    return f"{whole // 3600000:02d}:{whole // 60000 % 60:02d}:{whole // 1000 % 60:02d}.{whole % 1000:03d}"


def _timecode(frames: int) -> str:
    whole, frame = divmod(frames, FRAMES)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}:{frame:02d}"
