"""Reads what was drawn as a group: the features of its windows, its query tokens and its text.

Letters: n windows a group, F frames a window, D feature width, Q query tokens, T text tokens.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from revision_jax.data.annotations.table import SentencesById
from revision_jax.data.batches.query_tokens import QueryTokens, StoredQueryTokens
from revision_jax.data.batches.sampling import Group
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import PromptEncoder, group_answer, presence_answer, video_answer
from revision_jax.quoting import quoted


@dataclasses.dataclass(frozen=True)
class LoadGroup:
    """(record id, group) -> `video [n, F, D]`, `query [Q, D]`, `query_mask [Q]`, `tokens [T]`, `loss_mask [T]`."""

    store: FeatureStore
    hierarchy: Hierarchy
    prompts: PromptEncoder
    sentences: Mapping[str, str] | SentencesById
    query_tokens: QueryTokens | StoredQueryTokens

    def prepare(self, groups: Sequence[Group]) -> None:
        """Encodes the sentences of a batch together."""
        self.query_tokens.prepare([self.sentences[group.query_id] for group in groups])

    def __call__(self, item: tuple[int, Group], video: np.ndarray | None = None) -> dict[str, np.ndarray]:
        record_id, group = item
        sentence = self.sentences[group.query_id]
        return {
            "video": self._read_all(group.windows, video),
            **self.query_tokens(group.query_id, sentence),
            **self.prompts.encode_example(sentence, answer_text(group), group.level),
            "record_id": np.int32(record_id),
        }

    def _read_all(self, windows: Sequence[tuple[str, float, float]], video: np.ndarray | None) -> np.ndarray:
        manifest = self.store.manifest
        if video is None:
            video = np.empty((len(windows), self.hierarchy.num_frames, manifest.width), manifest.dtype)
        first = 0
        for video_id, own in itertools.groupby(windows, key=lambda window: window[0]):  # a video's are read at once
            spans = np.array([(start_s, end_s) for _, start_s, end_s in own])
            total = manifest.videos[video_id].num_frames
            frames = self.hierarchy.frame_indices(spans[:, 0], spans[:, 1], manifest.fps, total)
            self.store.read(video_id, frames, video[first : first + len(spans)])
            first += len(spans)
        return video

    def describe(self, group: Group) -> str:
        """`query ... in 16 windows of video ...: From 3 to 5.`"""
        videos = list(dict.fromkeys(video_id for video_id, _, _ in group.windows))
        where = f"video {videos[0]}" if len(videos) == 1 else f"{len(videos)} videos"
        query = f"query {group.query_id} {quoted(self.sentences[group.query_id])}"
        return (
            f"{query} in {len(group.windows)} windows of {where}, "
            f"the first from {group.windows[0][1]:.1f} s: {answer_text(group)}"
        )


def answer_text(group: Group) -> str:
    """The target sentence of a group."""
    match group.level:
        case "sparse":
            return presence_answer(group.answer is not None)
        case "group":
            return group_answer(*group.answer)
        case "retrieval":
            return video_answer(group.answer[0])
    raise ValueError(f"a group cannot be asked at level {group.level!r}")
