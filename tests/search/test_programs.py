"""How many programs a test split of MAD's size needs: counted by shapes, without compiling one."""

import numpy as np
import pytest
from fake_search import EVENTS, Oracle, UpperOracle, VideoFeatures, make_searcher, make_settings, oracle_sentences

from revision_jax import config as configs
from revision_jax.hierarchy import Hierarchy
from revision_jax.search import clip_baseline
from revision_jax.search.packing import padding
from revision_jax.search.packing.packer import Request, array_shapes
from revision_jax.search.packing.shared import NOTHING
from revision_jax.search.settings import SearchSettings

FILMS, QUERIES = 112, 72_044  # of MAD's test split
MOST = 6  # programs a method


@pytest.fixture(scope="module")
def split():
    """(seconds, queries) of each film: from half an hour to three and a half, from some fifty to some thousand."""
    rng = np.random.default_rng(0)
    seconds = np.concatenate([np.linspace(1800, 12600, 60), np.clip(rng.normal(6700, 1500, FILMS - 60), 3600, 12600)])
    share = rng.lognormal(0, 0.6, FILMS)
    counts = np.maximum((QUERIES * share / share.sum()).astype(int), 65)
    return list(zip(np.round(seconds, 1), counts, strict=True))


@pytest.fixture(scope="module")
def searcher():
    """The search of MAD's preset, with models that are cheap to hold."""
    config = configs.load("configs/stage2.py:mad")
    hierarchy = Hierarchy(**{**config.hierarchy, "num_frames": 16, "levels": (12, 5)})
    return make_searcher(SearchSettings.of(config.search), hierarchy, dense=Oracle(), upper=UpperOracle())


def film(seconds: float) -> VideoFeatures:
    fps = configs.load("configs/stage2.py:mad").data.fps
    return VideoFeatures(np.zeros((round(seconds * fps), EVENTS), np.float16), float(seconds), fps)


@pytest.mark.parametrize("depth, policy", [
    (0, "top_down"), (1, "top_down"), (3, "top_down"), (1, "retrieve_then_ground"),
])  # fmt: skip
def test_a_method_needs_at_most_six_programs(split, searcher, depth, policy):
    most = oracle_sentences([f"event {i % EVENTS}" for i in range(max(count for _, count in split))])
    searcher = searcher.fitted_to(most.texts)
    shapes = set()
    for seconds, count in split:
        parts = searcher.packed(film(seconds), most.part(slice(int(count))), depth=depth, policy=policy)
        shapes |= {part.shapes for part in parts}
    assert len(shapes) <= MOST, len(shapes)


def test_the_clip_baseline_needs_at_most_six(split, monkeypatch):
    shapes, most = set(), oracle_sentences([f"event {i % EVENTS}" for i in range(400)])

    def record(kept, features, queries, timing):
        shapes.add((kept, *array_shapes((features, queries, timing))))
        return np.full((len(queries), kept.top_k, 3), -np.inf)

    monkeypatch.setattr(clip_baseline, "_retrieve", record)
    baseline = clip_baseline.ClipRetrieval("max_frame", 8.0)
    for seconds, count in split:
        some = most.part(slice(int(count)))
        assert len(baseline.search(film(seconds), some)) == len(some)
    assert len(shapes) <= MOST, len(shapes)


@pytest.mark.parametrize("depth, changes", [(3, {}), (1, {"sampling": 1.0})])
def test_queries_asked_in_parts_are_answered_as_if_asked_together(depth, changes, monkeypatch):
    rng = np.random.default_rng(0)
    video = VideoFeatures(rng.normal(-2.5, 1, (200, EVENTS)).astype(np.float16), 200.0, 1.0)
    sentences = oracle_sentences([f"event {i % EVENTS}" for i in range(70)])
    hierarchy = Hierarchy(16.0, 16, 0.5, 0.25, levels=(12, 5))

    def search():
        settings = make_settings(keep=(0.7, 0.4), **changes)
        searcher = make_searcher(settings, hierarchy, dense=Oracle(), upper=UpperOracle())
        request = Request(video, searcher.windows(video, 3), sentences)
        shared = searcher.share(request, searcher.plan(3, "bottom_up")) if depth > 1 else NOTHING
        return searcher.search(video, sentences, depth=depth, shared=shared)

    together = search()
    monkeypatch.setattr(padding, "QUERY_CHUNK", 64)
    searched = search()
    for one, other in zip(together.results, searched.results, strict=True):
        np.testing.assert_array_equal(one.moments, other.moments)
        assert (one.sentence, one.windows, one.tokens) == (other.sentence, other.windows, other.tokens)
        for a, b in zip(one.sent, other.sent, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(together.answers, searched.answers, strict=True):
        windows = min(a.shape[1], b.shape[1])
        # Programs of other sizes may round otherwise in the last place.
        np.testing.assert_allclose(a[:70, :windows], b[:70, :windows], rtol=1e-6)
    assert searched.cost.pairs == together.cost.pairs and searched.cost.video_s == together.cost.video_s == 200.0
    assert any(len(result.moments) for result in together.results)
