import dataclasses

import numpy as np
import pytest
from fake_search import PROMPTS, F, make_searcher, make_settings, oracle_sentences, oracle_video

from revision_jax.hierarchy import Hierarchy
from revision_jax.metrics.cost import Cost
from revision_jax.metrics.grounding import best_iou
from revision_jax.parallel.programs import forget
from revision_jax.search.result import Result
from revision_jax.search.sentences import Sentences

HIERARCHY = Hierarchy(window_s=32.0, num_frames=F)
EVENTS = [(0, 100.0, 110.0, 3.0), (0, 300.0, 310.0, 6.0), (1, 500.0, 512.0, 4.0)]


def _searcher(**changes):
    return make_searcher(make_settings(**changes), HIERARCHY)


def test_moments_come_back_in_seconds_surest_first():
    searcher = _searcher()
    sentences = ["event 0", "a longer event 1", "event 2"]
    both, one, none = searcher.search(oracle_video(900, 2.0, EVENTS), Sentences(sentences)).results
    # Frames of a window are 2 s apart: the ends are as exact as that.
    np.testing.assert_allclose(both.moments[0, :2], [300, 310], atol=2.5)
    assert best_iou(both.moments, [(100.0, 110.0)]).max() > 0.7
    np.testing.assert_allclose(one.moments[0, :2], [500, 512], atol=2.5)
    assert (np.diff(both.moments[:, 2]) <= 0).all()
    assert none.moments.shape == (0, 3)
    assert not none.present and none.score == -np.inf


def test_blocks_batches_and_buckets_do_not_change_the_answers():
    video = oracle_video(900, 2.0, EVENTS)
    sentences = [f"event {i}" for i in range(4)] + ["a longer event 1"]
    expected = _searcher().search(video, Sentences(sentences)).results
    other_layouts = [
        {"window_block": 64, "query_batch": 1},
        {"decode_block": 1, "question_tokens": 16},
        {"decode_block": 64, "query_batch": 3},
    ]
    for changes in other_layouts:
        for a, b in zip(expected, _searcher(**changes).search(video, Sentences(sentences)).results):
            np.testing.assert_allclose(a.moments, b.moments, rtol=1e-5)
    searcher = _searcher()
    alone = [searcher.search(video, Sentences([s])).results[0] for s in sentences]
    for a, b in zip(expected, alone):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-5)


def test_compiles_once_a_shape():
    forget()
    searcher = _searcher()
    searcher.search(oracle_video(900, 2.0, EVENTS), Sentences(["event 0"]))
    assert searcher.compile_count == 1
    for duration, sentences in [(960, ["event 1", "a longer event 0"]), (920, [f"event {i}" for i in range(8)])]:
        searcher.search(oracle_video(duration, 2.0, EVENTS), Sentences(sentences))
    assert searcher.compile_count == 1
    searcher.search(oracle_video(900, 2.0, EVENTS), Sentences(["event 0"]), depth=0)
    assert searcher.compile_count == 2


def test_one_pass_looks_at_the_whole_video_once():
    video = oracle_video(160, 2.0, [(0, 40.0, 80.0, 3.0)])
    searched = _searcher().search(video, Sentences(["event 0"]), depth=0)
    (result,) = searched.results
    np.testing.assert_allclose(result.moments[:, :2], [[40, 80]], atol=10)
    assert result.windows == 1
    assert searched.cost.frames == F


def test_a_video_shorter_than_a_window_and_a_moment_of_one_frame():
    video = oracle_video(20, 2.0, [(0, 10.0, 10.5, 3.0)])
    (result,) = _searcher().search(video, Sentences(["event 0"])).results
    start, end, _ = result.moments[0]
    assert 0 <= start < 10.5 < end <= 20
    assert end - start <= 4.0


def test_cost_counts_what_was_done():
    video, sentences = oracle_video(900, 2.0, EVENTS), Sentences(["event 0", "a longer event 2"])
    searched = _searcher().search(video, sentences)
    windows = len(HIERARCHY.windows(900.0))
    # `Not Present` is settled by its first token; a span takes six.
    spans = sum(len(answers) for answers in _answering_windows(900.0, EVENTS[:2]))
    decoded = 2 * windows + 5 * spans
    cost = searched.cost
    assert (cost.videos, cost.queries, cost.windows, cost.frames) == (1, 2, windows, windows * F)
    assert cost.tokens_decoded == decoded
    # The first two tokens of all questions, 9 and 8, are prefilled once a window.
    assert cost.tokens_prefilled == windows * (len(PROMPTS.prefix) + F + 2) + windows * (1 + 3)
    assert sum(r.tokens for r in searched.results) == windows * (1 + 3) + decoded
    assert cost.seconds > 0


def _answering_windows(duration, events):
    """Windows one of whose frames shows an event, for each event apart."""
    features = oracle_video(duration, 2.0, events).features
    windows = HIERARCHY.windows(duration)
    frames = HIERARCHY.frame_indices(windows[:, 0], windows[:, 1], 2.0, len(features))
    return [np.flatnonzero((features[frames, 0] > 0).any(axis=1))]


def test_a_question_that_begins_otherwise_is_asked_all_the_same(monkeypatch):
    video, sentences = oracle_video(900, 2.0, EVENTS), Sentences(["event 0", "event 1"])
    expected = _searcher().search(video, sentences).results
    encode = type(PROMPTS).encode_question
    drops = lambda self, sentence, level="dense": encode(self, sentence)[1 if sentence == "event 1" else 0 :]
    monkeypatch.setattr(type(PROMPTS), "encode_question", drops)
    for a, b in zip(expected, _searcher().search(video, sentences).results):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-5)


def test_presence_is_decided_by_the_threshold():
    result = Result("event 0", np.array([[0.0, 5.0, 0.8], [9.0, 12.0, 0.4]]), threshold=0.5)
    assert result.present and len(result.found) == 1
    assert not dataclasses.replace(result, threshold=0.9).present


def test_errors_say_what_to_do():
    searcher = _searcher(question_tokens=2)
    with pytest.raises(ValueError, match=r"3 tokens behind 2 shared ones; search.question_tokens is 2"):
        searcher.search(oracle_video(60, 2.0, []), Sentences(["a longer event 1"]))
    with pytest.raises(ValueError, match="needs 37 tokens with its answer; the model reads at most 24"):
        searcher.question("a " * 28 + "event 1")
    with pytest.raises(ValueError, match=r"search.top_k is 0"):
        make_settings(top_k=0)
    nothing = searcher.search(oracle_video(60, 2.0, []), Sentences([]))
    assert nothing.results == [] and nothing.cost == Cost() and nothing.answers is None


def test_one_question_length_for_many_sentences():
    forget()
    searcher = _searcher()
    fitted = searcher.fitted_to(["event 0", "one two three four five six seven eight event 1"])
    assert (searcher.settings.question_tokens, fitted.settings.question_tokens) == (0, 16)
    assert _searcher(question_tokens=24).fitted_to(["event 0"]).settings.question_tokens == 24
    video = oracle_video(100, 2.0, [])
    for texts in (["event 0"], ["one two three four five six seven eight event 1"]):
        fitted.search(video, Sentences(texts))
    assert fitted.compile_count == searcher.compile_count == 1  # programs are shared


def test_features_belong_to_their_sentences():
    with pytest.raises(ValueError, match="similar holds features of 1 sentences; expected 2"):
        Sentences(["event 0", "event 1"], similar=np.zeros((1, 8)))
    with pytest.raises(ValueError, match="token features and their mask go together"):
        Sentences(["event 0"], np.zeros((1, 1, 8)))
    with pytest.raises(ValueError, match="expected a sequence of sentences"):
        Sentences("event 0")
    assert len(oracle_sentences(["event 0", "event 1"])) == 2
