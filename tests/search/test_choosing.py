"""Similarity as a policy, alone and with upper levels; numbers of windows instead of shares."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from fake_search import F, UpperOracle, make_searcher, make_settings, oracle_sentences, oracle_video

from revision_jax.hierarchy import Hierarchy
from revision_jax.parallel.programs import forget
from revision_jax.search.levels.similarity import Similarity, fuse_ranks, keep_covering, window_similarity
from revision_jax.search.policy import kept
from revision_jax.search.sentences import Sentences

HIERARCHY = Hierarchy(32.0, F, 0.5, 0.5, levels=(12, 4))
SHOWN = [(0, 100.0, 110.0, 3.0), (1, 500.0, 512.0, 4.0)]
SENTENCES, DURATION = oracle_sentences(["event 0", "a longer event 1"]), 640.0


def _search(policy, duration=DURATION, depth=1, keep=(0.5, 4)):
    searcher = make_searcher(make_settings(keep=keep), HIERARCHY, upper=UpperOracle())
    searched = searcher.search(oracle_video(duration, 2.0, SHOWN), SENTENCES, depth=depth, policy=policy)
    return searched.results, searched.cost


def test_similar_windows_are_asked_and_no_others():
    results, cost = _search("retrieve_then_ground")
    everything, _ = _search("top_down")
    for result, full, (_, start, end, _) in zip(results, everything, SHOWN):
        assert result.windows == 4 == len(result.sent[0]) and full.windows == 39
        assert any(a < end and b > start for a, b in result.sent[0])
        np.testing.assert_array_equal(result.moments[0], full.moments[0])
    assert (cost.pairs, cost.all_pairs, cost.levels) == (8, 78, ())


def test_fused_finds_what_either_part_finds():
    # The upper oracle sees event 0 only where it is first in a window's query channel; similarity sees both alike.
    results, cost = _search("fused", depth=3)
    assert [result.windows for result in results] == [4, 4] and len(cost.levels) == 2
    for result, (_, start, end, _) in zip(results, SHOWN):
        assert len(result.sent) == 2 and any(a < end and b > start for a, b in result.sent[-1])
        assert result.moments[0, 0] < end and result.moments[0, 1] > start


def test_a_number_of_windows_does_not_grow_with_the_video():
    costs = [_search("top_down", duration, depth=3, keep=(8, 4))[1] for duration in (320.0, 2560.0)]
    assert [cost.pairs for cost in costs] == [8, 8]
    assert [level.shown for level in costs[1].levels] == [2 * 159, 2 * 8]
    assert costs[0].tokens_prefilled <= costs[1].tokens_prefilled <= 2 * costs[0].tokens_prefilled
    assert [kept(0.5, 11), kept(1, 11), kept(8, 11), kept(8, 5)] == [6, 11, 8, 5]


def test_one_program_serves_all_shares_of_a_policy():
    forget()
    """Numbers of windows are data; so are depth and policy as settings have them."""
    searcher, video = make_searcher(make_settings(), HIERARCHY, upper=UpperOracle()), oracle_video(640, 2.0, SHOWN)
    for keep, shortlist in (((1.0, 0.5), 0.6), ((12, 4), 0.9)):
        other = searcher.choosing(depth=3, policy="cascade", keep=keep, shortlist=shortlist)
        found = other.search(video, SENTENCES)
        alone = make_searcher(make_settings(keep=keep, shortlist=shortlist), HIERARCHY, upper=UpperOracle())
        expected = alone.search(video, SENTENCES, depth=3, policy="cascade")
        assert found.cost.pairs == expected.cost.pairs == 2 * kept(keep[-1], 39)
        assert [level.shown for level in found.cost.levels] == [level.shown for level in expected.cost.levels]
        for one, same in zip(found.results, expected.results, strict=True):
            np.testing.assert_array_equal(one.moments, same.moments)
        assert other.settings.keep == keep and other.settings.depth == 3
    assert searcher.compile_count == len(searcher.shapes) == 1
    with pytest.raises(ValueError, match=r"found \['beam'\]; expected some of"):
        searcher.choosing(beam=2)
    with pytest.raises(ValueError, match=r"search.keep is \(0.0,\)"):
        searcher.choosing(keep=(0.0,))


def test_what_a_policy_needs_is_asked_for():
    searcher = make_searcher(make_settings(), HIERARCHY, upper=UpperOracle())
    with pytest.raises(ValueError, match="policies that compare CLIP features need those of"):
        searcher.search(oracle_video(60, 2.0, []), Sentences(["event 0"]), policy="retrieve_then_ground")
    with pytest.raises(ValueError, match=r"search.keep is \(1.5,\); expected shares of the windows"):
        make_settings(keep=(1.5,))


def test_rank_fusion_by_hand():
    a, b = jnp.array([[3.0, 2.0, 1.0, -jnp.inf]]), jnp.array([[1.0, 3.0, 2.0, 9.0]])
    expected = [1 / 60 + 1 / 63, 1 / 61 + 1 / 61, 1 / 62 + 1 / 62, 1 / 64 + 1 / 60]
    np.testing.assert_allclose(fuse_ranks(a, b)[0], expected, rtol=1e-6)


def test_similarity_equals_a_loop():
    rng = np.random.default_rng(0)
    features, queries = rng.normal(size=(50, 8)).astype(np.float16), rng.normal(size=(3, 8)).astype(np.float32)
    frames = rng.integers(0, 50, (2, 4, 6)).astype(np.int32)
    found = window_similarity(jnp.asarray(features), jnp.asarray(frames), jnp.asarray(queries))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    for q in range(3):
        for i, rows in enumerate(frames.reshape(8, 6)):
            cosines = unit(features[rows].astype(np.float32)) @ unit(queries[q])
            assert found.score[q, i] == pytest.approx(np.sort(cosines)[-3:].mean(), abs=1e-5)
            assert found.peak[q, i] == rows[np.argmax(cosines)]
            assert (found.first[i], found.last[i]) == (rows[0], rows[-1])


def test_windows_that_cover_are_kept():
    """Windows of 4 frames, 2 apart: the second best shows the same frame as the best, and falls back by 1.5 places."""
    first = jnp.arange(0, 10, 2)
    similarity = lambda *peak: Similarity(None, jnp.array([peak]), first, first + 3)
    scores = jnp.array([[1.0, 5.0, 4.0, 3.0, 2.0]])

    def order(similarity, scores=scores):
        """The windows in the order in which they are chosen."""
        kept = [set(np.flatnonzero(keep_covering(scores, similarity, count)[0])) for count in range(6)]
        return [(after - before).pop() for before, after in itertools.pairwise(kept) if after > before]

    assert order(similarity(1, 5, 5, 8, 11)) == [1, 3, 2, 4, 0]  # frame 5 lies in windows 1 and 2
    # Where every window shows a moment of its own, or all the same one, the best come first.
    assert order(similarity(0, 3, 6, 9, 11)) == order(similarity(5, 5, 5, 5, 5)) == [1, 2, 3, 4, 0]
    # What cannot be chosen is not chosen, however many are asked for; and then nothing else is lost.
    assert order(similarity(1, 5, 5, 8, 11), scores.at[0, 1].set(-jnp.inf)) == [2, 3, 4, 0]
    assert order(similarity(1, 5, 5, 8, 11), jnp.full((1, 5), -jnp.inf)) == []


def test_similar_windows_do_not_overlap_where_another_one_shows_something():
    """Each event lies in two windows, which overlap; of four windows that are asked, one shows it."""
    for policy, depth in (("retrieve_then_ground", 1), ("fused", 3), ("cascade", 3)):
        results, _ = _search(policy, depth=depth)
        everything, _ = _search("top_down")
        for result, full, (_, start, end, _) in zip(results, everything, SHOWN):
            assert sum(a <= start and end <= b for a, b in result.sent[-1]) == 1
            np.testing.assert_array_equal(result.moments[0, :2], full.moments[0, :2])
            assert (result.moments[0, 2] == full.moments[0, 2]) == (depth == 1)  # upper levels rescale confidences


@pytest.mark.parametrize("policy, depth", [("retrieve_then_ground", 1), ("fused", 3), ("top_down", 3), ("cascade", 2)])
def test_no_fewer_than_the_least_windows_are_asked_where_there_are_so_many(policy, depth):
    searcher = make_searcher(make_settings(keep=(0.1, 0.1), least=12, shortlist=0.2), HIERARCHY, upper=UpperOracle())
    for duration, windows in ((100.0, 6), (640.0, 12), (2560.0, 16)):
        found = searcher.search(oracle_video(duration, 2.0, SHOWN), SENTENCES, depth=depth, policy=policy)
        assert [result.windows for result in found.results] == [windows] * 2, duration
    few = searcher.choosing(least=1).search(oracle_video(100.0, 2.0, SHOWN), SENTENCES, depth=depth, policy=policy)
    assert [result.windows for result in few.results] == [1, 1]


@pytest.mark.parametrize("policy, depth", [("retrieve_then_ground", 1), ("fused", 3), ("top_down", 3)])
def test_windows_that_verify_are_asked_last_within_the_same_number(policy, depth):
    def search(verify, keep=(1.0, 8)):
        forget()
        searcher = make_searcher(make_settings(keep=keep, verify=verify), HIERARCHY, upper=UpperOracle())
        searched = searcher.search(oracle_video(DURATION, 2.0, SHOWN), SENTENCES, depth=depth, policy=policy)
        return searched.results, searched.cost

    (plain, cost), (verified, more) = search(0.0), search(0.25)
    assert cost.pairs == more.pairs == 16 and more.windows <= 16
    for one, other, (_, start, end, _) in zip(plain, verified, SHOWN, strict=True):
        assert len(one.sent[-1]) == len(other.sent[-1]) == 8
        assert sum(a <= start and b >= end for a, b in other.sent[-1]) == 2
        np.testing.assert_array_equal(one.moments[0], other.moments[0])
    (everything, whole), (same, again) = search(0.0, (1.0, 1.0)), search(0.25, (1.0, 1.0))
    assert whole == dataclasses.replace(again, seconds=whole.seconds)  # nothing is left to verify by
    for one, other in zip(everything, same, strict=True):
        np.testing.assert_array_equal(one.moments, other.moments)
