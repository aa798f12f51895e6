"""CLIP's similarity of answers: the spans' mean cosine, by hand, and what it does to confidences and to their order."""

import jax.numpy as jnp
import numpy as np
import pytest
from fake_search import F, UpperOracle, make_searcher, make_settings, oracle_sentences, oracle_video

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.levels.similarity import span_similarity
from revision_jax.search.sentences import Sentences

HIERARCHY = Hierarchy(32.0, F, 0.5, 0.5, levels=(12, 4))


def test_span_similarity_is_the_mean_cosine_of_the_span():
    rng = np.random.default_rng(0)
    features, queries = rng.normal(size=(40, 5)).astype(np.float16), rng.normal(size=(2, 5)).astype(np.float32)
    frames = rng.integers(40, size=(3, 4, 8)).astype(np.int32)  # 3 blocks of 4 windows of 8 frames
    first = rng.integers(8, size=(2, 12, 2))
    spans = np.stack([first, rng.integers(first, 8)], axis=-1).astype(np.int32)
    spans[0, 0] = -1
    found = span_similarity(jnp.asarray(features), jnp.asarray(frames), jnp.asarray(spans), jnp.asarray(queries))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    cosine = unit(queries) @ unit(features.astype(np.float32)).T  # [Q, frames]
    assert found.shape == (2, 12, 2) and (found[0, 0] == 0).all()
    for q, w, k in np.ndindex(2, 12, 2):
        start, end = spans[q, w, k]
        if start >= 0:
            shown = frames.reshape(12, 8)[w, start : max(end, start + 1)]
            assert found[q, w, k] == pytest.approx(cosine[q, shown].mean(), abs=1e-5)


@pytest.mark.parametrize("depth, policy", [(1, "top_down"), (1, "retrieve_then_ground"), (3, "fused")])
def test_what_is_like_the_sentence_is_surer(depth, policy):
    """The model is surer of the first event, but another channel is as loud there."""
    video = oracle_video(640.0, 2.0, [(0, 100, 110, 3.0), (0, 500, 510, 2.0), (1, 100, 110, 6.0)])

    def search(similarity):
        settings = make_settings(keep=(1.0, 1.0), similarity=similarity)
        searcher = make_searcher(settings, HIERARCHY, upper=UpperOracle())
        found = searcher.search(video, oracle_sentences(["event 0"]), depth=depth, policy=policy)
        return found.results[0].moments

    plain, alike = search(0.0), search(2.0)
    assert plain[0, 0] < 110 and alike[0, 0] > 490
    confidence = {tuple(row[:2]): row[2] for row in plain}
    known = [row for row in alike if tuple(row[:2]) in confidence]
    assert {row[0] > 490 for row in known} == {True, False}
    for start, end, sure in known:
        cosine = 1.0 if start > 490 else 1 / np.sqrt(5)
        assert sure == pytest.approx(confidence[start, end] * np.exp(2.0 * (cosine - 1.0)), rel=0.05)


def test_it_needs_the_sentences_features():
    searcher = make_searcher(make_settings(similarity=1.0), HIERARCHY)
    with pytest.raises(ValueError, match=r"search\.similarity and policies that compare CLIP features need those"):
        searcher.search(oracle_video(16.0, 1.0, [(0, 3, 5, 3.0)]), Sentences(["event 0"]), depth=1)


@pytest.mark.parametrize("changes", [{"similarity": 5.0}, {"alone": 0.5}])
def test_the_released_ranking_has_entropy_and_a_cosine_alone(changes):
    with pytest.raises(ValueError, match=r"expected search\.similarity=0 and search\.alone=1: the released ranking"):
        make_settings(ranking="cosine", **changes)
