"""What a search costs, in things that can be counted: windows, frames, tokens, seconds."""

import dataclasses
import itertools


class _Counters:
    """`a + b` adds field by field."""

    def __add__(self, other):
        fields = [field.name for field in dataclasses.fields(self)]
        return type(self)(**{name: _sum(getattr(self, name), getattr(other, name)) for name in fields})


def _sum(a, b):
    """The sum of numbers, None of an unknown one, or of tuples of counters element by element."""
    if a is None or b is None:
        return None
    if not isinstance(a, tuple):
        return a + b
    return tuple(x if y is None else y if x is None else x + y for x, y in itertools.zip_longest(a, b))


@dataclasses.dataclass(frozen=True)
class LevelCost(_Counters):
    """Counters of one upper level, over all queries.

    Attributes:
      windows: the upper windows of the video, once a query: each is one sparse vector, shared by all levels.
      shown: upper windows that this level read, over all queries.
      groups: questions asked.
      tokens_prefilled: tokens through the language model before answers, with the inner nodes of the answers' trie.
      tokens_decoded: answer tokens generated.
    """

    windows: int = 0
    shown: int = 0
    groups: int = 0
    tokens_prefilled: int = 0
    tokens_decoded: int = 0


@dataclasses.dataclass(frozen=True)
class Cost(_Counters):
    """Counters of searches. Up to `seconds` they are about the dense level.

    Attributes:
      videos, queries: how many were searched.
      windows: windows encoded (once for all queries of a call).
      frames: frames that entered the language model, `windows * F`.
      tokens_prefilled: tokens through the language model before answers: prefix and video once a window, the
        question once a pair of query and window.
      tokens_decoded: answer tokens generated, over all pairs.
      seconds: wall time, of everything; None where a search took a part of what was done for others.
      pairs, all_pairs: pairs of query and window that were asked, and that there are.
      levels: the upper levels, coarse first.
      video_s: seconds of video searched.
      stored_frames: frames decoded and encoded by CLIP, once a video.
      flops: needed by the arithmetic behind the features; see `search.counting`.
    """

    videos: int = 0
    queries: int = 0
    windows: int = 0
    frames: int = 0
    tokens_prefilled: int = 0
    tokens_decoded: int = 0
    seconds: float | None = 0.0
    pairs: int = 0
    all_pairs: int = 0
    levels: tuple[LevelCost, ...] = ()
    video_s: float = 0.0
    stored_frames: int = 0
    flops: float = 0.0

    @property
    def llm_tokens(self) -> int:
        """Tokens through the language model, of all levels."""
        parts = (self, *self.levels)
        return sum(part.tokens_prefilled + part.tokens_decoded for part in parts)

    @property
    def frame_share(self) -> float | None:
        """Percent of a video's dense frames that a query sees; None where nothing was counted."""
        return 100.0 * self.pairs / self.all_pairs if self.all_pairs else None

    def rates(self) -> dict[str, float | None]:
        """What a query costs, and an hour of video with all its queries; None where nothing was counted."""
        per = lambda total, unit: total / unit if unit else None
        hours = self.video_s / 3600.0
        queries = {
            "llm_tokens_per_query": self.llm_tokens,
            "gflops_per_query": self.flops / 1e9,
            "frames_to_llm_per_query": self.pairs * self.frames / max(self.windows, 1),
        }
        of_video = {
            "frames_decoded_per_hour": self.stored_frames,
            "frames_to_llm_per_hour": self.frames,
            "llm_tokens_per_hour": self.llm_tokens,
            "gflops_per_hour": self.flops / 1e9,
        }
        return {name: per(total, self.queries) for name, total in queries.items()} | {
            name: per(total, hours) for name, total in of_video.items()
        }

    def as_dict(self) -> dict:
        """Plain values, the same before and after JSON."""
        return dataclasses.asdict(self) | {"levels": [dataclasses.asdict(level) for level in self.levels]}

    @classmethod
    def from_dict(cls, values: dict) -> "Cost":
        """What `as_dict` gave, also through JSON."""
        return cls(**values | {"levels": tuple(LevelCost(**level) for level in values.get("levels", ()))})
