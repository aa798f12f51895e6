"""Which of twenty videos shows an event: how often the first moment that is told lies in the right one.

    python -m revision_jax.benchmarks.which_video --workdir runs/stage1-tiny

Videos of Shapes that no training has seen, as files in one folder, and a broken file beside them. The sentences are
of events that happen in exactly one of the videos. All is asked at once, as `ground FOLDER "sentence"... --skip-broken`
does. Right: the surest moment of all videos lies in the right one; its moment is right, too, where their IoU is above
0.3. A sentence that is told to be in none of them counts as wrong. Prints one JSON line.
"""

import argparse
import collections
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from revision_jax.data.builders import shapes_world as world
from revision_jax.data.builders.shapes import rendered
from revision_jax.data.video.finding import find_videos
from revision_jax.data.video.frames import write_video
from revision_jax.metrics.grounding import best_iou
from revision_jax.runs.answers import ranked
from revision_jax.runs.asking import Asking, ask, sound_videos
from revision_jax.runs.run import load_run

FIRST = 1000  # number of the first video of the world: far from those of its test split
BROKEN = "broken.mp4"


class Asked(NamedTuple):
    """A sentence, the video that shows it and when, in seconds `[k, 2]`."""

    sentence: str
    video_id: str
    moments: np.ndarray


def choose(videos: Sequence[world.ShapesVideo], count: int, seed: int) -> list[Asked]:
    """Sentences about events that happen in exactly one of the videos, of different videos as far as there are.

    Raises:
      ValueError: there are fewer such events.
    """
    shown = collections.Counter(event for video in videos for event in {event for event, *_ in video.events})
    rng, rounds = np.random.default_rng(seed), []
    for video in videos:
        own = sorted({event for event, *_ in video.events if shown[event] == 1}, key=repr)
        rounds += [(turn, video, own[index]) for turn, index in enumerate(rng.permutation(len(own)))]
    if len(rounds) < count:
        raise ValueError(f"{len(rounds)} events happen in one video alone; expected {count}. Ask for fewer.")
    order = sorted(rng.permutation(len(rounds)), key=lambda index: rounds[index][0])
    return [
        Asked(
            event.sentence(int(rng.integers(12))),
            video.video_id,
            np.array([span for other, *span in video.events if other == event]),
        )
        for _, video, event in (rounds[index] for index in order[:count])
    ]


def write_folder(folder: Path, videos: Sequence[world.ShapesVideo]) -> None:
    """The videos as files, and the first half of one as a broken file."""
    for video in videos:
        write_video(folder / f"{video.video_id}.mp4", rendered(video, world.FPS), world.FPS)
    whole = (folder / f"{videos[0].video_id}.mp4").read_bytes()
    (folder / BROKEN).write_bytes(whole[: len(whole) // 2])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Asks the run; see `main` for the arguments."""
    run = load_run(args.workdir)
    videos = [world.make_video("test", FIRST + i, duration_s=60 * args.minutes) for i in range(args.videos)]
    asked = choose(videos, args.sentences, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), videos)
        started = time.perf_counter()
        paths, broken = sound_videos(find_videos([folder]), skip_broken=True)
        found = ask(run, paths, [one.sentence for one in asked], Asking(top=1, skip_broken=True, cached=False))
        seconds = time.perf_counter() - started
    first = [ranked(found.answered, number)[:1] for number in range(len(asked))]
    right = [bool(rows) and Path(rows[0][0]).stem == one.video_id for rows, one in zip(first, asked)]
    exact = [hit and best_iou(rows[0][1][None], one.moments)[0] > 0.3 for hit, rows, one in zip(right, first, asked)]
    return {
        "benchmark": "which_video",
        "workdir": str(args.workdir),
        "videos": len(found.answered),
        "minutes_each": args.minutes,
        "skipped": [Path(error.path).name for error in (*broken, *found.skipped)],
        "sentences": len(asked),
        "right_video_percent": 100 * float(np.mean(right)),
        "right_moment_percent": 100 * float(np.mean(exact)),
        "told_to_be_in_none": sum(not rows for rows in first),
        "chance_percent": 100 / args.videos,
        "seconds": seconds,
        "device": jax.devices()[0].device_kind,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="an evaluated run on Shapes")
    parser.add_argument("--videos", type=int, default=20, help="videos of the folder (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=3.0, help="length of each (default: %(default)g)")
    parser.add_argument("--sentences", type=int, default=10, help="events that are asked for (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which events are drawn (default: %(default)s)")
    print(json.dumps(measure(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
