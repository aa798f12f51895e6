"""Searches through upper levels: against a model without caches, and with a planted upper model."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_search import (
    PROMPTS,
    DigitPrompts,
    F,
    UpperOracle,
    make_searcher,
    make_settings,
    oracle_sentences,
    oracle_video,
    tiny_grounder,
)

from revision_jax.hierarchy import Hierarchy
from revision_jax.parallel.programs import forget
from revision_jax.prompts import AnswerGrammar, group_answers
from revision_jax.search.answers.asking import Answerer, Asking, Pairs, encode_context
from revision_jax.search.answers.confidence import token_entropy
from revision_jax.search.answers.decoding import Grammar
from revision_jax.search.levels import upper as levels
from revision_jax.search.levels.selection import NumberTree
from revision_jax.search.levels.upper import Chunk, Shown, UpperAsking, UpperLevel, ask_groups
from revision_jax.search.packing.packer import Request
from revision_jax.search.packing.shared import NOTHING, Shared
from revision_jax.search.packing.windows import VideoWindows
from revision_jax.search.sentences import Sentences

HIERARCHY = Hierarchy(32.0, F, 0.5, 0.5, levels=(12, 4))
SETTINGS = make_settings(keep=(0.5, 0.1))
EVENTS = [(0, 100.0, 110.0, 3.0), (0, 300.0, 310.0, 6.0), (1, 500.0, 512.0, 4.0), (2, 40.0, 50.0, 5.0)]
SENTENCES = ["event 0", "a longer event 1", "event 2", "event 5"]
DURATION = 640.0


def _searcher(**changes):
    return make_searcher(dataclasses.replace(SETTINGS, **changes), HIERARCHY, upper=UpperOracle())


def _searched(searcher, sentences=SENTENCES, duration=DURATION, **options):
    return searcher.search(oracle_video(duration, 2.0, EVENTS), oracle_sentences(sentences), **options)


def _request(searcher):
    video = oracle_video(DURATION, 2.0, EVENTS)
    return Request(video, searcher.windows(video, 3), oracle_sentences(SENTENCES))


def _search(searcher, **options):
    return _searched(searcher, **options).results


@pytest.fixture(scope="module")
def searcher():
    return _searcher()


@pytest.mark.parametrize("prompts", [PROMPTS, DigitPrompts()])
def test_groups_equal_a_model_without_caches(prompts):
    size, asked = 12, 2
    answers = group_answers(size)
    grammar = AnswerGrammar.compile(prompts, answers)
    level = UpperLevel(size, NumberTree.of(grammar), grammar.max_length)
    upper, rng = tiny_grounder(sparse=True), np.random.default_rng(0)
    groups = jnp.asarray(rng.normal(size=(asked, size, 32)).astype(np.float32))
    texts = [prompts.encode_question(sentence) for sentence in ("event 1", "a long event 4")]
    tokens = np.zeros((asked, 8), np.int32)
    for row, text in zip(tokens, texts):
        row[: len(text)] = text
    context = upper.embed_group(jnp.asarray(prompts.prefix), groups)
    answerer = Answerer(upper.llm, Grammar.of(grammar), Asking(grammar.max_length, 1, 2))
    lengths = jnp.array([[len(text)] for text in texts])
    pairs = Pairs(jnp.asarray(tokens)[:, None], lengths, jnp.ones((asked, 1), bool))
    cache = encode_context(upper.llm, context, jnp.zeros(0, jnp.int32))
    found, numbers = ask_groups(answerer, level, cache, pairs)
    logits_of = jax.jit(upper.text_logits)

    def behind(row, said):
        padded = np.zeros((1, 20), np.int32)
        padded[0, : len(texts[row]) + len(said)] = [*texts[row], *said]
        return np.asarray(logits_of(context[row : row + 1], padded))[0, len(texts[row]) + len(said)]

    for row in range(asked):
        # Greedy, the whole sequence anew for every token.
        state, said, entropies = 0, (), []
        while grammar.answer[state, 0] == -2:
            logits, allowed = behind(row, said), grammar.tokens[state][grammar.tokens[state] >= 0]
            entropies.append(float(token_entropy(jnp.asarray(logits))))
            choice = int(np.argmax(logits[allowed]))
            state, said = grammar.next[state, choice], (*said, int(allowed[choice]))
        np.testing.assert_array_equal(grammar.answer[found.state[row]], grammar.answer[state])
        np.testing.assert_allclose(found.entropies[row, : len(entropies)], entropies, atol=1e-5)
        assert found.length[row] == len(entropies)
        expected = _first_numbers(grammar, functools.partial(behind, row), size)
        np.testing.assert_allclose(numbers[row], expected, rtol=1e-3, atol=1e-6)


def _first_numbers(grammar, behind, size):
    """Every first number's probability, along the grammar's own states."""
    total, below = np.zeros(size), {}

    def numbers(state):
        if state not in below:
            edges = grammar.next[state][grammar.tokens[state] >= 0]
            final = grammar.final[state]
            below[state] = {int(grammar.answer[state, 0])} if final else set().union(*map(numbers, edges))
        return below[state]

    def walk(state, said, p):
        if len(numbers(state)) == 1:
            total[next(iter(numbers(state)))] += p
            return
        allowed = grammar.tokens[state][grammar.tokens[state] >= 0]
        weights = jax.nn.softmax(behind(said)[allowed])
        for token, following, weight in zip(allowed, grammar.next[state], weights):
            walk(following, (*said, int(token)), p * float(weight))

    walk(0, (), 1.0)
    return total


class Echo:
    """Stands in for a model: a window's score is its number plus the mean of its group."""

    llm = None

    @staticmethod
    def embed_group(prefix, sparse):
        return sparse[..., 0]


@pytest.mark.parametrize("readings, count", [(1, 10), (1, 12), (2, 4), (2, 3), (2, 5), (2, 14), (3, 14), (8, 7)])
def test_a_window_scores_the_mean_of_what_its_groups_say(monkeypatch, readings, count):
    """Against groups laid out by hand: every stride one, the last moved left; a repeated window counts once."""
    size, level = 4, UpperLevel(4, None, 3, readings)
    asked = SimpleNamespace(state=jnp.zeros(2, int), entropies=0, log_likelihood=0, length=jnp.full(2, 2))
    told = lambda answerer, level, cache, pairs: (asked, cache + cache.mean(axis=1, keepdims=True))
    monkeypatch.setattr(levels, "encode_context", lambda llm, context, head: context)
    monkeypatch.setattr(levels, "ask_groups", told)
    monkeypatch.setattr(levels, "confidence", lambda *_: None)
    monkeypatch.setattr(levels, "window_scores", lambda numbers, length, sure: numbers)
    shown = np.random.default_rng(count).permutation(np.arange(16) < count)[None]
    sparse = np.random.default_rng(1).normal(size=(1, 16, 1)).astype(np.float32)
    chunk = Chunk(None, None, jnp.zeros((1, 1), int), jnp.ones(1, int), jnp.asarray(sparse))
    grammar, asking = SimpleNamespace(answer=jnp.zeros((1, 2), int)), UpperAsking((level,), None, 1, 2, 1)
    scores, decoded = levels.ask_level(Echo, grammar, chunk, Shown(jnp.asarray(shown), count), asking, 0)
    values, said = sparse[0, shown[0], 0], [[] for _ in range(count)]
    stride = max(size // readings, 1)
    starts = [min(start, max(count - size, 0)) for start in range(0, max(count - size, 0) + stride, stride)]
    for start in starts:
        members = [min(start + i, count - 1) for i in range(size)]
        for window in set(members):
            said[window].append(values[window] + values[members].mean())
    np.testing.assert_allclose(scores[0, shown[0]], [np.mean(one) for one in said], rtol=1e-5)
    assert np.all(np.isneginf(scores[0, ~shown[0]])) and decoded[0] == 2 * len(starts) == 2 * level.groups(count)
    assert readings > 1 or len(starts) == -(-count // size)


def test_a_planted_model_sends_down_what_it_was_shown(searcher):
    for depth in (2, 3):
        results = _search(searcher, depth=depth)
        windows = HIERARCHY.windows(DURATION)
        for result, channel in zip(results, (0, 1, 2)):
            *uppers, dense = result.sent
            assert len(uppers) == depth - 2 and len(dense) == result.windows == 4  # a tenth of 39 windows
            moments = [(start, end) for event, start, end, _ in EVENTS if event == channel]
            showing = [w for w in windows if any(w[0] < end and w[1] > start for start, end in moments)]
            sent = {tuple(w) for w in dense}
            assert {tuple(w) for w in showing} <= sent if len(showing) <= 4 else sent <= {tuple(w) for w in showing}
            assert all(len(level) == 20 for level in uppers)  # half of them


def test_results_of_what_was_sent_down_are_those_of_depth_1(searcher):
    everything = _search(searcher, depth=1)
    for depth in (2, 3):
        for full, result in zip(everything, _search(searcher, depth=depth)):
            if full.moments.size:
                np.testing.assert_array_equal(result.moments[0], full.moments[0])
    assert [len(result.moments) for result in everything][3] == 0


def test_where_every_window_survives_nothing_changes(searcher):
    everything = _search(searcher, depth=1)
    wide = _searcher(keep=(1.0, 1.0))
    for result, full in zip(_search(wide, depth=3), everything):
        np.testing.assert_array_equal(result.moments, full.moments)
        assert result.windows == full.windows and len(result.sent[-1]) == full.windows


def test_bottom_up_asks_all_and_rescales(searcher):
    full, rescaled = _search(searcher, depth=1), _search(searcher, depth=3, policy="bottom_up")
    for a, b in zip(full, rescaled):
        assert a.windows == b.windows == 39
        assert {tuple(m) for m in a.moments[:, :2]} == {tuple(m) for m in b.moments[:, :2]}
    assert not np.allclose(full[0].moments[0, 2], rescaled[0].moments[0, 2])
    plain = _search(_searcher(rescale=0.0), depth=2, policy="bottom_up")
    for a, b in zip(full, plain):
        np.testing.assert_array_equal(a.moments, b.moments)


def test_top_down_may_rank_as_bottom_up_does(searcher):
    chosen, rescaled = _search(searcher, depth=3), _search(searcher, depth=3, policy="top_down_rescaled")
    assert not np.allclose(chosen[0].moments[0, 2], rescaled[0].moments[0, 2])
    for a, b in zip(chosen, rescaled):
        np.testing.assert_array_equal(a.sent[-1], b.sent[-1])
        assert {tuple(m) for m in a.moments[:, :2]} == {tuple(m) for m in b.moments[:, :2]}
    wide = _searcher(keep=(1.0, 1.0))
    for a, b in zip(_search(wide, depth=3, policy="top_down_rescaled"), _search(wide, depth=3, policy="bottom_up")):
        np.testing.assert_array_equal(a.moments, b.moments)


def test_a_cascade_reads_a_shortlist_alone(searcher):
    """Its sparse vectors are those of the shortlist; of all windows it is `fused`."""
    for depth in (2, 3):
        whole = _searched(_searcher(shortlist=1.0), depth=depth, policy="cascade")
        expected = _searched(searcher, depth=depth, policy="fused")
        assert whole.cost.levels == expected.cost.levels and whole.cost.flops == expected.cost.flops
        for a, b in zip(expected.results, whole.results):
            np.testing.assert_array_equal(a.moments, b.moments)
    shared = searcher.share(_request(searcher), searcher.plan(3, "top_down"))
    short = _searcher(shortlist=0.25)
    found = _searched(short, depth=3, policy="cascade")
    assert [(level.windows, level.shown) for level in found.cost.levels] == [(4 * 10, 4 * 10)] * 2
    assert found.cost.flops < 0.5 * expected.cost.flops
    for result in found.results[:3]:  # the windows of the events are the most similar ones
        assert result.found[0, 0] < result.found[0, 1]
    other = _searched(short, depth=3, policy="cascade", shared=shared)
    for a, b in zip(found.results, other.results):
        np.testing.assert_array_equal(a.moments, b.moments)


def test_blocks_and_batches_do_not_change_the_answers(searcher):
    expected = _search(searcher, depth=3)
    for changes in ({"window_block": 4, "query_batch": 1}, {"window_block": 64, "query_batch": 4, "decode_block": 1}):
        for a, b in zip(expected, _search(_searcher(**changes), depth=3)):
            np.testing.assert_allclose(a.moments, b.moments, rtol=1e-5)
            np.testing.assert_array_equal(a.sent[-1], b.sent[-1])


SHARING = [
    {"depth": 1},
    {"depth": 2},
    {"depth": 2, "policy": "bottom_up"},
    {"depth": 3},
    {"depth": 3, "policy": "bottom_up"},
    {"depth": 3, "policy": "fused"},
]


def test_searches_share_what_they_have_in_common():
    """Whatever was searched before, a search finds the same, at the same cost but for its seconds."""
    maker, alone, shared = _searcher(verify=0.3), _searcher(verify=0.3, window_block=64, query_batch=3), NOTHING
    for options in SHARING:
        plan = maker.plan(options["depth"], options.get("policy", "top_down"))
        shared = maker.share(dataclasses.replace(_request(maker), shared=shared), plan)
        expected = _searched(alone, **options)
        # It cuts and fills up what the other made.
        _same(expected, _searched(alone, shared=shared, **options))
    assert set(shared.levels) == {level.size for level in maker.plan(3, "top_down").levels}
    made = maker.compile_count
    assert maker.share(dataclasses.replace(_request(maker), shared=shared), plan) == shared
    assert maker.compile_count == made


def _same(expected, found):
    for a, b in zip(expected.results, found.results):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-5)
        for one, other in zip(a.sent, b.sent, strict=True):
            np.testing.assert_array_equal(one, other)
    same = dataclasses.replace(found.cost, seconds=expected.cost.seconds)
    assert same == expected.cost


@pytest.mark.parametrize("changes", [{}, {"beam": 3}, {"sampling": 1.0}])
def test_a_search_takes_the_answers_of_the_windows_that_it_chooses(changes):
    """As if it had asked these alone, those that verify among them; it asks nothing itself, and knows no seconds."""
    maker = _searcher(verify=0.3, alone=0.5, **changes)
    plan = maker.plan(3, "top_down")
    request = dataclasses.replace(_request(maker), shared=maker.share(_request(maker), plan, parts=True))
    expected, found = (_searched(maker, depth=3, shared=shared) for shared in (NOTHING, request.shared))
    _same(expected, found)
    for a, b in zip(expected.answers, found.answers):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert found.cost.pairs < found.cost.all_pairs
    assert found.cost.seconds is None and (found.cost + expected.cost).seconds is None
    whole = maker.whole_of(request, plan)
    assert whole.dense is None and whole.vectors is request.shared.vectors


def test_many_searches_of_some_windows_share_all():
    maker = _searcher(shortlist=0.5)
    plan = maker.plan(3, "cascade")
    assert maker.share(_request(maker), plan) == NOTHING
    shared = maker.share(_request(maker), plan, parts=True)
    assert shared.vectors is not None and shared.dense is not None and not shared.levels
    expected, found = (_searched(maker, depth=3, policy="cascade", shared=one) for one in (NOTHING, shared))
    _same(expected, found)
    assert found.cost.seconds is None


def test_a_search_counts_the_seconds_of_what_it_uses():
    maker = _searcher()
    shared = maker.share(_request(maker), maker.plan(3, "bottom_up"))
    slow = lambda made, seconds: dataclasses.replace(made, seconds=seconds)
    coarse, fine = shared.levels
    levels = {coarse: slow(shared.levels[coarse], 2000.0), fine: slow(shared.levels[fine], 4000.0)}
    shared = Shared(slow(shared.vectors, 1000.0), levels, slow(shared.dense, 8000.0))

    def thousands(policy="top_down", **options):
        whole = maker.whole_of(
            dataclasses.replace(_request(maker), shared=shared), maker.plan(options["depth"], policy)
        )
        return _searched(maker, shared=whole, policy=policy, **options).cost.seconds // 1000

    assert thousands(depth=1) == 8
    assert thousands(depth=2) == 1 + 4
    assert thousands(depth=3) == 1 + 2  # its second level is not shown every window
    assert thousands(depth=3, policy="bottom_up") == 1 + 2 + 4 + 8


def test_what_is_shared_is_used_as_it_is():
    maker = _searcher()
    shared = maker.share(_request(maker), maker.plan(3, "bottom_up"))
    for name in ("vectors", "dense"):
        made = getattr(shared, name)
        turned = dataclasses.replace(made, parts=jax.tree.map(lambda x: x[::-1], made.parts))
        wrong = dataclasses.replace(shared, levels={}, **{name: turned})
        assert _differ(maker, shared, wrong)
    turned = {size: dataclasses.replace(made, parts=jax.tree.map(lambda x: x[::-1], made.parts))
              for size, made in shared.levels.items()}  # fmt: skip
    assert _differ(maker, shared, dataclasses.replace(shared, levels=turned))


def _differ(searcher, shared, wrong):
    pairs = zip(*(_search(searcher, depth=3, policy="bottom_up", shared=one) for one in (shared, wrong)))
    return any(len(a.moments) != len(b.moments) or (a.moments != b.moments).any() for a, b in pairs)


def test_what_takes_more_than_it_may_is_not_shared():
    maker = _searcher()
    plan = maker.plan(3, "bottom_up")
    assert maker.share(_request(maker), plan, 0) == NOTHING
    some = maker.share(_request(maker), plan, 4 * 4 * 40)  # the scores of 4 queries and 40 windows
    assert some.vectors is None and some.dense is None and len(some.levels) == 2
    for a, b in zip(_search(maker, depth=3), _search(maker, depth=3, shared=some)):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-5)


def test_a_video_of_fewer_windows_than_a_group(searcher):
    video = oracle_video(40.0, 2.0, [(0, 10.0, 14.0, 3.0)])
    (result,) = searcher.search(video, oracle_sentences(["event 0"]), depth=3).results
    assert result.windows == 1 and result.moments[0, 0] < 14 and result.moments[0, 1] > 10


def test_compiles_once_a_shape_and_counts_what_was_done():
    forget()
    searcher = _searcher()
    cost = _searched(searcher, depth=3).cost
    _search(searcher, sentences=SENTENCES[::-1], duration=630.0, depth=3)
    assert searcher.compile_count == 1
    assert (cost.pairs, cost.all_pairs) == (16, 4 * 39) and cost.frames == cost.windows * F
    assert cost.frame_share == pytest.approx(100 * 16 / 156)
    coarse, fine = cost.levels
    assert (coarse.windows, coarse.shown, coarse.groups) == (156, 156, 4 * 4)
    assert (fine.windows, fine.shown, fine.groups) == (156, 4 * 20, 4 * 5)
    # Prefix, windows, the two tokens that all questions begin with, `From` of the tree, then the rest of a question.
    rest = 1 + 3 + 1 + 1
    assert coarse.tokens_prefilled == 4 * (4 * (2 + 12 + 2 + 1) + rest)
    assert fine.tokens_decoded == 20 * 6  # every group names an interval


def test_errors_say_what_to_do(searcher):
    video, plain = oracle_video(60, 2.0, []), Sentences(["event 0"])
    with pytest.raises(ValueError, match="upper levels need CLIP's token features"):
        searcher.search(video, plain, depth=2)
    with pytest.raises(ValueError, match="depth 4 does not exist"):
        _search(searcher, depth=4)
    with pytest.raises(ValueError, match=r"search.keep is \(0.5,\)"):
        _search(_searcher(keep=(0.5,)), depth=2)
    alone = make_searcher(SETTINGS, HIERARCHY)
    with pytest.raises(ValueError, match="needs a grounder of upper levels"):
        alone.search(video, plain, depth=2)
    assert VideoWindows.of(HIERARCHY, video, 1).upper is None
