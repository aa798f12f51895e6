"""Pretrains the tiny LLM to tell time: symbolic frames in, `From 07 to 13.` out.

The counterpart of VTimeLLM's stage 2, from which the published model starts on MAD. A sample is a sequence of `F`
frames cut into segments; a segment shows one shape that stands still or changes (moves, turns, grows, fades), and
a frame's token is the mixture of the word embeddings that describe it (`attributes.weights`). These questions are
asked, hardly any in the form of the later stages:

- `Find: red triangle eastward` -> `From 07 to 13.`, `In: red triangle eastward` -> `From 7 to 13.`: the thing
  asked for is always there.
- `Does: red triangle eastward`, and as people ask, `Does red triangle eastward happen in the video? ...` -> `Yes.` or
  `No.`
- `red triangle eastward` -> `Not Present`: what is not asked in these ways gets no other answer.
- In videos that are "told", every frame only says `Yes` or `No`: whether what is asked for is there. One such token is
  all that later stages show of a whole window, and they must be able to make it say so.
- `Describe this frame.` of a single frame -> `a red triangle at the top left`, as the align stage asks.
- `Say: Not Present` -> `Not Present`, `Say: In video 7.` -> `In video 7.`: the output head must be able to write what
  later stages will ask for. A word that never occurs here is pushed so far away that LoRA does not get it back.

To see in `During which frames can we see ...` the first, to ask the second before it answers that, and to say so in the
last one's words is what stage 1 has to learn.

A tiny Llama does not learn 64-frame lookups from scratch; a curriculum over F does: the next level of
CURRICULUM comes when the running score (mean IoU, or the accuracy of the other answers where that is lower) passes its
threshold.
"""

import dataclasses
import pathlib
import pickle
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from revision_jax import prompts
from revision_jax.data.builders.shapes_drawing import SIZE
from revision_jax.data.builders.shapes_events import COLORS, OPPOSITE, SHAPES, TEMPLATES, TURNABLE, noun_phrase
from revision_jax.interop.table import flat_params
from revision_jax.models.llama import KVCache, Llama, LlamaConfig
from revision_jax.pretrain import attributes

# (frames, kind of video, the running score that ends it). What is matched comes first, and what is seen second:
# "plain" shows colors and shapes alone; in "named" every frame says in a word what changes, and the threshold is high:
# that all the words of a question must be true of the same frames is learned here or hardly ever; in "change" one
# actor does it all and must be seen for what it does; "mixed" is the real thing. In half of the videos frames still say
# what changes, but not at the last level.
CURRICULUM = (
    (8, "plain", 0.85),
    (8, "named", 0.85),
    (16, "named", 0.91),
    (16, "change", 0.75),
    (16, "mixed", 0.85),
    (32, "change", 0.75),
    (32, "mixed", 0.85),
    (64, "change", 0.8),
    (64, "mixed", 0.89),
    (64, "mixed", 1.0),
)
CHANGES = (
    "still", "westward", "eastward", "northward", "southward", "dextral", "sinistral", "swelling",
    "dwindling", "emerging", "fading",
)  # fmt: skip
# How else questions name them: as the world does. What an LLM knows before stage 1 is the words; what is asked, it
# knows in its own form only.
WORDINGS = ((), *([form.removeprefix("{a} ") for form in TEMPLATES[action]] for action in OPPOSITE))
WORDED = 0.7  # share of the questions that name changes so
TOLD, TOLD_FRAMES = 0.15, (1, 1, 16, 48)  # share of the batches whose frames say `Yes` or `No`, and their lengths
DESCRIBED = 0.12  # share of the batches that are single frames with their captions
TURNS = ("dextral", "sinistral")
PRESENCE_WEIGHT = 4.0  # of `Yes` and `No` in the loss: one token tells all, where a span's answer has six
LOOKUPS = 8  # questions a video: they share its cost, and do not see each other
KINDS = {"Find": 0.3, "In": 0.06, "Does": 0.54, "Say": 0.04, "": 0.06}  # shares of the questions
LEARNING_RATE = 1e-3
CHANGE_LAYER = 2  # blocks after which a frame shows what changes
HINTS = 0.5  # of the videos before the last level, say in a word what changes: so that matching it is learned first
FILLERS = 7  # at most so many words without meaning stand between the keywords of a lookup
LOOKUP_TOKENS = 18 + FILLERS  # "Find: red triangle moves from left to right ASSISTANT:", fillers, and the answer
ARRAYS = ("weights", "changes", "said", "tokens", "loss_weights")  # what the step needs of a batch
NOISE = 0.1  # standard deviation of the noise on a frame's word weights: features will not be exact either
_COLORS, _SHAPES = list(COLORS), list(SHAPES)
_TURNABLE = [SHAPES.index(shape) for shape in TURNABLE]


def tiny_config(vocab_size: int) -> LlamaConfig:
    """The shipped LLM's size: about 1.1 M parameters."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=352,
        num_layers=5,
        num_heads=4,
        num_kv_heads=4,
        head_dim=32,
        rope_theta=1e4,
        tie_word_embeddings=False,
        max_position_embeddings=2048,
    )


PLAIN = np.array([word in (*COLORS, *SHAPES, attributes.NOTHING) for word in attributes.WORDS], np.float32)


@dataclasses.dataclass(frozen=True)
class Segment:
    """`length` frames of one thing; `change` is an index into CHANGES; color -1 shows nothing."""

    length: int
    color: int
    shape: int
    change: int

    def keywords(self, form: int, rng: np.random.Generator) -> str:
        change = CHANGES[self.change]
        if self.change and rng.random() < WORDED:
            change = WORDINGS[self.change][rng.integers(len(WORDINGS[self.change]))]
        words = [_COLORS[self.color], _SHAPES[self.shape], change]
        return " ".join([words, words[:2], words[1:], [words[0], words[2]]][form])

    def matches(self, other: "Segment", form: int) -> bool:
        """Whether `other` fits the keywords of `self` in this form."""
        if other.color < 0:
            return False
        same = (self.color == other.color, self.shape == other.shape, self.change == other.change)
        return all([same, same[:2], same[1:], (same[0], same[2])][form])


def _random_actor(rng) -> tuple[int, int]:
    return int(rng.integers(len(COLORS))), int(rng.integers(len(SHAPES)))


def _random_change(shape: int, length: int, rng) -> int:
    """Index into CHANGES; what is too short stands still, and only shapes with an orientation turn."""
    able = [i for i, change in enumerate(CHANGES) if shape in _TURNABLE or change not in TURNS]
    return able[rng.integers(len(able))] if length >= 4 else 0


def _states(segment: Segment, rng) -> np.ndarray:
    """`[length, 5]` states of a segment, with the world's ranges of speed and size."""
    x, y = rng.uniform(10, SIZE - 10, 2)
    first = np.array([x, y, rng.uniform(6, 14), rng.uniform(0, 2 * np.pi), 1.0])
    last = first.copy()
    match CHANGES[segment.change]:
        case "westward" | "eastward" | "northward" | "southward" as way:
            axis, sign = (0 if way in ("westward", "eastward") else 1), (1 if way in ("eastward", "southward") else -1)
            reach = rng.uniform(13, 22)
            first[axis], last[axis] = SIZE / 2 - sign * reach, SIZE / 2 + sign * reach
        case way if way in TURNS:
            last[3] += (1 if way == TURNS[0] else -1) * np.radians(rng.uniform(25, 55)) * segment.length
        case "swelling":
            first[2], last[2] = rng.uniform(4, 6), rng.uniform(13, 17)
        case "dwindling":
            first[2], last[2] = rng.uniform(13, 17), rng.uniform(4, 6)
        case "emerging":
            first[4] = 0.05
        case "fading":
            last[4] = 0.05
    return np.linspace(first, last, segment.length)


def _segments(frames: int, kind: str, rng) -> list[Segment]:
    """Segments that fill `frames` frames: of a small cast, so that they are near misses of each other, or nothing."""
    usual = (1, 4) if frames <= 8 else (2, min(20, frames // 2))
    low, high = {"change": (4, max(6, frames // 4)), "named": (1, 3)}.get(kind, usual)
    empty = 0.1 if kind in ("change", "named") else 0.3
    cast = [_random_actor(rng) for _ in range(1 if kind == "change" else rng.integers(1, 6))]
    share = {"change": 1.0, "named": 1.0}.get(kind, 0.85)
    segments: list[Segment] = []
    left = frames
    while left > 0:
        length = min(left, int(rng.integers(low, high + 1)))
        color, shape = cast[rng.integers(len(cast))] if rng.random() < share else _random_actor(rng)
        change = 0 if kind == "plain" else _random_change(shape, 4 if kind == "named" else length, rng)
        segments.append(Segment(length, -1 if rng.random() < empty else color, shape, change))
        left -= length
    return segments


@dataclasses.dataclass(frozen=True)
class Question:
    """One of KINDS about `keywords`; `span` (s, e) in frames where they are shown, None if nowhere."""

    kind: str
    keywords: str
    span: tuple[int, int] | None

    @property
    def answer(self) -> str:
        match self.kind:
            case "Find":
                return prompts.span_answer(*self.span)
            case "In":
                return prompts.group_answer(*self.span)
            case "Does":
                return prompts.presence_answer(self.span is not None)
            case "":
                return prompts.NOT_PRESENT
        return self.keywords


def _absent(segments: list[Segment], kind: str, rng) -> str | None:
    """Keywords that fit no segment but differ from one in a single thing; None if a few tries find none.

    Mostly that thing is what another segment shows (a red circle is there, and a blue one grows: "red circle
    growing"), or the opposite of what is seen: otherwise it is enough to find the words one by one.
    """
    shown = [s for s in segments if s.color >= 0]
    for _ in range(8):
        near = shown[rng.integers(len(shown))]
        donor = shown[rng.integers(len(shown))]
        if rng.random() < 0.3:
            color, shape = _random_actor(rng)
            donor = Segment(near.length, color, shape, _random_change(near.shape, near.length, rng))
        opposite = (near.change - 1 ^ 1) + 1 if near.change else 0
        others = [{"color": donor.color}, {"shape": donor.shape}, {"change": donor.change}, {"change": opposite}]
        chance, forms = ((0.5, 0.5), (0, 1)) if kind == "plain" else ((0.15, 0.15, 0.5, 0.2), (0.55, 0.15, 0.15, 0.15))
        near = dataclasses.replace(near, **others[rng.choice(len(chance), p=chance)])
        form = int(rng.choice(len(forms), p=forms))
        if not any(near.matches(s, form) for s in shown):
            return near.keywords(form, rng)
    return None


def sample(frames: int, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[Question]]:
    """One video and its questions.

    Returns:
      word weights `[frames, A]` float32; what changes in each frame, `[frames]` int32 index into CHANGES, -1 where it
      cannot be told yet; and LOOKUPS questions, all of them `Find` for plain videos.
    """
    lookups, plain = [], kind == "plain"
    while not lookups:
        segments = _segments(frames, kind, rng)
        for i, target in enumerate(segments):
            for form in (1,) if plain else range(4):
                if target.color >= 0 and sum(target.matches(s, form) for s in segments) == 1:
                    lookups.append((i, form))
    rows = []
    changes = np.full(frames, -1, np.int32)
    for segment, start in zip(segments, np.cumsum([0, *(s.length for s in segments)]), strict=False):
        if segment.color < 0:
            rows.append(np.tile(attributes.nothing(), (segment.length, 1)))
            continue
        changes[start + (0 if kind == "named" else 2) : start + segment.length] = (
            segment.change if segment.color >= 0 else -1
        )
        color, shape = (np.full(segment.length, value) for value in (segment.color, segment.shape))
        rows.append(attributes.weights(color, shape, _states(segment, rng)))
    starts = np.cumsum([0, *(s.length for s in segments)])
    chance = np.array([0.55, 0.2, 0.125, 0.125])[[form for _, form in lookups]]
    chosen = rng.choice(len(lookups), LOOKUPS, p=chance / chance.sum())
    questions = []
    for target, form in (lookups[k] for k in chosen):
        span = int(starts[target]), int(min(starts[target + 1], frames - 1))
        shares = {"plain": (0.4, 0, 0.6, 0, 0), "named": (0.4, 0, 0.6, 0, 0)}.get(kind, tuple(KINDS.values()))
        asked = str(rng.choice(list(KINDS), p=shares))
        question = Question(asked, segments[target].keywords(form, rng), span)
        if asked == "Say":
            words = rng.choice([prompts.NOT_PRESENT, prompts.video_answer(rng.integers(frames))])
            question = Question(asked, words, None)
        elif asked == "Does" and rng.random() < 0.5 and (keywords := _absent(segments, kind, rng)):
            question = Question(asked, keywords, None)
        questions.append(question)
    return np.concatenate(rows), changes if not plain else np.full_like(changes, -1), questions


def _told(frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[Question]]:
    """A video whose frames show nothing, as `sample` gives it, but `[frames]` bool, which of them say `Yes`."""
    first = int(rng.integers(frames))
    span = first, min(first + int(rng.integers(1, 5)), frames)
    yes = np.zeros(frames, bool)
    yes[slice(*span)] = frames > 1 or rng.random() < 0.5
    questions = []
    for _ in range(LOOKUPS):
        color, shape = _random_actor(rng)
        keywords = Segment(0, color, shape, int(rng.integers(1, len(CHANGES)))).keywords(0, rng)
        kind = "Does" if frames == 1 or rng.random() < 0.2 else "In"
        questions.append(Question(kind, keywords, span if yes.any() else None))
    return np.zeros((frames, len(attributes.WORDS)), np.float32), yes, questions


def _described(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A frame's word weights `[1, A]` and what the world says is on it: one shape somewhere, or nothing."""
    if rng.random() < 0.2:
        return attributes.nothing()[None], attributes.NOTHING
    (color, shape), (x, y) = _random_actor(rng), rng.uniform(8, SIZE - 8, 2)
    state = np.array([[x, y, rng.uniform(6, 17), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1)]])
    where = f"{attributes.VERTICAL[int(3 * y / SIZE)]} {attributes.HORIZONTAL[int(3 * x / SIZE)]}"
    caption = f"{noun_phrase(_COLORS[color], _SHAPES[shape])} at the {where}"
    return attributes.weights(np.array([color]), np.array([shape]), state), caption


def _fillers(tokenizer) -> np.ndarray:
    """Tokens without meaning here: not special, no number, kind or keyword, no word the world has for actions."""
    meant = " ".join([*KINDS, *attributes.WORDS, *CHANGES, *(form for forms in TEMPLATES.values() for form in forms)])
    meant = {*tokenizer.encode(meant), *tokenizer.all_special_ids, *_numbers(tokenizer)}
    meant |= {*tokenizer.encode(prompts.span_answer(0, 0)), *tokenizer.encode("ASSISTANT: " + prompts.NOT_PRESENT)}
    return np.array([token for token in range(len(tokenizer)) if token not in meant])


def _encode_question(encoder, question: Question, fillers: np.ndarray, rng) -> np.ndarray:
    """Tokens of `Find: red triangle eastward ASSISTANT:`; three of four have meaningless words at random places.

    Sentences will hold words that the LLM has never seen: it must find the keywords by what they are, not by
    where they stand.
    """
    if question.kind == "Describe":
        return encoder.encode_question(question.keywords, "caption")
    plain = rng.random() < 0.25
    text = f"{question.kind}: {question.keywords}" if question.kind else question.keywords
    if question.kind == "Does" and rng.random() < 0.4:  # any LLM answers this
        plain, text = True, prompts.QUESTIONS["sparse"].format(event=question.keywords)
    asked = encoder.encode_text(text)
    if question.kind != "Say" and not plain:
        count = int(rng.integers(FILLERS + 1))
        asked = np.insert(asked, rng.integers(len(asked) + 1, size=count), rng.choice(fillers, count))
    return np.append(asked, encoder.encode_text(encoder.template.after_video("")))


def make_batch(
    encoder: prompts.PromptEncoder, frames: int, kind: str, size: int, rng, hints: float = 0.0
) -> dict[str, np.ndarray]:
    """A batch of B videos and LOOKUPS texts for each, or one caption if they are "described".

    `weights [B, F, A]`; `changes [B, F]`; `said [B, F]`, the token of the word that a frame also says, -1 for none (in
    a share of `hints`, what changes); `tokens [.., T]`, `loss_weights [.., T]`, `span [.., 2]`.
    """
    batch = {"weights": [], "changes": [], "said": [], "tokens": [], "loss_weights": [], "span": []}
    change_ids, answer_ids = (
        np.array(encoder.tokenizer.convert_tokens_to_ids(list(words))) for words in (CHANGES, ("No", "Yes"))
    )
    index = np.arange(LOOKUP_TOKENS)
    fillers = _fillers(encoder.tokenizer)
    for _ in range(size):
        if kind == "described":
            word_weights, caption = _described(rng)
            said, changes = np.full(1, -1), np.full(1, -1, np.int32)
            questions = [Question("Describe", caption, None)]
        elif kind == "told":
            word_weights, yes, questions = _told(frames, rng)
            said, changes = answer_ids[yes.astype(int)], np.full(frames, -1, np.int32)
        else:
            word_weights, changes, questions = sample(frames, kind, rng)
            hinted = (changes >= 0) & (rng.random() < (1 if kind == "named" else hints))
            said = np.where(hinted, change_ids[changes], -1)
        batch["changes"].append(changes)
        batch["said"].append(said.astype(np.int32))
        word_weights = word_weights * PLAIN if kind in ("plain", "named") else word_weights
        batch["weights"].append(word_weights + NOISE * rng.standard_normal(word_weights.shape, np.float32))
        for question in questions:
            asked = _encode_question(encoder, question, fillers, rng)
            answer = encoder.encode_answer(question.answer)
            tokens = np.full(LOOKUP_TOKENS, encoder.pad_id, np.int32)
            tokens[: len(asked) + len(answer)] = np.concatenate([asked, answer])
            batch["tokens"].append(tokens)
            weights = np.float32((index >= len(asked)) & (index < len(asked) + len(answer)))
            weights[len(asked)] = PRESENCE_WEIGHT if question.kind == "Does" else 1.0
            batch["loss_weights"].append(weights)
            batch["span"].append(question.span if question.kind == "Find" else (-1, -1))
    return {key: np.stack(values) for key, values in batch.items()}


def frame_tokens(embedding: jax.Array, word_ids: jax.Array, weights: jax.Array) -> jax.Array:
    """Tokens `[..., H]` of frames: the mixture of word embeddings that describes each."""
    return (weights * attributes.LOUDNESS) @ embedding[word_ids]


def loss_fn(params, graphdef, prefix, word_ids, change_ids, batch):
    """Loss and the teacher-forced predictions `[B * LOOKUPS, T]`.

    The loss is the mean cross-entropy over answer tokens, plus that of reading what changes off the frames
    themselves: after CHANGE_LAYER blocks a frame must look like the word for it ("westward"). A question finds colors
    and shapes because these words are in the frames from the start; without this loss changes were never found.
    """
    model = nnx.merge(graphdef, params)
    size = len(batch["weights"])
    rows, length = batch["tokens"].shape
    embedding = model.embed_tokens.embedding[...]
    video = frame_tokens(embedding, word_ids, batch["weights"])
    said = attributes.LOUDNESS.max() * embedding[batch["said"]]
    video += jnp.where(batch["said"][..., None] >= 0, said, 0.0)
    start = jnp.broadcast_to(model.embed(prefix)[None], (size, len(prefix), video.shape[-1]))
    _, cache, states = model.prefill(jnp.concatenate([start, video], axis=1), states=True)
    positions = jnp.broadcast_to(cache.length + jnp.arange(length), (rows, length))
    causal = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (rows, length, length))
    suffix = KVCache.zeros(model.config, rows, length, video.dtype)
    texts, _ = model.extend(model.embed(batch["tokens"]), positions, cache, suffix, 0, causal)
    logits = model.logits(texts[:, :-1])  # the first token is always the question's: no loss on it
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"][:, 1:])
    loss = (losses * batch["loss_weights"][:, 1:]).sum() / batch["loss_weights"].sum()
    change_loss, seen = _change_loss(states[CHANGE_LAYER, :, len(prefix) :], model, change_ids, batch["changes"])
    return loss + change_loss, (loss, seen, jnp.pad(logits.argmax(-1), ((0, 0), (1, 0))))


def _change_loss(frames: jax.Array, model: Llama, change_ids: jax.Array, changes: jax.Array):
    """Cross-entropy and accuracy of `changes [B, F]` by the likeness of frames `[B, F, H]` to the words' embeddings."""
    frames = frames * jax.lax.rsqrt(jnp.square(frames).mean(-1, keepdims=True) + 1e-6)
    likeness = frames @ model.embed_tokens.embedding[change_ids].T / frames.shape[-1] ** 0.5
    known = changes >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(likeness, jnp.maximum(changes, 0))
    right = (likeness.argmax(-1) == changes) & known
    count = jnp.maximum(known.sum(), 1)
    return jnp.where(known, losses, 0).sum() / count, right.sum() / count


@partial(jax.jit, static_argnames=("graphdef", "tx"), donate_argnums=(0, 1))
def _train_step(params, opt_state, batch, prefix, word_ids, change_ids, rate, *, graphdef, tx):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (_, told), grads = grad_fn(params, graphdef, prefix, word_ids, change_ids, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    updates = jax.tree.map(lambda update: rate * update, updates)
    return optax.apply_updates(params, updates), opt_state, told


def _first_token_right(predicted, batch) -> float:
    """Share of the questions other than `Find` whose answer's first token is right."""
    rows = np.flatnonzero(batch["span"][:, 0] < 0)
    first = batch["loss_weights"][rows].argmax(1)
    return float((predicted[rows, first] == batch["tokens"][rows, first]).mean()) if len(rows) else float("nan")


def _mean_iou(predicted, batch, numbers: dict[int, int]) -> float:
    """IoU of the two number tokens (s from its own place, e after the true s), averaged over `Find` questions."""
    ious = []
    for tokens, weights, (s, e) in zip(predicted, batch["loss_weights"], batch["span"], strict=True):
        if s < 0:
            continue
        first = int(np.argmax(weights))
        a, b = (numbers.get(int(tokens[first + k]), -1) for k in (1, 3))
        inter, union = min(b, e) - max(a, s), max(b, e) - min(a, s)
        ious.append(max(inter, 0) / union if union > 0 else float((a, b) == (s, e)))
    return float(np.mean(ious))


def _initialise(model: Llama) -> None:
    """A start for small widths, instead of N(0, 0.02), which is made for widths of thousands.

    Kernels get variance 1 / fan-in (those that write to the residual stream less, by depth), and embeddings are
    loud enough to be heard beside them: matching a question to frames is then learned in two thirds of the steps.
    """
    for path, param in flat_params(model).items():
        if path.endswith("embedding"):
            param.set_value(param[...] * 25)
        elif path.startswith("layers/") and path.endswith("kernel"):
            scale = param.shape[-2] ** -0.5 / 0.02
            residual = "o_proj" in path or "down_proj" in path
            param.set_value(param[...] * (scale / (2 * model.config.num_layers) ** 0.5 if residual else scale))


def train(
    tokenizer,
    *,
    seed: int = 0,
    tokens_a_step: int = 3072,
    minutes: float = 60.0,
    last_steps: int = 1500,
    log=print,
    checkpoint=None,
):
    """Trains the tiny LLM; returns it.

    The learning rate stays at its peak through the curriculum and falls to zero over the last half of `last_steps`
    at the last level. Stops early after `minutes`; goes on from the file `checkpoint` if there.
    """
    encoder = prompts.PromptEncoder(tokenizer, prompts.PromptTemplate(system=""), max_text_tokens=32)
    model = Llama(tiny_config(len(tokenizer)), rngs=nnx.Rngs(seed))
    _initialise(model)
    graphdef, params = nnx.split(model)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.01))
    opt_state = tx.init(params)
    word_ids, change_ids = (
        jnp.array(tokenizer.convert_tokens_to_ids(list(words))) for words in (attributes.WORDS, CHANGES)
    )
    numbers = _numbers(tokenizer)
    prefix = jnp.array(encoder.prefix)
    rng = np.random.default_rng(seed)
    level, running, since = 0, 0.0, 0
    step, started = 0, time.time()
    if checkpoint and pathlib.Path(checkpoint).exists():
        params, opt_state, level, running, since, step = pickle.loads(pathlib.Path(checkpoint).read_bytes())
        rng = np.random.default_rng([seed, step])
    while time.time() - started < minutes * 60 and not (level == len(CURRICULUM) - 1 and since >= last_steps):
        # Once a length is reached, shorter ones stay in the mix, so that nothing is forgotten.
        frames, kind, _ = chosen = CURRICULUM[level if rng.random() < 0.85 else int(rng.integers(level + 1))]
        other, texts = rng.random(), LOOKUPS
        if other < TOLD:
            frames, kind, _ = chosen = int(rng.choice(TOLD_FRAMES)), "told", 0.0
        elif other < TOLD + DESCRIBED:
            frames, kind, _ = chosen = 1, "described", 0.0
            texts = 1
        size = tokens_a_step // (frames + texts * LOOKUP_TOKENS)
        batch = make_batch(encoder, frames, kind, size, rng, HINTS if level < len(CURRICULUM) - 1 else 0.0)
        arrays = {key: batch[key] for key in ARRAYS}
        left = (last_steps - since) / (last_steps / 2) if level == len(CURRICULUM) - 1 else 1.0
        rate = jnp.float32(LEARNING_RATE * min(step / 100, left, 1.0))
        params, opt_state, (loss, seen, predicted) = _train_step(
            params, opt_state, arrays, prefix, word_ids, change_ids, rate, graphdef=graphdef, tx=tx
        )
        step, since = step + 1, since + 1
        if chosen == CURRICULUM[level]:
            score = _mean_iou(np.asarray(predicted), batch, numbers)
            score = min(score, _first_token_right(np.asarray(predicted), batch))
            running = 0.95 * running + 0.05 * score
        if step % 20 == 0:
            log(
                f"step {step} level {level} {kind} F {frames} loss {float(loss):.3f} iou {running:.3f}"
                f" changes {float(seen):.2f}"
                f" others {_first_token_right(np.asarray(predicted), batch):.2f} {time.time() - started:.0f} s"
            )
        if step % 100 == 0 and checkpoint:
            pathlib.Path(checkpoint).write_bytes(
                pickle.dumps(jax.device_get((params, opt_state, level, running, since, step)))
            )
        if running > CURRICULUM[level][-1]:
            level, running, since = level + 1, 0.0, 0
    return nnx.merge(graphdef, params)


def measure(
    model: Llama, tokenizer, *, frames: int = 64, kind: str = "mixed", videos: int = 64, seed: int = 10_000
) -> dict:
    """On fresh videos of `frames` frames, teacher-forced: mean IoU of `Find`, share of right answers to the rest."""
    encoder = prompts.PromptEncoder(tokenizer, prompts.PromptTemplate(system=""), max_text_tokens=32)
    word_ids, change_ids = (
        jnp.array(tokenizer.convert_tokens_to_ids(list(words))) for words in (attributes.WORDS, CHANGES)
    )
    batch = make_batch(encoder, frames, kind, videos, np.random.default_rng(seed))
    graphdef, params = nnx.split(model)
    arrays = {key: batch[key] for key in ARRAYS}
    _, (*_, predicted) = loss_fn(params, graphdef, jnp.array(encoder.prefix), word_ids, change_ids, arrays)
    predicted = np.asarray(predicted)
    return {
        "lookup_iou": _mean_iou(predicted, batch, _numbers(tokenizer)),
        "presence_accuracy": _first_token_right(predicted, batch),
    }


def _numbers(tokenizer) -> dict[int, int]:
    return {tokenizer.convert_tokens_to_ids(f"{n:02d}"): n for n in range(100)}
