"""The memory counted before a search against what the compiler reports."""

import dataclasses

import numpy as np
import pytest
from fake_search import GRAMMAR, PROMPTS, F, Oracle, oracle_video, tiny_grounder

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.memory import GIB, fit, smaller
from revision_jax.search.searcher import Searcher
from revision_jax.search.settings import SearchSettings

HIERARCHY = Hierarchy(16.0, F, 0.5, 0.25, levels=(12, 5))
SETTINGS = SearchSettings(query_batch=2, window_block=16, decode_block=4, keep=(0.7, 0.4))


@pytest.fixture(scope="module")
def grounders():
    return tiny_grounder(), tiny_grounder(seed=1, sparse=True)


def _ask(searcher, method, seconds=400, queries=5, **options):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(seconds, 6)).astype(np.float16)
    tokens = rng.normal(size=(queries, 3, 6)).astype(np.float32), np.ones((queries, 3), bool)
    sentences = [f"event {i}" for i in range(queries)]
    return getattr(searcher, method)(features, 1.0, float(seconds), sentences, query_tokens=tokens, **options)


@pytest.mark.parametrize("changes, options", [
    ({}, {"depth": 1}), ({"window_block": 64, "query_batch": 8, "decode_block": 32}, {"depth": 1}),
    ({"beam": 4}, {"depth": 1}), ({"window_block": 64, "query_batch": 8}, {"depth": 3}),
])  # fmt: skip
def test_the_count_covers_what_the_compiler_reports(grounders, changes, options):
    searcher = Searcher(
        grounders[0], PROMPTS, GRAMMAR, HIERARCHY, dataclasses.replace(SETTINGS, **changes), upper=grounders[1]
    )
    lowered, need = _ask(searcher, "lower", **options)
    used = lowered.compile().memory_analysis()
    actual = used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes
    assert actual <= need.total <= 6 * actual, (actual, need)


def test_a_budget_makes_blocks_smaller_and_changes_no_answer(grounders):
    free = Searcher(grounders[0], PROMPTS, GRAMMAR, HIERARCHY, SETTINGS)
    _, need = _ask(free, "lower", depth=1)
    tight = Searcher(grounders[0], PROMPTS, GRAMMAR, HIERARCHY, SETTINGS, memory_gib=0.8 * need.total / GIB)
    _, less = _ask(tight, "lower", depth=1)
    assert less.total <= 0.8 * need.total and less.work < need.work
    for a, b in zip(_ask(free, "search", depth=1), _ask(tight, "search", depth=1)):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-4)


def test_a_budget_that_nothing_fits_is_refused_before_the_search(grounders):
    searcher = Searcher(grounders[0], PROMPTS, GRAMMAR, HIERARCHY, SETTINGS, memory_gib=1e-5)
    with pytest.raises(
        MemoryError, match=r"needs at least 0\.0\d GiB .*; the budget is 0\.00 GiB\. Raise --memory_gib"
    ):
        _ask(searcher, "search", depth=1)
    assert searcher.compile_count == 0


def test_blocks_shrink_in_turn_and_stay_multiples_of_the_devices():
    sizes = [
        (s.window_block, s.query_batch, s.decode_block)
        for s in smaller(dataclasses.replace(SETTINGS, window_block=24), 8)
    ]
    assert sizes == [(24, 2, 4), (16, 2, 4), (8, 2, 4), (8, 1, 4), (8, 1, 2), (8, 1, 1)]
    with pytest.raises(MemoryError):
        fit(SETTINGS, 1, 10.0, lambda settings: type("Need", (), {"total": settings.window_block * 100})())


def test_a_stand_in_without_sizes_is_not_counted():
    searcher = Searcher(Oracle(), PROMPTS, GRAMMAR, Hierarchy(32.0, F), SETTINGS, memory_gib=1.0)
    assert searcher.search(oracle_video(100, 2.0, []), 2.0, 100.0, ["event 0"])[0].moments.shape == (0, 3)
