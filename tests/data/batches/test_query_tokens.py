"""Query tokens: cut or padded to a fixed number, in half precision."""

import types

import numpy as np

from revision_jax.data.batches.query_tokens import QueryTokens

Q, D = 3, 8


def encode_query_tokens(sentences):
    """As many tokens as letters, filled with half the number; 6 tokens a text at most."""
    lengths = np.array([min(len(sentence), 6) for sentence in sentences])
    mask = np.arange(6) < lengths[:, None]
    return np.where(mask, 0.5 * lengths[:, None], 0)[..., None] * np.ones(D, np.float32), mask


def test_query_tokens_are_cut_padded_and_in_half_precision():
    tokens = QueryTokens(types.SimpleNamespace(encode_query_tokens=encode_query_tokens), ["ab", "abcde", "ab"], Q)
    short, cut = tokens("q0", "ab"), tokens("q1", "abcde")
    assert short["query"].shape == (Q, D) and short["query"].dtype == np.float16
    assert short["query"][:, 0].tolist() == [1, 1, 0] and short["query_mask"].tolist() == [True, True, False]
    assert cut["query"][:, 0].tolist() == [2.5] * 3 and cut["query_mask"].all()
