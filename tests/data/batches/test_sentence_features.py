"""Sentences are encoded when they are asked for: few calls, bounded memory, the same bits in any company."""

import numpy as np
import pytest

from revision_jax.data.batches import sentence_features
from revision_jax.data.batches.sentence_features import SentenceFeatures

ALL = [f"event {number}" for number in range(150)]


def counting(sentences=ALL):
    """Features that say which sentence they are of, and the calls in which they were made."""
    calls = []

    def encode(some):
        calls.append(list(some))
        return [np.full(4, int(sentence.split()[1]), np.float32) for sentence in some]

    return SentenceFeatures(encode, sentences), calls


def test_nothing_is_encoded_before_it_is_asked_for_and_nothing_twice():
    features, calls = counting()
    assert not calls
    features.prepare(["event 140", "event 3", "event 140"])
    assert calls == [["event 140", "event 3", *(s for s in ALL[:63] if s != "event 3")]]  # one call, filled up
    for number in np.random.default_rng(0).permutation(150):
        assert features[f"event {number}"].tolist() == [number] * 4
    assert sorted(s for call in calls for s in call) == sorted(ALL) and len(calls) == 3
    with pytest.raises(KeyError, match="unheard"):  # all are there: the encoder was let go
        features["unheard"]


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(sentence_features, "KEPT_BYTES", 10 * 16)
    monkeypatch.setattr(sentence_features, "TOGETHER", 4)
    features, calls = counting()
    for number in np.random.default_rng(0).integers(0, 150, 300):
        assert features[f"event {number}"].tolist() == [number] * 4
        assert len(features._kept) <= 10
    features.prepare(ALL[:30])
    assert len(calls[-1]) >= 20 and len(calls[-2]) == 1  # where memory is full, nothing is encoded ahead
