"""How a search runs: one frozen dataclass. Defaults are in configs/stage1.py, rules in `rules.py`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ml_collections import ConfigDict

from revision_jax.search.answers.beam import Beam
from revision_jax.search.answers.decoding import GREEDY, Greedy, Sampling
from revision_jax.search.rules import check_search


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How a search runs: the fields of `search` in a config.

    The fields named in `LAYOUT` do not change its results. Those named in `rules.CHOOSING` say which windows are looked
    at: they become a policy and numbers of windows, and no compiled program depends on them.

    Attributes:
      depth: levels of a search where a call does not say: 0, one pass over the whole video; 1, the dense windows; from
        2 on, upper levels before them.
      policy: what chooses windows, a name of `policies.policy_names`.
      keep: what each upper level sends down, coarse first: a share of the windows up to 1, above it a number of
        windows, whatever the video's length. A search of fewer levels takes the last ones.
      least: windows that each level is shown, and dense windows that are asked, at least, of videos that have them: a
        share of few windows is none to speak of.
      shortlist: cascade: the upper windows most similar to the sentence that the first upper level is shown; a share of
        them up to 1, above it their number.
      readings: groups of an upper level that show a window, in different company; their scores are averaged.
      rescale: power of the upper levels' likelihood that rescales confidences; of all policies with upper levels but
        top_down.
      similarity: a confidence is multiplied by exp(similarity * (cosine - 1)), at most 1: CLIP's mean cosine of the
        answer's frames with the sentence; 0 leaves it as it is, as published.
      alone: what is left of a confidence where an overlapping window that was asked sees the moment and does not give
        it, see `levels/agreement.py`; 1 leaves all of it, as published.
      verify: the share of the chosen dense windows that is held back until the others have answered, and then asked
        whether they give the surest answers too, see `levels/agreement.py`; 0 asks all at once, as published.
      confidence: what the confidence of an answer is, see `answers/confidence.py`.
      beam: answers kept of each pair of query and window; 1 is greedy decoding.
      sampling: temperature at which answers are sampled under the grammar; 0 is greedy decoding.
      drop_last_frame: answers that name the last frame alone do not count (the released program's rule).
      windows: `whole`, the last window is moved left; or `released`, one window fewer, see `released.py`.
      ranking: by `confidence`, or by `cosine`, the released program's; see `released.py`.
      top_k: moments kept for a query.
      nms_iou: of two moments that overlap by more than this IoU, the less sure one is dropped.
      query_batch: queries asked together of a block of windows.
      window_block: windows whose caches are held at a time; a longer video is streamed in blocks of them. A search
        rounds it up to a multiple of the devices on the mesh's data axis.
      decode_block: pairs of query and window decoded at a time after the first answer token.
      question_tokens: questions, behind the words they all begin with, are padded to this length; 0 takes the
        longest of a call, rounded up to 8.

    Raises:
      ValueError: a field breaks its rule; the message names it.
    """

    depth: int
    policy: str
    keep: tuple[float, ...]
    least: int
    shortlist: float
    readings: int
    rescale: float
    similarity: float
    alone: float
    verify: float
    confidence: str
    beam: int
    sampling: float
    drop_last_frame: bool
    windows: str
    ranking: str
    top_k: int
    nms_iou: float
    query_batch: int
    window_block: int
    decode_block: int
    question_tokens: int

    LAYOUT: ClassVar = ("query_batch", "window_block", "decode_block", "question_tokens")

    def __post_init__(self):
        check_search(dataclasses.asdict(self))

    @classmethod
    def of(cls, fields: Mapping[str, Any] | ConfigDict, **changes: Any) -> "SearchSettings":
        """The settings of a config, `config.search`, with some fields changed.

        Raises:
          ValueError: a field is unknown, missing, or breaks its rule.
        """
        values = {**fields, **changes}
        check_search(values)
        return cls(**values)

    @property
    def compares(self) -> bool:
        """Whether moments are ranked with CLIP's holistic features of the sentences, whatever the policy."""
        return self.similarity > 0 or self.ranking == "cosine"

    @property
    def strategy(self) -> Greedy | Sampling | Beam:
        """How answers are decoded."""
        if self.beam > 1:
            return Beam(self.beam)
        return Sampling(self.sampling) if self.sampling else GREEDY

    def of_program(self) -> "SearchSettings":
        """What a compiled program depends on: the same settings with the same values of `rules.CHOOSING` for all."""
        return dataclasses.replace(self, depth=1, policy="top_down", keep=(1.0,), least=1, shortlist=1.0)

    def results(self) -> dict[str, Any]:
        """The settings that results depend on."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in self.LAYOUT}
