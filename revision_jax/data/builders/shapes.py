"""The Shapes data set: the embedded world rendered to video files, their features and their queries.

Val and test videos are written to real files, which are decoded again as any user's file is; the train split
goes from the renderer straight to the extractor. The files of a split stay in `videos/`.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.queries import Query, check_queries
from revision_jax.data.builders import shapes_world as world
from revision_jax.data.builders.base import FeatureBuilder
from revision_jax.data.video.background import in_background
from revision_jax.data.video.extraction import Extractor, VideoFeatures
from revision_jax.data.video.frames import write_video

RENDER_BATCH = 64  # frames at a time: memory does not grow with the video
# Queries an hour: events that happen (None = all) and events that never do.
QUERIES_PER_HOUR = {"train": (None, 0), "val": (60, 20), "test": (60, 20)}
FILE_SPLITS = ("val", "test")


class Shapes(FeatureBuilder):
    """TFDS builder of one split: `videos` videos of `duration_s` seconds each in a domain of the world."""

    def __init__(
        self,
        directory: str | os.PathLike,
        split: str,
        encoder: Extractor,
        *,
        videos: int,
        duration_s: float = 3600.0,
        domain: str = "day",
    ):
        if split not in QUERIES_PER_HOUR:
            raise ValueError(f"split is {split!r}; expected one of {sorted(QUERIES_PER_HOUR)}")
        if videos < 1:
            raise ValueError(f"the {split} split has {videos} videos; expected at least 1")
        self.duration_s, self.domain = duration_s, domain
        self._videos = {}
        for index in range(videos):
            video = world.make_video(split, index, duration_s=duration_s, domain=domain)
            self._videos[video.video_id] = video
        super().__init__(directory, split, encoder)

    def video_ids(self) -> list[str]:
        return list(self._videos)

    def source(self) -> dict:
        return {
            "name": "shapes",
            "world": world.VERSION,
            "split": self.split,
            "domain": self.domain,
            "videos": len(self._videos),
            "duration_s": self.duration_s,
        }

    def annotate(self, durations: Mapping[str, float]) -> tuple[list[Query], list[Gap]]:
        return check_queries(self._queries(), durations), []

    def _queries(self) -> list[Query]:
        present, absent = QUERIES_PER_HOUR[self.split]
        hours = self.duration_s / 3600
        present = None if present is None else round(present * hours)
        return [q for v in self._videos.values() for q in v.queries(present=present, absent=round(absent * hours))]

    def extract(self, video_ids: list[str]) -> Iterator[tuple[str, VideoFeatures]]:
        if self.split not in FILE_SPLITS:
            for video_id in video_ids:
                frames = rendered(self._videos[video_id], self.encoder.fps)
                features = self.encoder.encode_frames(frames, name=video_id)
                yield video_id, VideoFeatures(features, self.duration_s, self.encoder.fps)
            return
        # The next file is rendered while this one is decoded and encoded.
        for video_id, path in in_background(map(self._write_file, video_ids), depth=1):
            yield video_id, self.encoder.encode_video(path)

    def _write_file(self, video_id: str) -> tuple[str, pathlib.Path]:
        path = self.directory / "videos" / f"{video_id}.mp4"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            write_video(path, rendered(self._videos[video_id], world.FPS), world.FPS)
        return video_id, path


def rendered(video: "world.ShapesVideo", fps: float) -> Iterator[np.ndarray]:
    """A whole video as uint8 batches [<= RENDER_BATCH, SIZE, SIZE, 3], one frame every 1/fps seconds."""
    times = np.arange(np.ceil(video.duration_s * fps - 1e-6)) / fps
    for start in range(0, len(times), RENDER_BATCH):
        yield video.frames(times[start : start + RENDER_BATCH])


def prepare_shapes(
    data_dir: str | os.PathLike,
    extractor: Extractor,
    *,
    videos: Mapping[str, int],
    duration_s: float = 3600.0,
    domain: str = "day",
    on_video: Callable[[str, int, int], None] = lambda split, done, total: None,
) -> dict[str, pathlib.Path]:
    """Prepares splits under `data_dir` and returns split -> data set directory.

    What is there already is kept, also of a killed run, video by video. The directory's name holds a
    fingerprint of all that decides its content (world, encoder, fps): another encoder, another directory.

    Args:
      videos: split ("train", "val", "test") -> number of videos.
      duration_s: length of each video in seconds. domain: "day", "night", "crowded" or "noisy".
      on_video: called as (split, videos done, videos in all).
    """
    directories = {}
    for split, count in videos.items():
        source = [world.VERSION, split, domain, count, duration_s, extractor.fingerprint, extractor.fps]
        key = hashlib.sha256(json.dumps(source).encode()).hexdigest()[:8]
        name = f"{split}-{domain}-{count}x{duration_s:g}s-{key}"
        builder = Shapes(
            pathlib.Path(data_dir) / name,
            split,
            extractor,
            videos=count,
            duration_s=duration_s,
            domain=domain,
        )
        directories[split] = builder.prepare(lambda done, total, split=split: on_video(split, done, total))
    return directories
