"""Presence: the clips of clips.py, each as a group of one window and asked whether the event happens in it.

Letters: B batch, F frames a window, D feature width.
"""

from collections.abc import Sequence

import numpy as np

from revision_jax.data.batches import sampling
from revision_jax.data.batches.clips import ClipDrawer, ClipKind, make_clip_drawer
from revision_jax.data.batches.load_group import LoadGroup
from revision_jax.data.batches.sampling import Group
from revision_jax.data.batches.streams import Batching, Rows, Stream, make_stream
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.prompts import presence_answer


class PresenceDrawer:
    """The rows of a `ClipDrawer` as groups of one window."""

    def __init__(self, clips: ClipDrawer):
        self.clips, self.skipped = clips, clips.skipped

    def __len__(self) -> int:
        return len(self.clips)

    def draw(self, row: int, rng: np.random.Generator) -> Group:
        clip = self.clips.draw(row, rng)[0]
        return sampling.alone(clip, self.clips.windows(clip.video_id).window_s)


def presence_stream(parts: Sequence[tuple[LoadGroup, TrainSplit]], kind: ClipKind, batching: Batching) -> Stream:
    """Batches of single windows, present or absent: `video [B, 1, F, D]` and the other arrays of groups.

    parts: a split with what reads its groups, or several that are mixed by weight.

    Raises ValueError for queries that do not fit the store, the window or the prompt, or give too few clips.
    """
    rows = []
    for load, split in parts:
        split = split.fitting(load.prompts, presence_answer(True), "sparse")
        drawer = make_clip_drawer(split, load.hierarchy, kind, batching.batch_size)
        rows.append(Rows(PresenceDrawer(drawer), load, split.weight))
    return make_stream(rows, batching)
