"""Clips and groups: where windows may lie, by brute force over many draws."""

import numpy as np
import pytest

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import sampling
from revision_jax.hierarchy import Hierarchy

HIERARCHY = Hierarchy(window_s=64.0, num_frames=64)
DURATION = 600.0


def overlaps(start, interval):
    return start < interval[1] and start + HIERARCHY.window_s > interval[0]


def draws(function, n=300):
    return [function(np.random.default_rng(seed)) for seed in range(n)]


def test_positive_window_holds_the_chosen_moment_only():
    query = Query("q", "v", "s", ((100.0, 110.0), (140.0, 150.0), (400.0, 405.5)))
    for moment, (start_s, end_s) in enumerate(query.moments):
        clips = draws(lambda rng, m=moment: sampling.positive(query, m, rng, HIERARCHY, DURATION))
        assert len({clip.window_start_s for clip in clips}) > 10
        for clip in clips:
            assert clip.window_start_s <= start_s and end_s <= clip.window_start_s + HIERARCHY.window_s
            others = [other for number, other in enumerate(query.moments) if number != moment]
            assert not any(overlaps(clip.window_start_s, other) for other in others)
            assert clip.answer == HIERARCHY.to_frames(start_s, end_s, clip.window_start_s)


def test_positive_offset_is_the_published_range():
    query = Query("q", "v", "s", ((300.0, 310.5),))
    starts = {
        sampling.positive(query, 0, rng, HIERARCHY, DURATION).window_start_s
        for rng in map(np.random.default_rng, range(2000))
    }
    assert starts == {300.0 - offset for offset in range(64 - 11)}  # randrange(window - ceil(event))


@pytest.mark.parametrize(
    ("moment", "inside"),
    [((0.5, 4.0), True), ((590.0, 600.0), True), ((100.0, 164.0), True), ((100.0, 165.0), False)],
)
def test_positive_at_the_edges(moment, inside):
    query = Query("q", "v", "s", (moment,))
    starts = sampling.positive_starts(query, 0, HIERARCHY.window_s, DURATION)
    assert (len(starts) > 0) == inside
    assert np.all((starts >= 0) & (starts <= DURATION - HIERARCHY.window_s))
    assert np.all((starts <= moment[0]) & (starts + HIERARCHY.window_s >= moment[1]))


def test_repeats_too_near_to_be_apart_are_refused():
    query = Query("q", "v", "s", ((100.0, 130.0), (131.0, 140.0), (60.0, 99.0)))
    assert not len(sampling.positive_starts(query, 0, HIERARCHY.window_s, DURATION))
    with pytest.raises(ValueError, match="whole and alone"):
        sampling.positive(query, 0, np.random.default_rng(0), HIERARCHY, DURATION)


def test_contrastive_never_touches_any_occurrence_and_reaches_everywhere():
    query = Query("q", "v", "s", ((100.0, 110.0), (300.0, 310.0)), ((200.0, 210.0),))
    clips = draws(lambda rng: sampling.contrastive(query, rng, HIERARCHY, DURATION), 2000)
    starts = np.array([clip.window_start_s for clip in clips])
    assert all(clip.answer is None for clip in clips)
    assert not any(overlaps(start, moment) for start in starts for moment in query.moments)
    assert starts.min() < 5 and starts.max() > DURATION - 64 - 5
    lengths = {(0, 36): 36, (110, 236): 126, (310, 536): 226}  # uniform: in proportion to the room
    for (low, high), length in lengths.items():
        assert np.mean((starts >= low) & (starts <= high)) == pytest.approx(length / 388, abs=0.04)


def test_near_miss_fraction():
    query = Query("q", "v", "s", ((100.0, 110.0),), ((300.0, 310.0), (105.0, 112.0)))  # the second never fits
    for fraction in (0.0, 0.5, 1.0):
        clips = draws(lambda rng, f=fraction: sampling.contrastive(query, rng, HIERARCHY, DURATION, f), 1000)
        holds = [c.window_start_s <= 300 and c.window_start_s + 64 >= 310 for c in clips]
        by_chance = 54 / (36 + 426)
        assert np.mean(holds) == pytest.approx(fraction + (1 - fraction) * by_chance, abs=0.05)
        assert not any(overlaps(c.window_start_s, query.moments[0]) for c in clips)


def test_no_room_and_short_videos():
    everywhere = Query("q", "v", "s", ((30.0, 40.0),))
    assert sampling.free_starts(everywhere, 64.0, 70.0) == []
    with pytest.raises(ValueError, match="touches the event"):
        sampling.contrastive(everywhere, np.random.default_rng(0), HIERARCHY, 70.0)
    absent = Query("q", "v", "s", ())
    assert sampling.contrastive(absent, np.random.default_rng(0), HIERARCHY, 20.0).window_start_s == 0.0
    short = sampling.positive(Query("q", "v", "s", ((3.0, 9.0),)), 0, np.random.default_rng(0), HIERARCHY, 20.0)
    assert short.window_start_s == 0.0 and short.answer == (3, 9)


def group(query, rng, size, copies, near_miss_fraction=0.0):
    positive = lambda rng: sampling.positive(query, 0, rng, HIERARCHY, DURATION)
    negative = lambda rng: sampling.contrastive(query, rng, HIERARCHY, DURATION, near_miss_fraction)
    return sampling.group(positive, negative, rng, size=size, copies=copies, window_s=64.0)


def test_a_group_holds_adjacent_copies_and_contrastive_windows_in_time_order():
    query = Query("q", "v", "s", ((100.0, 110.0), (300.0, 310.0)), ((200.0, 210.0),))
    make = lambda rng: group(query, rng, size=8, copies=(2, 3))
    clips = draws(make)
    assert clips[5] == make(np.random.default_rng(5))
    for clip in clips:
        first, end = clip.answer
        starts = np.array([start for _, start, _ in clip.windows])
        assert len(clip.windows) == 8 and np.allclose([b - a for _, a, b in clip.windows], 64)
        inside, outside = starts[first:end], np.delete(starts, np.arange(first, end))
        assert ((inside <= 100) & (inside + 64 >= 110)).all()
        assert not any(overlaps(start, moment) for start in outside for moment in query.moments)
        assert (np.diff(outside) >= 0).all() and (np.diff(inside) >= 0).all()
    assert {end - first for first, end in (clip.answer for clip in clips)} == {2, 3}
    assert {first for first, _ in (clip.answer for clip in clips)} == set(range(7))  # 6 only with two copies
    assert len({clip.windows[clip.answer[0]][1] for clip in clips}) > 20  # each copy at its own offset
    assert clips[0].level == "group" and clips[0].query_id == "q"


def test_near_misses_in_a_group_are_as_many_as_asked():
    query = Query("q", "v", "s", ((100.0, 110.0),), ((300.0, 310.0),))
    clip = group(query, np.random.default_rng(0), size=16, copies=(2,), near_miss_fraction=1.0)
    others = [start for i, (_, start, _) in enumerate(clip.windows) if not clip.answer[0] <= i < clip.answer[1]]
    assert len(others) == 14 and all(start <= 300 and start + 64 >= 310 for start in others)


def test_a_group_of_videos_holds_the_right_one_once():
    query = Query("q", "v3", "s", ((1.0, 5.0),))
    durations = {f"v{i}": 10.0 + i for i in range(9)}
    others = [video_id for video_id in durations if video_id != "v3"]
    clips = draws(lambda rng: sampling.video_group(query, others, rng, durations, size=5))
    for clip in clips:
        videos = [video_id for video_id, _, _ in clip.windows]
        assert len(set(videos)) == 5 and videos[clip.answer[0]] == "v3" and clip.answer[1] == clip.answer[0] + 1
        assert all((start, stop) == (0, durations[video_id]) for video_id, start, stop in clip.windows)
    assert {clip.answer[0] for clip in clips} == set(range(5)) and clips[0].level == "retrieval"
    with pytest.raises(ValueError, match="needs 9 without the event, there are 8"):
        sampling.video_group(query, others, np.random.default_rng(0), durations, size=10)


def test_a_window_alone_is_asked_for_presence():
    present = sampling.alone(sampling.Clip("q", "v", 30.0, (4, 9)), 64.0)
    assert present == sampling.Group("q", (("v", 30.0, 94.0),), (0, 1), "sparse")
    assert sampling.alone(sampling.Clip("q", "v", 30.0, None), 64.0).answer is None
