import jax.numpy as jnp
import numpy as np
import pytest
from fake_search import PROMPTS, VOCABULARY, DigitPrompts

from revision_jax.prompts import AnswerGrammar, dense_answers, group_answers
from revision_jax.search.levels.selection import NumberTree, first_numbers, keep_best, pass_down, window_scores


def _walk(grammar, tokens):
    state = 0
    for token in tokens:
        state = grammar.next[state][list(grammar.tokens[state]).index(token)]
    return state


@pytest.mark.parametrize("prompts, nodes", [(PROMPTS, 1), (DigitPrompts(), 2)])
def test_the_tree_settles_the_first_number(prompts, nodes):
    grammar = AnswerGrammar.compile(prompts, group_answers(14))
    tree = NumberTree.of(grammar)
    # `From`, and spelled by digits also `1`, which may go on to 10.
    assert len(tree.tokens) == nodes and tree.depth.tolist() == [1, 2][:nodes]
    assert sorted(tree.number[tree.number >= 0]) == list(range(14))
    np.testing.assert_array_equal(tree.sees, np.tril(np.ones((nodes, nodes), bool)))


@pytest.mark.parametrize("prompts", [PROMPTS, DigitPrompts()])
@pytest.mark.parametrize("answers, count", [(group_answers(14), 14), (dense_answers(12), 12)])
def test_first_numbers_are_products_along_the_grammar(prompts, answers, count):
    grammar = AnswerGrammar.compile(prompts, answers)
    tree = NumberTree.of(grammar)
    logits = np.random.default_rng(0).normal(size=(3, 1 + len(tree.tokens), VOCABULARY)).astype(np.float32) * 3
    found = np.asarray(first_numbers(tree, jnp.asarray(logits), count))
    ways = [()]  # the tokens that lead to each inner node
    for node, (parent, _) in enumerate(tree.came):
        ways.append((*ways[parent], int(tree.tokens[node])))
    expected = np.zeros((3, count))
    for text, (number, _) in answers.items():
        if number < 0 or text.endswith(f"to {number + 2}."):
            continue
        tokens, p = prompts.encode_answer(text), np.ones(3)
        for i in range(len(tokens)):
            if tuple(tokens[:i]) not in ways:
                break
            node = ways.index(tuple(tokens[:i]))
            allowed = grammar.tokens[_walk(grammar, tokens[:i])]
            row = np.exp(logits[:, node].astype(np.float64))
            p *= row[:, tokens[i]] / row[:, allowed[allowed >= 0]].sum(axis=1)
        expected[:, number] = p
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    if answers == group_answers(14):
        np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)


def test_a_window_scores_what_covers_it():
    first = jnp.array([[0.7, 0.2, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25]])
    scores = window_scores(first, jnp.array([2, 1]), jnp.array([4.0, 0.5]))
    expected = np.log([[0.7 * 4, 0.9 * 4, 0.3 * 4, 0.1 * 4], [0.125] * 4])
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert np.isfinite(window_scores(jnp.zeros((1, 3)), jnp.array([1]), jnp.zeros(1))).all()


def test_the_best_are_kept_and_passed_down():
    scores = jnp.array([[1.0, 3.0, 2.0, -jnp.inf], [5.0, 5.0, 5.0, 4.0]])
    np.testing.assert_array_equal(keep_best(scores, 2), [[0, 1, 1, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(keep_best(scores, 4)[0], [1, 1, 1, 0])
    parents = jnp.array([[0, 0], [1, 3], [2, 3]])
    np.testing.assert_array_equal(pass_down(scores, parents), [[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])
