import numpy as np
import pytest

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.metrics.grounding import best_iou
from revision_jax.search.clip_baseline import BEST_FRAMES, Case, ClipRetrieval, choose_variant
from revision_jax.search.sentences import Sentences

D = 8


def _video(events, frames=300, seed=0):
    """Frames of noise; each (query, start, end) adds that query's direction."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 0.3, (frames, D)).astype(np.float32)
    for query, start, end in events:
        features[start:end, query] += 2.0
    return features


def _slow(similarity, length, best):
    """Score and centre of every stretch, by sorting."""
    rows = []
    for t in range(len(similarity) - length + 1):
        stretch = similarity[t : t + length]
        if best:
            top = np.argsort(-stretch, kind="stable")[:best]
            rows.append((t + top.mean() + 0.5, stretch[top].mean()))
        else:
            rows.append((t + length / 2, stretch.mean()))
    return np.array(rows)


@pytest.mark.parametrize("variant", BEST_FRAMES)
def test_best_moment_equals_brute_force(variant):
    features, queries = _video([(0, 40, 52), (1, 200, 212)]), np.eye(2, D, dtype=np.float32)
    fps, length = 2.0, 8.0
    video, sentences = VideoFeatures(features, 150.0, fps), Sentences(["a", "b"], similar=queries)
    results = ClipRetrieval(variant, length).search(video, sentences)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for query, result in enumerate(results):
        rows = _slow(unit[:, query], int(length * fps), BEST_FRAMES[variant])
        centre, score = rows[np.argmax(rows[:, 1])]
        np.testing.assert_allclose(result.moments[0], [centre / fps - 4, centre / fps + 4, score], rtol=1e-4)
        assert (np.diff(result.moments[:, 2]) <= 0).all()
        start, end, _ = result.moments[0]
        assert start < (26, 106)[query] and end > (20, 100)[query]


def test_padding_is_never_retrieved_and_short_videos_work():
    features = _video([], frames=5)
    features[:] = -np.eye(1, D)  # padding, being zero, would be more alike than any frame
    video, sentences = VideoFeatures(features, 5.0, 1.0), Sentences(["a"], similar=np.eye(1, D))
    for variant in BEST_FRAMES:
        (result,) = ClipRetrieval(variant, 4.0).search(video, sentences)
        assert result.moments[:, 2].max() == pytest.approx(-1.0)
        assert result.moments[:, 1].max() <= 5.0
        (long,) = ClipRetrieval(variant, 60.0).search(video, sentences)
        assert len(long.moments) == 1
        assert long.moments[0, 1] <= 5.0


def test_variant_and_length_are_chosen_on_val():
    rng = np.random.default_rng(1)
    cases = []
    for seed in range(3):
        events = [(q, s, s + 16) for q, s in enumerate(rng.permutation(4) * 70 + 5)]
        video = VideoFeatures(_video(events, seed=seed), 300.0, 1.0)
        cases.append(Case(video, np.eye(5, D), [[(s, e)] for _, s, e in events] + [[]]))
    chosen = choose_variant(iter(cases))  # read once
    assert chosen.length_s in (12.0, 16.0, 24.0)
    found = chosen.search(cases[0].video, Sentences(["q"] * 5, similar=cases[0].queries))
    overlaps = [best_iou(r.moments[:1], truth)[0] for r, truth in zip(found, cases[0].truths) if truth]
    assert min(overlaps) > 0.3
    with pytest.raises(ValueError, match="no validation query is present"):
        choose_variant([Case(cases[0].video, np.eye(1, D), [[]])])


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="'median' does not exist"):
        ClipRetrieval("median", 8.0)
