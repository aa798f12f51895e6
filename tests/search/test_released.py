import numpy as np
import pytest
from fake_search import F, make_searcher, make_settings, oracle_video, tiny_grounder

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.hierarchy import Hierarchy
from revision_jax.search.released import cosine_order, released_windows
from revision_jax.search.sentences import Sentences

HIERARCHY = Hierarchy(16.0, F)


@pytest.mark.parametrize("frames, expected", [
    (625, [[0, 624], [312, 624]]), (1000, [[0, 625], [312, 937], [625, 999]]), (100, [[0, 99]]), (3, [[0, 2]]),
    (1, [[0, 1]]),
])  # fmt: skip
def test_windows_by_hand(frames, expected):
    # 125 s at 5 frames a second: a clip of 625 frames, a step of 312, ceil(N / 312) - 1 windows, at least one.
    np.testing.assert_allclose(released_windows(125.0, 5.0, frames), np.array(expected) / 5)


def test_cosine_order_equals_the_formula():
    rng = np.random.default_rng(0)
    features, query = rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    moments = np.array([[0.0, 10.0, 0.5], [20.0, 24.0, 2.0], [30.0, 31.0, 1.0], [58.0, 60.0, 4.0]])
    cosines = []
    for start, end, _ in moments:
        span = features[int(start) : int(end)]
        span = span / np.sqrt((span**2).sum(axis=0))
        cosines.append(sum(sorted((span * query).sum(axis=1))[-3:]))
    entropies = 1 / moments[:, 2]
    score = np.array(cosines) / np.abs(cosines).max() - entropies / entropies.max()
    assert cosine_order(features, 1.0, moments, query).tolist() == np.argsort(-score).tolist()
    assert cosine_order(features, 1.0, np.zeros((0, 3)), query).tolist() == []


def test_the_settings_act_in_a_search():
    features, grounder = np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32), tiny_grounder()
    sentences, similar = ["event 1", "event 3"], np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    video, asked = VideoFeatures(features, 96.0, 1.0), Sentences(sentences, similar=similar)
    search = lambda **changes: (
        make_searcher(make_settings(query_batch=1, nms_iou=1.0, **changes), HIERARCHY, dense=grounder)
        .search(video, asked)
        .results
    )
    plain, ranked, sampled, again = search(), search(ranking="cosine"), search(sampling=3.0), search(sampling=3.0)
    for a, b, c, d in zip(plain, ranked, sampled, again):
        assert {tuple(m) for m in a.moments} == {tuple(m) for m in b.moments}
        np.testing.assert_array_equal(c.moments, d.moments)  # a pair's draws depend on the pair alone
        order = cosine_order(features, 1.0, a.moments, similar[plain.index(a)])
        np.testing.assert_array_equal(a.moments[order], b.moments)
    assert any(not np.array_equal(a.moments, c.moments) for a, c in zip(plain, sampled))
    fewer = search(windows="released")
    assert [result.windows for result in (*plain, *fewer)] == [11, 11, 11, 11]  # ceil(96 / 8) - 1


def test_the_last_frame_alone_may_not_count():
    # The event shows in the last of the 16 frames of the window alone.
    video = oracle_video(32, 2.0, [(0, 31.5, 32.0, 3.0)])
    hierarchy = Hierarchy(32.0, F)
    kept, dropped = (
        make_searcher(make_settings(drop_last_frame=drop), hierarchy)
        .search(video, Sentences(["event 0"]))
        .results[0]
        .moments
        for drop in (False, True)
    )
    assert len(kept) == 1 and len(dropped) == 0
