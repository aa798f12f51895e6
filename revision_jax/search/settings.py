"""How a search runs: one frozen dataclass."""

import dataclasses

from revision_jax.search.beam import Beam
from revision_jax.search.confidence import check_kind
from revision_jax.search.decoding import GREEDY, Sampling
from revision_jax.search.policies import check_policy

WINDOWS, RANKINGS = ("whole", "released"), ("confidence", "cosine")


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How a search runs. The fields named in `LAYOUT` do not change its results.

    Attributes:
      depth: how many levels a search has where a call does not say: 0, one pass over the whole video; 1, all dense
        windows, or those that similarity chooses; from 2 on, upper levels before them.
      policy: what chooses windows; see `policies.py`.
      keep: what each upper level sends down, coarse first: a share of the windows up to 1, above it a number of
        windows, whatever the video's length. A search of fewer levels takes the last ones.
      readings: how many groups of an upper level show a window, in different company; their scores are averaged.
      rescale: bottom_up, top_down_rescaled: power of the upper levels' likelihood that rescales confidences.
      confidence: see `confidence.py`.
      beam: answers kept of each pair of query and window; 1 is greedy decoding.
      sampling: temperature at which answers are sampled under the grammar; 0 is greedy decoding.
      drop_last_frame: answers that name the last frame alone do not count (the released program's rule).
      windows: `whole`, the last one moved left; or `released`, one fewer, see `released.py`.
      ranking: by `confidence`, or by `cosine`, the released program's; see `released.py`.
      top_k: moments kept for a query.
      nms_iou: of two moments that overlap by more than this IoU, the less sure one is dropped.
      query_batch: queries asked together of a block of windows.
      window_block: windows whose caches are held at a time; a longer video is streamed in blocks of them.
      decode_block: pairs of query and window decoded at a time after the first answer token.
      question_tokens: questions, behind the words they all begin with, are padded to this length; 0 takes the
        longest of a call, rounded up to 8.
    """

    depth: int = 1
    policy: str = "top_down"
    keep: tuple[float, ...] = (0.9, 0.59)
    readings: int = 1
    rescale: float = 0.5
    confidence: str = "inverse_mean_entropy"
    beam: int = 1
    sampling: float = 0.0
    drop_last_frame: bool = False
    windows: str = "whole"
    ranking: str = "confidence"
    top_k: int = 50
    nms_iou: float = 0.5
    query_batch: int = 1
    window_block: int = 128
    decode_block: int = 16
    question_tokens: int = 0

    LAYOUT = ("query_batch", "window_block", "decode_block", "question_tokens")

    def __post_init__(self):
        check_policy(self.policy)
        check_kind(self.confidence)
        if not all(0 < keep <= 1 or keep == int(keep) > 1 for keep in self.keep):
            raise ValueError(f"search.keep is {self.keep}; expected shares of the windows in (0, 1], or whole numbers.")
        for name in ("depth", "rescale", "sampling"):
            if getattr(self, name) < 0:
                raise ValueError(f"search.{name} is {getattr(self, name)}; expected at least 0.")
        for name in ("top_k", "readings", "window_block", "query_batch", "decode_block", "beam"):
            if getattr(self, name) < 1:
                raise ValueError(f"search.{name} is {getattr(self, name)}; expected at least 1.")
        if not 0 <= self.nms_iou <= 1:
            raise ValueError(f"search.nms_iou is {self.nms_iou}; expected an IoU in [0, 1].")
        if self.question_tokens < 0:
            raise ValueError(f"search.question_tokens is {self.question_tokens}; expected at least 0.")
        if self.beam > 1 and self.sampling:
            raise ValueError(f"search.beam is {self.beam} and search.sampling {self.sampling}; expected one of them.")
        for name, known in (("windows", WINDOWS), ("ranking", RANKINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"search.{name} is {getattr(self, name)!r}; expected one of {known}.")

    @property
    def strategy(self):
        """How answers are decoded: `Greedy`, `Sampling` or `Beam`."""
        if self.beam > 1:
            return Beam(self.beam)
        return Sampling(self.sampling) if self.sampling else GREEDY

    def results(self) -> dict:
        """The settings that results depend on."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in self.LAYOUT}
