"""The search's spans and confidences against decoding without any cache, one pair at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_search import EOS, GRAMMAR, PROMPTS, F, tiny_grounder

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.answers.asking import Asking
from revision_jax.search.answers.confidence import token_entropy
from revision_jax.search.answers.decoding import Grammar
from revision_jax.search.levels.dense import DenseInputs, search_pairs, search_windows
from revision_jax.search.packing.inputs import Questions, Seen, WindowTable

HIERARCHY = Hierarchy(window_s=16.0, num_frames=F)
WIDTH, SENTENCES = 6, ["event 1", "quite a long event 2", "event 7"]


def _questions(capacity, length, head):
    """The questions, their first `head` tokens apart: those are the same in all of them."""
    tokens, lengths = np.zeros((capacity, length), np.int32), np.ones(capacity, np.int32)
    for i, sentence in enumerate(SENTENCES):
        ids = PROMPTS.encode_question(sentence)[head:]
        tokens[i, : len(ids)], lengths[i] = ids, len(ids)
    start = PROMPTS.encode_question(SENTENCES[0])[:head]
    return Questions(jnp.asarray(start), jnp.asarray(tokens), jnp.asarray(lengths), jnp.int32(len(SENTENCES)))


def _slow_answer(logits_of, video, sentence):
    """Greedy under the grammar, the whole sequence anew for every token: (span, entropies, log-likelihood)."""
    text, state, entropies, likelihood = PROMPTS.encode_question(sentence).tolist(), 0, [], 0.0
    while GRAMMAR.answer[state, 0] == -2:
        # A fixed length, so that this compiles once; row i predicts token i from those before it.
        padded = np.zeros((1, 24), np.int32)
        padded[0, : len(text)] = text
        logits = np.asarray(logits_of(video[None], padded))[0, len(text)]
        allowed = [t for t in GRAMMAR.tokens[state] if t >= 0]
        choice = int(np.argmax(logits[allowed]))
        entropies.append(float(token_entropy(jnp.asarray(logits))))
        text.append(int(allowed[choice]))
        likelihood += float(jax.nn.log_softmax(jnp.asarray(logits))[text[-1]])
        state = GRAMMAR.next[state, choice]
    assert text[-1] == EOS
    return state, entropies, likelihood


@pytest.mark.parametrize("head, sees", [(0, False), (1, False), (1, True)])
def test_equals_decoding_without_a_cache(head, sees):
    """`sees`: frames that see the query, whose windows are encoded once a query."""
    grounder = tiny_grounder(WIDTH, sparse=sees)
    assert grounder.visual.frames_see_query == sees
    features = np.random.default_rng(0).normal(size=(96, WIDTH)).astype(np.float32)
    windows = HIERARCHY.windows(96.0)
    frames = HIERARCHY.frame_indices(windows[:, 0], windows[:, 1], 1.0, len(features)).astype(np.int32)
    padded = np.zeros((16, F), np.int32)
    padded[: len(frames)] = frames
    number = jnp.arange(16).reshape(2, 8)
    table = WindowTable(jnp.asarray(padded.reshape(2, 8, F)), number < len(frames), number)
    chosen = np.zeros((4, 2, 8), bool)
    chosen[: len(SENTENCES)] = table.valid
    rng = np.random.default_rng(1)
    seen = Seen(3 * rng.normal(size=(4, 5, WIDTH)).astype(np.float32), np.arange(5) < [[3], [5], [2], [0]])
    inputs = DenseInputs(
        jnp.asarray(PROMPTS.prefix), Grammar.of(GRAMMAR), jnp.asarray(features), table, _questions(4, 8, head),
        jax.tree.map(jnp.asarray, seen) if sees else None,
    )  # fmt: skip
    asking = Asking(GRAMMAR.max_length, query_batch=2, decode_block=4)
    search = search_pairs if sees else search_windows
    state = search(grounder, inputs, jnp.asarray(chosen), asking)
    states, entropies, likelihoods, lengths = (np.asarray(x)[:, :, 0] for x in state.answers)

    whole = jax.jit(functools.partial(grounder, jnp.asarray(PROMPTS.prefix)))
    present = absent = 0
    for q, sentence in enumerate(SENTENCES):
        own = (seen.query[q : q + 1], seen.mask[q : q + 1]) if sees else ()
        logits_of = lambda video, tokens, own=own: whole(video, tokens, *own)
        for w, rows in enumerate(frames):
            final, expected, likelihood = _slow_answer(logits_of, features[rows], sentence)
            length = lengths[q, w]
            if GRAMMAR.answer[final, 0] >= 0:
                assert states[q, w] == final and length == len(expected)
                np.testing.assert_allclose(likelihoods[q, w], likelihood, rtol=2e-5)
                present += 1
            else:
                # `Not Present` is settled by its first token: the rest is not generated.
                assert length == 1 and GRAMMAR.answer[states[q, w], 0] < 0
                absent += 1
            np.testing.assert_allclose(entropies[q, w, :length], expected[:length], atol=1e-5)
            assert (entropies[q, w, length:] == 0).all()
    assert present > 3 and absent > (0 if sees else 3), "the model should answer both ways, or this test shows little"
    # Padding answers nothing.
    assert (states[3] == 0).all() and (lengths[:, len(frames) :] == 0).all()
    assert int(state.block) == -(-len(SENTENCES) * len(frames) // 8) if sees else 2
