import numpy as np
from fake_search import EVENTS, F, UpperOracle, make_searcher, make_settings, oracle_sentences

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.retrieval import clip_windows, score_clips

HIERARCHY = Hierarchy(32.0, F, 0.5, 0.5, levels=(12, 4))


def test_the_clip_that_shows_the_event_comes_first():
    rng = np.random.default_rng(0)
    clips = [np.zeros((int(n), EVENTS), np.float16) for n in rng.integers(12, 60, 30)]
    shown, faint, queries = [3, 29, 11], [7, 8, 9], ["event 0", "event 1", "event 4"]
    for query, best, second in zip((0, 1, 4), shown, faint):
        clips[best][4:9, query] = 5.0
        clips[second][2:4, query] = 2.0
    upper = make_searcher(make_settings(), HIERARCHY, upper=UpperOracle())
    alone = make_searcher(make_settings(window_block=8), HIERARCHY)
    for searcher in (upper, alone):
        scores, _ = score_clips(searcher, clips, oracle_sentences(queries), depth=searcher.max_depth)
        order = np.argsort(-scores, axis=1)
        assert order[:, 0].tolist() == shown and order[:, 1].tolist() == faint
    # Without upper levels nothing parts the other 28 clips, and nothing pretends to.
    assert all(len(set(np.delete(row, [a, b]))) == 1 for row, a, b in zip(scores, shown, faint))


def test_a_clip_gives_its_own_frames_only():
    windows = clip_windows([3, 1, 40], 32.0, F)
    assert windows.dense_frames.shape == (3, F)
    assert windows.dense_frames[0].min() == 0 and windows.dense_frames[0].max() == 2
    assert set(windows.dense_frames[1]) == {3}
    assert windows.dense_frames[2].min() == 4 and windows.dense_frames[2].max() == 43
    np.testing.assert_array_equal(windows.dense, [[0, 32], [32, 64], [64, 96]])
