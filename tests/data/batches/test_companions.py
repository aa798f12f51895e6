"""Companions: further questions about a window have the right answers."""

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches.companions import Companions
from revision_jax.data.batches.sampling import Clip
from revision_jax.hierarchy import Hierarchy

HIERARCHY = Hierarchy(window_s=64.0, num_frames=64)


def companion_queries():
    spans = {"red": (100.0, 110.0), "blue": (130.0, 140.0), "cut": (155.0, 170.0), "away": (900.0, 910.0)}
    queries = [Query(name, "v", f"a {name} event", (span,)) for name, span in spans.items()]
    return [*queries, Query("near", "v", "a near miss", ((500.0, 510.0),), distractors=((120.0, 125.0),))]


def test_companions_answer_for_the_window_and_skip_what_its_edge_cuts():
    queries = companion_queries()
    clip = Clip("red", "v", 96.0, (4, 14))  # 96 to 160 s: holds red and blue, cuts "cut"
    drawn = Companions(queries, HIERARCHY, 0.5).draw(clip, 3, np.random.default_rng(0))
    assert {c.query_id: c.answer for c in drawn} == {"blue": (34, 44), "near": None, "away": None}
    assert all(c.window_start_s == 96.0 for c in drawn)


def test_companions_prefer_near_misses_as_often_as_asked():
    clip = Clip("red", "v", 96.0, (4, 14))
    only_near = Companions(companion_queries(), HIERARCHY, 1.0)
    drawn = {only_near.draw(clip, 1, np.random.default_rng(i))[0].query_id for i in range(40)}
    assert drawn == {"blue", "near"}


def test_a_video_with_too_few_queries_asks_the_clips_own_again():
    clip = Clip("red", "v", 96.0, (4, 14))
    lonely = Companions(companion_queries()[:1], HIERARCHY, 0.5)
    assert lonely.draw(clip, 2, np.random.default_rng(0)) == [clip, clip]
