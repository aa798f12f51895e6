"""How much data there is: videos, hours and queries of each split, given, published or counted."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from revision_jax.config import ConfigError, resolve_data_dir
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.store.manifest import MANIFEST, Manifest

SPLITS = ("train", "val", "test")
LCS_IMAGES = 558_128  # captions of LCS-558K
SHAPES_QUERIES = (83.5, 80.0, 80.0)  # an hour of the embedded world, as it is drawn


@dataclasses.dataclass(frozen=True)
class Count:
    """One split.

    Attributes:
      queries: with one moment each; rows of training are counted from them.
    """

    videos: int
    hours: float
    queries: int

    @classmethod
    def parse(cls, flag: str, text: str) -> "Count":
        """`VIDEOS,HOURS,QUERIES`; ValueError for another form."""
        try:
            videos, hours, queries = text.split(",")
            count = cls(int(float(videos)), float(hours), int(float(queries)))
        except ValueError:
            count = None
        if count is None or min(count.videos, count.queries) < 1 or not count.hours > 0:
            raise ValueError(f"--{flag} is {text!r}; expected VIDEOS,HOURS,QUERIES above 0, such as 488,895,280000.")
        return count

    @property
    def video_s(self) -> float:
        """Seconds of the mean video."""
        return self.hours * 3600 / self.videos

    @property
    def queries_a_video(self) -> float:
        return self.queries / self.videos


# MAD: 650 films of about 110 minutes, 384 K queries (arXiv 2112.00431). VidChapters-7M: 817 K videos with 8 chapters
# each (arXiv 2309.13952), 1 % of them val and 1 % test; 23 minutes a video is assumed.
PUBLISHED = {
    "mad": (Count(488, 895, 280_000), Count(50, 92, 32_000), Count(112, 205, 72_000)),
    "vidchapters": (Count(801_000, 307_000, 6_400_000), Count(8_200, 3_100, 65_000), Count(8_200, 3_100, 65_000)),
}


def counts_of(config: ConfigDict, given: dict[str, str | None]) -> dict[str, tuple[Count, str]]:
    """Split -> (its count, where it comes from: "given", "counted", "published", or "drawn" of the embedded world).

    Args:
      given: split -> `VIDEOS,HOURS,QUERIES`, or None.

    Raises:
      ConfigError: a split that is not given, not prepared, and not in the table.
    """
    found = {}
    for place, split in enumerate(SPLITS):
        if given.get(split):
            found[split] = Count.parse(split, given[split]), "given"
        elif config.data.name == "shapes":
            hours = config.data[f"{split}_videos"] * config.data.video_s / 3600
            queries = round(hours * SHAPES_QUERIES[place])
            found[split] = Count(config.data[f"{split}_videos"], hours, queries), "drawn"
        elif (folder := resolve_data_dir(config) / split).joinpath(MANIFEST).is_file():
            found[split] = _counted(folder), "counted"
        elif config.data.name in PUBLISHED:
            found[split] = PUBLISHED[config.data.name][place], "published"
        else:
            raise ConfigError(
                f"data.name {config.data.name!r}: its sizes are not known, no {split} split is prepared at {folder}; "
                f"give --{split} VIDEOS,HOURS,QUERIES."
            )
    return found


def _counted(folder: Path) -> Count:
    """A split as it was prepared."""
    videos = Manifest.load(folder).videos.values()
    queries = load_queries(folder / QUERIES)
    return Count(len(videos), sum(video.duration_s for video in videos) / 3600, len(queries))
