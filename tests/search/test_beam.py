"""Beams against all answers of the grammar, each scored by the model without a cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_search import GRAMMAR, PROMPTS, F, make_searcher, make_settings, tiny_grounder

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.hierarchy import Hierarchy
from revision_jax.search.answers.beam import beam_step, start_beams
from revision_jax.search.answers.decoding import Grammar
from revision_jax.search.sentences import Sentences

SETTINGS = make_settings(decode_block=8, confidence="sequence_likelihood", nms_iou=1.0)
HIERARCHY = Hierarchy(16.0, F, stride=1.0)
SENTENCES = ["event 1", "quite a long event 2"]


def _all_answers():
    """Every answer of the grammar: (final state, tokens)."""
    waiting, answers = [(0, ())], []
    while waiting:
        state, said = waiting.pop()
        if GRAMMAR.final[state]:
            answers.append((state, said))
            continue
        used = GRAMMAR.tokens[state] >= 0
        edges = zip(GRAMMAR.tokens[state][used], GRAMMAR.next[state][used])
        waiting += [(below, (*said, token)) for token, below in edges]
    return answers


@pytest.fixture(scope="module")
def exact():
    """[Q, W] -> state -> log-likelihood, by the whole model; and what the search needs for the same."""
    grounder = tiny_grounder()
    features = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    answers = _all_answers()
    likelihood = jax.jit(lambda video, tokens: jax.nn.log_softmax(grounder(jnp.asarray(PROMPTS.prefix), video, tokens)))
    tables = {}
    windows = HIERARCHY.windows(32.0)
    frames = HIERARCHY.frame_indices(windows[:, 0], windows[:, 1], 1.0, 32)
    for q, sentence in enumerate(SENTENCES):
        asked = PROMPTS.encode_question(sentence).tolist()
        tokens = np.zeros((len(answers), 24), np.int32)
        for row, (_, said) in zip(tokens, answers):
            row[: len(asked) + len(said)] = [*asked, *said]
        for w in range(2):
            video = np.broadcast_to(features[frames[w]], (len(answers), F, 6))
            rows = np.asarray(likelihood(video, tokens))
            tables[q, w] = {
                state: sum(rows[i, len(asked) + k, token] for k, token in enumerate(said))
                for i, (state, said) in enumerate(answers)
            }
    return grounder, features, tables


def test_a_wide_beam_finds_the_likeliest_answers_with_their_exact_probability(exact):
    grounder, features, tables = exact
    searcher = make_searcher(dataclasses.replace(SETTINGS, beam=40), HIERARCHY, dense=grounder)
    searched = searcher.search(VideoFeatures(features, 32.0, 1.0), Sentences(SENTENCES))
    states, _, likelihoods, _ = (np.asarray(x) for x in searched.answers)
    for (q, w), table in tables.items():
        spans = {state: value for state, value in table.items() if GRAMMAR.answer[state, 0] >= 0}
        found = {s: v for s, v in zip(states[q, w], likelihoods[q, w]) if GRAMMAR.answer[s, 0] >= 0 and np.isfinite(v)}
        for state, value in found.items():
            assert value == pytest.approx(spans[state], abs=2e-3)
        best = sorted(spans, key=spans.get, reverse=True)[:5]
        assert set(best) <= set(found)
    # What is ranked is what was found, surest first.
    for q, result in enumerate(searched.results):
        likeliest = max(v for w in range(2) for s, v in tables[q, w].items() if GRAMMAR.answer[s, 0] >= 0)
        assert np.log(result.moments[0, 2]) == pytest.approx(likeliest, abs=2e-3)
        assert len(result.moments) > 2 and (np.diff(result.moments[:, 2]) <= 0).all()


def test_one_beam_is_greedy_and_wider_beams_are_never_less_likely(exact):
    grounder, features, _ = exact
    best = []
    for width in (1, 2, 6):
        searcher = make_searcher(dataclasses.replace(SETTINGS, beam=width), HIERARCHY, dense=grounder)
        searched = searcher.search(VideoFeatures(features, 32.0, 1.0), Sentences(SENTENCES))
        states, _, likelihoods, _ = (np.asarray(x)[:2, :2] for x in searched.answers)
        assert states.shape == (2, 2, width)
        spans = GRAMMAR.answer[states][..., 0] >= 0
        best.append(np.where(spans, likelihoods, -np.inf).max(axis=-1))
    assert (best[1] >= best[0] - 1e-4).all() and (best[2] >= best[1] - 1e-4).all()


def test_a_pair_with_fewer_ways_than_beams_lets_the_others_die():
    grammar, width = Grammar.of(GRAMMAR), 4
    step = functools.partial(beam_step, grammar, width=width)
    beams, parent = step(start_beams(1, width, GRAMMAR.max_length), jnp.zeros((width, 64)))
    assert np.isfinite(beams.log_likelihood).tolist() == [True, True, False, False]  # `From` and `Not`
    assert parent.tolist()[:2] == [0, 0]
    again, _ = step(beams, jnp.zeros((width, 64)))
    assert np.isfinite(again.log_likelihood).sum() == width
    assert len({(int(s), int(t)) for s, t in zip(again.state, again.token)}) == width
