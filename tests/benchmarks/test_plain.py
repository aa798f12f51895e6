"""The plain program does the work that it is there to do; its answers are those of the model without a cache."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.benchmarks import plain
from revision_jax.benchmarks.words import make_prompts
from revision_jax.models.adapter import DenseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.prompts import AnswerGrammar, dense_answers


def test_calls_are_those_of_the_released_procedure():
    calls = plain.upper_groups(143, np.random.default_rng(0))
    # 143 windows of an hour: 18 + 9 + 5 calls of 8, 16, 33 windows and 6 + 3 + 2 of 25, 50, 100.
    assert len(calls) == 43
    shown = np.bincount(np.concatenate(calls))
    assert shown.tolist() == [2 * (4 + 2 + 1)] * 143
    assert max(map(len, calls)) == 100 and not (np.diff(calls[0]) >= 0).all()


def test_generation_equals_the_model_without_a_cache():
    llm = Llama(LlamaConfig(50, 16, 24, 2, 2, 2, 8), rngs=nnx.Rngs(0))
    grounder = Grounder(llm, DenseAdapter(4, 16, rngs=nnx.Rngs(1)))
    rng = np.random.default_rng(0)
    prefix, question = jnp.array([1, 2]), jnp.asarray(rng.integers(0, 50, 3))
    video = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
    found = np.asarray(plain.dense_answers(grounder, prefix, question, video, 4))
    logits = jax.jit(lambda tokens: grounder(prefix, video, tokens))
    text = np.tile(np.append(np.asarray(question), [0] * 5), (2, 1))
    for k in range(4):
        text[:, 3 + k] = np.argmax(logits(jnp.asarray(text))[:, 3 + k], axis=-1)
    np.testing.assert_array_equal(found, text[:, 3:7])


def test_counts_add_up():
    seen = []
    dense, upper = np.zeros((5, 2), int), np.zeros((40, 2), int)
    ask_dense, ask_group = (lambda v: seen.append(len(v))), (lambda v: seen.append(-len(v)))
    counted = plain.search_query(
        ask_dense, ask_group, jnp.zeros((9, 3)), plain.Frames(dense, upper), dense_batch=2, text_tokens=10
    )
    assert seen[:3] == [2, 2, 1] and counted.sparse_vectors == 40 * 14 == -sum(seen[3:])
    assert counted.calls == len(seen) - 3 and counted.tokens == 5 * 12 + counted.sparse_vectors + 10 * counted.calls


def test_the_tokenizer_counts_like_llamas():
    prompts = make_prompts()
    assert len(prompts.prefix) > 25  # Vicuna's system text
    assert len(prompts.encode_answer("From 07 to 113.")) == 9  # a token a digit
    assert AnswerGrammar.compile(prompts, dense_answers(250)).max_length == 10
    unknown = prompts.tokenizer.unk_token_id
    assert unknown not in prompts.prefix and unknown in prompts.encode_question("a zebra")
