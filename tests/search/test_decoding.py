import jax
import jax.numpy as jnp
import numpy as np
from fake_search import EOS, FROM, GRAMMAR, NOT, NUMBER, PRESENT, STOP, TO, VOCABULARY

from revision_jax.search.answers.confidence import token_entropy
from revision_jax.search.answers.decoding import DecodeState, Grammar, decode_step


def _decode(steps):
    """Feeds one row of logits a step, each favouring a token."""
    grammar, state, entropies = Grammar.of(GRAMMAR), DecodeState.start(1, GRAMMAR.max_length), []
    for favourite in steps:
        logits = jnp.zeros((1, VOCABULARY)).at[0, favourite].set(3.0)
        entropies.append(float(token_entropy(logits)[0]))
        state = decode_step(grammar, state, logits)
    return grammar, state, entropies


def test_a_span_is_read_token_by_token():
    grammar, state, entropies = _decode([FROM, NUMBER + 2, TO, NUMBER + 5, STOP, EOS])
    np.testing.assert_array_equal(grammar.answer[state.state], [[2, 5]])
    assert int(state.length[0]) == 6
    np.testing.assert_allclose(state.entropies, [entropies], rtol=1e-6)


def test_complete_answers_stay_as_they_are():
    _, done, _ = _decode([NOT, PRESENT, EOS])
    grammar, later, _ = _decode([NOT, PRESENT, EOS, FROM, NUMBER])
    np.testing.assert_array_equal(grammar.answer[later.state], [[-1, -1]])
    for name in ("length", "entropies", "log_likelihood"):
        np.testing.assert_array_equal(getattr(later, name), getattr(done, name))


def test_the_grammar_chooses_among_what_is_allowed_but_not_the_entropy():
    # The model wants frame 3 after `From 07 to`; the grammar allows 07 and later, the best of which wins.
    grammar, state, _ = _decode([FROM, NUMBER + 7, TO])
    logits = jnp.zeros((1, VOCABULARY)).at[0, NUMBER + 3].set(9.0).at[0, NUMBER + 12].set(1.0)
    after = decode_step(grammar, state, logits)
    assert int(after.token[0]) == NUMBER + 12
    np.testing.assert_allclose(after.entropies[0, 3], token_entropy(logits)[0], atol=1e-5)
    taken = jax.nn.log_softmax(logits)[0, NUMBER + 12]
    np.testing.assert_allclose(after.log_likelihood - state.log_likelihood, [taken], atol=1e-5)


def test_open_says_where_a_span_can_still_come():
    grammar = Grammar.of(GRAMMAR)
    for steps, expected in [([], True), ([FROM], True), ([FROM, NUMBER, TO, NUMBER, STOP], True), ([NOT], False),
                            ([NOT, PRESENT, EOS], False), ([FROM, NUMBER, TO, NUMBER, STOP, EOS], False)]:  # fmt: skip
        _, state, _ = _decode(steps)
        assert bool(grammar.open[state.state[0]]) == expected, steps
