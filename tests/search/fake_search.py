"""What search tests share: a prompt encoder, grounders that read the answer off the features, a tiny random model.

Letters: B pairs or windows, T question tokens, F frames, P prefix tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax import config as configs
from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import KVCache, Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.prompts import AnswerGrammar, dense_answers
from revision_jax.search.memory import Memory
from revision_jax.search.models import Models
from revision_jax.search.searcher import Searcher
from revision_jax.search.sentences import Sentences
from revision_jax.search.settings import SearchSettings

F = 16
PAD, BOS, EOS, NOT, PRESENT, FROM, TO, STOP = range(8)
NUMBER = 10  # token of frame 0
EVENT = 40  # token of event 0
VOCABULARY = 64
HEAD = 2  # tokens with which all questions begin
EVENTS = 8  # feature channels of an oracle's video, one an event


class FakePrompts:
    """`PromptEncoder` for sentences such as `event 3` or `quite a long event 3`: token 9, one a word, the event."""

    prefix = np.array([BOS, 9], np.int32)
    eos_id, pad_id, max_text_tokens = EOS, PAD, 24

    def encode_question(self, sentence, level="dense"):
        *words, event = sentence.split()
        return np.array([9] + [8] * len(words) + [EVENT + (int(event) if event.isdigit() else len(event))], np.int32)

    def encode_answer(self, text):
        if text == "Not Present":
            return np.array([NOT, PRESENT, EOS])
        numbers = [self.number(word) for word in text.strip(".").split() if word.isdigit()]
        first, *rest = numbers
        return np.array([FROM, *first, *(token for number in rest for token in [TO, *number]), STOP, EOS])

    def number(self, word):
        return [NUMBER + int(word)]


class DigitPrompts(FakePrompts):
    """Numbers are spelled digit by digit, as in Llama's tokenizer."""

    def number(self, word):
        return [NUMBER + int(digit) for digit in word]


PROMPTS = FakePrompts()
GRAMMAR = AnswerGrammar.compile(PROMPTS, dense_answers(F))


class OracleLLM(Llama):
    """Answers in place of a `Llama` where a test is about windows, ranking and counting, not about decoding.

    Its cache holds the window's features; its "hidden state" is the logits. It answers the first and last frame
    whose feature of the event is above 0, as surely as their features are high. Its weights are not used.
    """

    def __init__(self):
        super().__init__(LlamaConfig(VOCABULARY, EVENTS, 4, 1, 1, 1, EVENTS), rngs=nnx.Rngs(0))

    def embed(self, tokens):
        return jnp.broadcast_to(tokens[..., None].astype(jnp.float32), (*tokens.shape, EVENTS))

    def prefill(self, embeddings):
        return None, KVCache(*[embeddings[None, :, :, None]] * 2)

    def logits(self, hidden):
        return hidden

    def extend(self, embeddings, positions, prefix, suffix, write_at, suffix_mask):
        k = jax.lax.dynamic_update_slice_in_dim(suffix.k, embeddings[None, :, :, None], write_at, axis=2)
        seen = suffix_mask[:, -1]  # [B, S], by the newest token
        text = jnp.where(seen, k[0, :, :, 0, 0], PAD).astype(jnp.int32)
        event = jnp.max(text[:, : 1 - GRAMMAR.max_length], axis=1) - EVENT
        written = jnp.sum(seen[:, 1 - GRAMMAR.max_length :], axis=1)  # answer tokens so far
        start = len(PROMPTS.prefix)
        video = prefix.k[0, :, start : start + F, 0]  # [windows, F, EVENTS]
        video = jnp.repeat(video, len(text) // len(video), axis=0)
        video = jnp.take_along_axis(video, event[:, None, None], axis=2)[..., 0]
        first, last = jnp.argmax(video > 0, axis=1), F - 1 - jnp.argmax(video[:, ::-1] > 0, axis=1)
        there = jnp.any(video > 0, axis=1)
        span = [FROM, NUMBER + first, TO, NUMBER + last, STOP, EOS]
        absent = [NOT, PRESENT, EOS, EOS, EOS, EOS]
        says = jnp.stack([jnp.where(there, a, b) for a, b in zip(span, absent)], axis=1)  # [B, 6]
        says = jnp.take_along_axis(says, written[:, None], axis=1)
        logits = jax.nn.one_hot(says, VOCABULARY) * (1.0 + 0.2 * jnp.sum(video, axis=1))[:, None, None]
        return jnp.broadcast_to(logits, (*embeddings.shape[:2], VOCABULARY)), KVCache(k, suffix.v)


class Oracle(Grounder):
    """A dense grounder whose language model reads the features themselves."""

    def __init__(self):
        super().__init__(OracleLLM(), DenseAdapter(EVENTS, EVENTS, rngs=nnx.Rngs(0)))

    def embed_windows(self, prefix, video):
        return jnp.pad(video.astype(jnp.float32), ((0, 0), (len(prefix), 0), (0, 0)))


class GroupOracleLLM(OracleLLM):
    """Answers about groups: the likelier a window is the first, the higher its token; sure where one stands out."""

    def extend(self, embeddings, positions, prefix, suffix, write_at, suffix_mask):
        k = jax.lax.dynamic_update_slice_in_dim(suffix.k, embeddings[None, :, :, None], write_at, axis=2)
        written = jnp.sum(suffix_mask[:, :, 1 - GRAMMAR.max_length :], axis=2)  # [R, T] answer tokens so far
        start = len(PROMPTS.prefix)
        height = prefix.k[0, :, start:-HEAD, 0, 0]  # [R, n]
        numbers = jax.nn.one_hot(jnp.arange(height.shape[1]) + NUMBER, VOCABULARY) * (height > 0)[..., None]
        first = jnp.einsum("rn,rnv->rv", height, numbers)[:, None]
        fixed = lambda token: jnp.broadcast_to(9.0 * jax.nn.one_hot(token, VOCABULARY), first.shape)
        last = 9.0 * jax.nn.one_hot(jnp.argmax(height, axis=1)[:, None] + 1 + NUMBER, VOCABULARY)
        says = jnp.stack([fixed(FROM), first, fixed(TO), last, fixed(STOP), fixed(EOS)], axis=1)[:, :, 0]  # [R, 6, V]
        return jnp.take_along_axis(says, written[..., None], axis=1), KVCache(k, suffix.v)


class UpperOracle(Grounder):
    """A window's token is the height of the event that the query's features name, in its first frames."""

    def __init__(self):
        adapter = SparseAdapter(EVENTS, EVENTS, rngs=nnx.Rngs(0), mlp_width=4, num_heads=1, num_layers=1, dropout=0.0)
        super().__init__(GroupOracleLLM(), sparse=adapter)

    def sparse_tokens(self, video, query, mask):
        height = jnp.max(jnp.einsum("bfd,bd->bf", video.astype(jnp.float32), query[:, 0]), axis=1)
        return jnp.broadcast_to(height[:, None], (len(height), EVENTS))

    def embed_group(self, prefix, windows):
        return jnp.pad(windows, ((0, 0), (len(prefix), 0), (0, 0)))


def make_settings(**changes):
    """The default config's settings with small blocks and groups that do not overlap, and these changes."""
    small = {"readings": 1, "similarity": 0.0, "alone": 1.0, "verify": 0.0}
    small |= {"query_batch": 2, "window_block": 16, "decode_block": 4}
    return SearchSettings.of(configs.load().search, **small | changes)


def make_searcher(settings, hierarchy, *, dense=None, upper=None, mesh=None, memory_gib=0.0, beside=0):
    """A searcher of these grounders, the dense one by default an `Oracle`."""
    models = Models(Oracle() if dense is None else dense, upper)
    return Searcher(models, PROMPTS, hierarchy, settings, mesh, Memory(memory_gib, beside))


def oracle_sentences(texts):
    """Sentences such as `event 3` with the features that `UpperOracle` and CLIP policies read."""
    events = [int(text.split()[-1]) for text in texts]
    similar = np.eye(EVENTS, dtype=np.float32)[events]
    return Sentences(texts, similar[:, None], np.ones((len(events), 1), bool), similar)


def oracle_video(duration_s, fps, events):
    """A video whose channel c is `height` at the frames of `(c, start_s, end_s, height)`, else 0."""
    times = np.arange(int(duration_s * fps)) / fps
    features = np.zeros((len(times), EVENTS), np.float16)
    for channel, start, end, height in events:
        features[(times >= start) & (times <= end), channel] = height
    return VideoFeatures(features, duration_s, fps)


FAMILIES = {"biases": ("q_proj", "k_proj", "v_proj", "o_proj"), "qk_norm": True}  # beside Llama's blocks


def tiny_grounder(width=6, seed=0, sparse=False, **changes):
    """A random grounder with a LoRA that acts; sharp enough that its answers differ. `sparse`: for upper levels.

    `changes` are of the LLM's config, such as `FAMILIES`.
    """
    config = LlamaConfig(VOCABULARY, 32, 48, 2, 4, 2, 8, **changes)
    lora = LoRAConfig(2, 4.0, 0.5, ("q_proj", "v_proj"))
    llm = Llama(config, lora=lora, rngs=nnx.Rngs(seed))
    if sparse:
        rngs = nnx.Rngs(seed)
        adapter = SparseAdapter(width, 32, rngs=rngs, mlp_width=8, num_heads=2, num_layers=1, dropout=0.0)
        grounder = Grounder(llm, sparse=adapter, window_chunk=4)
    else:
        grounder = Grounder(llm, DenseAdapter(width, 32, rngs=nnx.Rngs(seed)))
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    noise = lambda x: x * 4 + 0.1 * jax.random.normal(next(keys), x.shape) if x.ndim > 1 else x
    graphdef, state = nnx.split(grounder)
    return nnx.merge(graphdef, jax.tree.map(noise, state))
