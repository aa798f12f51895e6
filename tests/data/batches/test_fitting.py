"""What can be drawn, found for all queries at once: as the rules for one query say."""

import dataclasses
import hashlib

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.table import QueryTable
from revision_jax.data.batches import sampling
from revision_jax.data.batches.clips import ClipDrawer, ClipKind
from revision_jax.data.batches.fitting import find_fitting
from revision_jax.data.batches.groups import GroupDrawer, GroupKind, VideoGroupDrawer
from revision_jax.data.batches.negatives.cross_video import CrossVideo
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.strategy import Guarded
from revision_jax.hierarchy import Hierarchy


def made(count: int) -> tuple[list[Query], dict[str, float]]:
    """Queries with 0 to 3 moments at the edges of their videos and windows, a third of which say the same."""
    rng, queries = np.random.default_rng(0), []
    durations = {f"v{n}": float(rng.choice([3, 10, 10.0005, 25, 60])) for n in range(6)}
    for number in range(count):
        video_id = f"v{rng.integers(6)}"
        last = durations[video_id]
        starts = np.round(rng.uniform(0, last * 0.9, rng.integers(4)), int(rng.integers(3)))
        moments = tuple((float(s), float(min(last, s + rng.choice([0.5, 1, 9, 10, 12])))) for s in starts if s < last)
        queries.append(Query(f"q{number}", video_id, f"event {number if number % 3 else 0}", moments))
    return queries, durations


def test_every_query_and_moment_is_judged_as_alone():
    queries, durations = made(400)
    guarded = Guarded(QueryTable.of(queries))
    for window_s in (10.0, None):
        found = find_fitting(guarded, durations, window_s)
        fits, room = [], []
        for query in queries:
            last = durations[query.video_id]
            window = window_s or last
            fits += [len(sampling.positive_starts(query, n, window, last)) > 0 for n in range(len(query.moments))]
            room.append(bool(sampling.free_starts(guarded[query.query_id], window, last)))
        assert found.fits.tolist() == fits and found.room.tolist() == room
        assert True in fits and True in room and False in room and (False in fits or window_s is None)
        assert found.moments.tolist() == [[n, m] for n, query in enumerate(queries) for m in range(len(query.moments))]


def test_moments_of_queries_that_say_the_same_are_guarded():
    queries = [Query(f"q{n}", "v", "Same." if n < 2 else "other", ((float(n), n + 0.5),)) for n in range(3)]
    guarded = Guarded(QueryTable.of(queries))
    assert guarded["q1"] == dataclasses.replace(queries[1], moments=((0.0, 0.5), (1.0, 1.5)))
    assert guarded["q2"] == queries[2]


def test_a_group_of_videos_leaves_out_all_that_show_the_event():
    queries = [Query(f"q{n}", f"v{n}", "same" if n < 4 else f"other {n}", ((0.0, 1.0),)) for n in range(8)]
    drawer = VideoGroupDrawer(queries, {f"v{n}": 5.0 for n in range(8)}, size=5)
    assert len(drawer) == 8 and not drawer.skipped
    for seed in range(5):
        group = drawer.draw(2, np.random.default_rng(seed))
        assert {video_id for video_id, _, _ in group.windows} == {"v2", "v4", "v5", "v6", "v7"}
    assert VideoGroupDrawer(queries, drawer.durations, size=6).skipped == {"too few videos without the event": 4}


def test_draws_are_those_of_earlier_versions():
    rng = np.random.default_rng(0)
    durations = {f"v{n}": float(rng.choice([15, 40, 90, 200])) for n in range(30)}
    queries = []
    for number in range(600):
        video_id = f"v{rng.integers(30)}"
        last, count = durations[video_id], rng.choice([0, 1, 1, 1, 2, 3])
        starts = rng.uniform(0, last * 0.9, count)
        moments = tuple((float(s), float(min(last, s + rng.choice([2, 8, 25])))) for s in starts)
        near = tuple((float(s), float(min(last, s + 3))) for s in rng.uniform(0, last * 0.9, rng.integers(2)))
        queries.append(Query(f"q{number}", video_id, f"Event {rng.integers(200)}.", moments, near))
    windows = Hierarchy(window_s=20.0, num_frames=40)
    at_random = Random(windows, durations)
    drawers = {
        "ee541216209a4437": ClipDrawer(queries, windows, durations, ClipKind(2, 0.5, 3)),
        "edd748474a473c9a": ClipDrawer(
            queries, windows, durations, ClipKind(2, 0.5, 1), CrossVideo(queries, durations, 20.0, at_random)
        ),
        "25be02c8f4c94ede": ClipDrawer(queries, windows, durations, ClipKind(1.5, 0.5, 1, True)),
        "9999944678ecbdd4": GroupDrawer(
            queries, windows, durations, size=6, kind=GroupKind(near_miss_fraction=0.5), negatives=at_random
        ),
        "89cc8566181ee07a": VideoGroupDrawer(queries, durations, size=8),
    }  # the checksums were made when queries were drawn one by one from lists
    for expected, drawer in drawers.items():
        found = hashlib.sha256()
        for row in range(len(drawer)):
            found.update(repr(drawer.draw(row, np.random.default_rng(row))).encode())
        assert found.hexdigest().startswith(expected), drawer
