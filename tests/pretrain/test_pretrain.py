"""The tiny parts' training data, and that what is shipped fits together and is as good as it says."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from revision_jax import tokenizer_files
from revision_jax.config import resolve_path
from revision_jax.data.builders.shapes_drawing import SIZE
from revision_jax.data.builders.shapes_events import COLORS, SHAPES
from revision_jax.interop.adapter import load_dense_adapter
from revision_jax.interop.llama import load_llama
from revision_jax.models.clip import CLIP
from revision_jax.models.encoder import unit
from revision_jax.pretrain import (
    attributes,
    clip_words,
    curriculum,
    lookup_batches,
    lookup_lm,
    lookup_losses,
    lookup_questions,
    lookup_scores,
    lookup_world,
    shapes_clip,
)
from revision_jax.pretrain.parts import frame_encoder
from revision_jax.pretrain.tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def states(**changes):
    base = {"x": SIZE / 2, "y": SIZE / 2, "radius": 11.0, "angle": 0.0, "alpha": 1.0} | changes
    return np.array([list(base.values())])


def weight(word, shape="arrow", **changes):
    row = attributes.weights(np.array([0]), np.array([SHAPES.index(shape)]), states(**changes))[0]
    return row[attributes.WORDS.index(word)]


def test_word_weights_follow_position_size_heading_and_brightness():
    assert weight("left", x=0.0) == 1 and weight("center", x=SIZE / 2) == 1 and weight("bottom", y=SIZE) == 1
    assert 0 < weight("left", x=0.3 * SIZE) < 1
    assert weight("north") == 1 and weight("east", angle=np.pi / 2) == pytest.approx(1, abs=1e-6)
    assert weight("north", angle=2 * np.pi - 1e-6) == pytest.approx(1, abs=1e-4)
    assert weight("north", shape="circle") == 0, "a circle's heading cannot be seen"
    assert weight("faint", alpha=0.25) == 0.75
    assert weight("large", radius=30.0) == 1


def test_every_word_is_one_token(tokenizer):
    numbers = [f"{n:02d}" for n in range(100)]
    others = ("During", "Present", "spinning", "Does", "Yes", "No")
    for word in (*attributes.WORDS, *lookup_world.CHANGES, *numbers, *others):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1, word
    shipped = tokenizer_files.load_tokenizer(str(resolve_path("asset:tiny/llm")))
    assert shipped.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("frames", [8, 32, 64])
def test_a_lookup_has_one_answer(frames):
    rng = np.random.default_rng(frames)
    for _ in range(20):
        segments = lookup_world.segments_of(frames, "mixed", rng)
        assert sum(segment.length for segment in segments) == frames
    seen = set()
    for _ in range(60):
        word_weights, changes, _, questions = lookup_questions.sample(frames, "mixed", rng)
        assert word_weights.shape == (frames, len(attributes.WORDS)) and len(questions) == lookup_questions.LOOKUPS
        assert changes.shape == (frames,) and (word_weights[changes >= 0, attributes.WORDS.index("nothing")] == 0).all()
        for question in questions:
            seen.add((question.kind, question.answer.split()[0]))
            columns = [attributes.WORDS.index(w) for w in question.keywords.split() if w in (*COLORS, *SHAPES)]
            if question.span:
                s, e = question.span
                assert 0 <= s <= e < frames
                assert (word_weights[s:e, columns] >= 1).all(), question
    assert seen == {
        ("Find", "From"), ("In", "From"), ("Does", "Yes."), ("Does", "No."), ("Say", "Not"), ("Say", "In"), ("", "Not"),
    }  # fmt: skip


def test_seen_frames_turn_in_half_of_the_videos_and_nothing_is_asked(tokenizer):
    encoder = lookup_batches.make_encoder(tokenizer)
    batch = lookup_batches.make_batch(encoder, 16, "seen", 100, np.random.default_rng(0))
    assert set(batch) == {"weights", "changes", "said"} and (batch["said"] == -1).all()
    still_or_turning = [-1, *(lookup_world.CHANGES.index(name) for name in ("still", *lookup_world.TURNS))]
    turning = np.isin(batch["changes"], still_or_turning).all(1)
    assert 40 < turning.sum() < 70
    assert set(batch["changes"][turning].flat) == set(still_or_turning)
    assert set(batch["changes"].flat) == set(range(-1, len(lookup_world.CHANGES)))


def test_what_is_absent_is_nowhere(monkeypatch):
    monkeypatch.setattr(lookup_world, "WORDED", 0.0)  # one wording only
    rng = np.random.default_rng(5)
    for _ in range(100):
        segments = lookup_world.segments_of(32, "mixed", rng)
        shown = any(segment.color >= 0 for segment in segments)
        if shown and (keywords := lookup_questions.absent_keywords(segments, "mixed", rng)):
            for segment in segments:
                for form in range(4):
                    assert segment.color < 0 or segment.keywords(form, rng) != keywords


@pytest.mark.parametrize("frames", [1, 16])
def test_told_frames_say_where_it_is(tokenizer, frames):
    encoder = lookup_batches.make_encoder(tokenizer)
    batch = lookup_batches.make_batch(encoder, frames, "told", 20, np.random.default_rng(0))
    yes, no = tokenizer.convert_tokens_to_ids(["Yes", "No"])
    assert set(batch["said"].flat) == {yes, no} and (batch["changes"] == -1).all()
    answers = [tokenizer.decode(tokens[weights > 0]) for tokens, weights in zip(batch["tokens"], batch["loss_weights"])]
    for row, answer in enumerate(answers):
        shown = np.flatnonzero(batch["said"][row // lookup_questions.LOOKUPS] == yes)
        if frames == 1:
            assert answer.startswith("Yes" if len(shown) else "No")
        else:
            assert answer.startswith(("Yes", f"From {shown[0]} to {shown[-1] + 1} ."))


@pytest.mark.parametrize("kind", ["plain", "named", "mixed"])
def test_tokens_that_look_for_frames_know_which_show_it(tokenizer, kind):
    encoder, frames = lookup_batches.make_encoder(tokenizer), 16
    batch = lookup_batches.make_batch(encoder, frames, kind, 12, np.random.default_rng(0))
    numbers, unseen = lookup_batches.number_tokens(tokenizer), 0
    for tokens, looking, shown, (s, e) in zip(batch["tokens"], batch["looking"], batch["shown"], batch["span"]):
        assert tokenizer.decode(tokens[looking[0]]) == ":"
        if s < 0:
            assert (shown[1:] == -1).all()
            continue
        assert [numbers[int(tokens[at + 1])] for at in looking[1:]] == [s, e]
        stop = e if e < frames - 1 or shown[0, -1] == 0 else frames
        assert (shown == shown[0]).all() and (np.delete(shown[0], np.r_[s:stop]) == 0).all()
        assert set(shown[0, s:stop]) <= {1, -1} and (shown[0, s + 2 : stop] == 1).all()
        unseen += (shown[0] == -1).sum()
    assert (unseen > 0) == (kind == "mixed")  # a change is seen late
    told = lookup_batches.make_batch(encoder, frames, "told", 2, np.random.default_rng(0))
    assert (told["shown"] == -1).all()


def test_matching_compares_half_of_the_states_and_counts_what_is_known():
    frames = np.zeros((1, 3, 8), np.float32)
    frames[0, :, 4:] = np.random.default_rng(0).normal(size=(3, 4))
    frames[0, np.arange(3), np.arange(3)] = 1.0
    texts = np.stack([frames[0, :2], frames[0, 1:]])
    shown = np.stack([np.eye(3)[:2], np.eye(3)[1:]]).astype(np.int32)
    loss, matched = lookup_losses.match_loss(frames, texts, shown)
    assert loss < 1e-3 and matched == 1
    wrong, missed = lookup_losses.match_loss(frames, texts, 1 - shown)
    assert wrong > 9 and missed == 0
    half = np.where(np.arange(2)[:, None, None] == 1, -1, shown)  # the second question's are left out
    assert lookup_losses.match_loss(frames, texts * [[[1]], [[-1]]], half) == lookup_losses.match_loss(
        frames, texts, half
    )


def test_frames_are_read_as_the_word_that_they_are_like():
    words = np.eye(4, 8, dtype=np.float32) * 9
    frames = words[None, [2, 0, 1]]
    loss, right = lookup_losses.word_loss(frames, words, np.array([[2, 0, -1]]))
    assert loss < 1e-2 and right == 1
    assert lookup_losses.word_loss(frames, words, np.array([[1, 1, -1]]))[1] == 0


def test_changes_are_named_as_the_world_names_them():
    segment = lookup_world.Segment(8, 0, 0, lookup_world.CHANGES.index("westward"))
    rng = np.random.default_rng(0)
    named = {segment.keywords(3, rng) for _ in range(100)}
    assert {"red westward", "red slides left", "red moves from right to left"} < named and len(named) == 5


def test_two_that_collide_are_shown_and_asked_for_together():
    red_circle, blue_moon = (0, 0), (list(COLORS).index("blue"), SHAPES.index("moon"))
    segment = lookup_world.Segment(9, *red_circle, lookup_world.COLLIDING, blue_moon)
    rng = np.random.default_rng(0)
    named = {segment.keywords(0, rng) for _ in range(100)}
    assert {"red circle colliding blue moon", "red circle hits blue moon and bounces back"} < named and len(named) == 4
    assert {segment.keywords(form, rng).split()[0] for form in (2, 3)} == {"circle", "red"}
    weights, changes = lookup_world.shown_by([segment], "mixed", rng)
    shown = [attributes.WORDS.index(word) for word in ("red", "blue", "circle", "moon")]
    assert (weights[:, shown] == 1).all() and (changes[2:] == lookup_world.COLLIDING).all()
    left, right = (weights[:, attributes.WORDS.index(word)] for word in ("left", "right"))
    assert (left[[0, -1]] > left[4] + 0.3).all() and (right[[0, -1]] > right[4] + 0.3).all()  # they meet in the middle
    swapped = lookup_world.Segment(9, *blue_moon, lookup_world.COLLIDING, red_circle)
    other = lookup_world.Segment(9, *red_circle, lookup_world.COLLIDING, red_circle)
    alone = lookup_world.Segment(9, *red_circle, lookup_world.CHANGES.index("westward"))
    assert segment.matches(swapped, 0) and not segment.matches(other, 0) and not segment.matches(alone, 0)
    assert alone.matches(segment, 1) and not alone.matches(segment, 0)


def test_pictures_come_with_what_they_show():
    pictures, words, pairs, patches, captions = shapes_clip.sample_images(200, np.random.default_rng(0))
    assert pictures.shape == (200, SIZE, SIZE, 3) and pictures.dtype == np.uint8
    assert patches.shape == (200, len(shapes_clip.PATCH_CENTERS), len(attributes.WORDS) + shapes_clip.MASK**2)
    empty = pairs.sum(1) == 0
    assert empty.any() and all((caption == "there is nothing") == blank for caption, blank in zip(captions, empty))
    one = pairs.sum(1) == 1
    for row in np.flatnonzero(one)[:20]:
        pair = int(pairs[row].argmax())
        assert f"{list(COLORS)[pair // len(SHAPES)]} {SHAPES[pair % len(SHAPES)]}" in captions[row]
        assert words[row, pair // len(SHAPES)] >= 1


def test_the_shipped_parts_read_frames_and_time():
    """The shipped CLIP's probes, and the shipped LLM's lookups over 64 frames, on fresh data."""
    made = json.loads(resolve_path("asset:tiny/made.json").read_text())
    probes = shapes_clip.probe(frame_encoder(resolve_path("asset:tiny/clip")), seed=77, count=1500)
    assert min(probes.values()) > 0.93 and probes["shape"] > 0.97
    assert all(abs(probes[name] - made["probes"][name]) < 0.1 for name in probes), (probes, made["probes"])
    llm = load_llama(resolve_path("asset:tiny/llm"))
    measured = lookup_scores.measure(llm, make_tokenizer(), videos=24)
    assert measured["lookup_iou"] > 0.9 and measured["presence_accuracy"] > 0.95
    told = lookup_scores.measure(llm, make_tokenizer(), frames=1, kind="told", videos=24)
    assert told["presence_accuracy"] > 0.95
    adapter = load_dense_adapter(resolve_path("asset:tiny/projector.safetensors"))
    assert adapter.kernel.shape == (128, llm.config.hidden_size)


def test_the_shipped_parts_are_small():
    folder = resolve_path("asset:tiny")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 16 * 2**20


def test_the_clip_trains_from_a_command(tokenizer):
    """One step of the real training gives finite parameters."""
    clip = shapes_clip.train(tokenizer, steps=1, batch_size=shapes_clip.CAPTIONED)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(clip.vision.patch_embedding[...])))


def test_the_clip_learns_words_that_no_caption_has(tokenizer, monkeypatch):
    """The states of tokens tell their words better; what is compared to pictures stays, the picture's side wholly."""
    graphdef, state = nnx.split(CLIP(shapes_clip.tiny_config(tokenizer), rngs=nnx.Rngs(0)))
    before = nnx.merge(graphdef, state)
    told = []
    monkeypatch.setattr(clip_words.log, "info", lambda text, step, words, moved: told.append((step, words)))
    after = clip_words.learn_words(nnx.merge(graphdef, jax.tree.map(jnp.copy, state)), tokenizer, steps=25)
    (first, words), (last, fewer) = told
    assert (first, last) == (0, 24) and fewer < words - 1.0
    caption = np.asarray([tokenizer("a small red circle")["input_ids"]], np.int32)
    kept = (unit(before.encode_text(caption)[1]) * unit(after.encode_text(caption)[1])).sum()
    assert 0.9 < kept < 1.0
    jax.tree.map(np.testing.assert_array_equal, *(nnx.state(clip.vision) for clip in (before, after)))
    sentences = clip_words.random_sentences(tokenizer, 50, np.random.default_rng(0))
    ends = (sentences == tokenizer.eos_token_id).argmax(1)
    assert ends.min() == 4 and ends.max() == clip_words.WORDS + 1
    assert set(sentences[:, 0]) == {tokenizer.bos_token_id} and (sentences == tokenizer.eos_token_id).sum() == 50


def test_the_curriculum_goes_on_by_score_and_ends_after_the_last_steps():
    place = curriculum.Place()
    assert place.rate == 0 and place.after(None) == curriculum.Place(0, 0.0, 1, 1)
    steps = 0
    while place.level == 0:
        place, steps = place.after(1.0), steps + 1
    assert place == curriculum.Place(1, 0.0, 0, steps) and steps == 18  # 1 - 0.95 ** 18 > 0.6
    last = curriculum.Place(curriculum.LAST, 0.99, curriculum.LAST_STEPS - 1, 5000)
    assert 0 < last.rate < 0.01 * curriculum.LEARNING_RATE and not last.done
    assert last.after(1.0).done and last.after(1.0).level == curriculum.LAST
    drawn = [curriculum.Place(3).choose(np.random.default_rng(seed)) for seed in range(200)]
    assert {choice.kind for choice in drawn} == {"plain", "named", "change", "told", "described"}
    assert all((choice.kind == "change") == choice.scored for choice in drawn)
    kinds = [kind for _, kind, _ in curriculum.CURRICULUM]
    drawn = [curriculum.Place(kinds.index("seen")).choose(np.random.default_rng(seed)) for seed in range(50)]
    assert {choice.size for choice in drawn if choice.kind == "seen"} == {64}  # 16 frames each make 1,024 tokens


def test_the_llm_trains_and_resumes(tokenizer, tmp_path, monkeypatch):
    """Started again, a training goes on at the step of its checkpoint and gives what one that never stopped gives."""
    first_level = (16, "seen", -1.0)  # of one step; the next ones have questions
    monkeypatch.setattr(curriculum, "CURRICULUM", (first_level, *curriculum.CURRICULUM[1:]))
    monkeypatch.setattr(curriculum, "TOKENS_A_STEP", {16: 32, 8: 240})
    monkeypatch.setattr(lookup_lm, "SAVE_EVERY", 1)
    embedding = lambda model: jax.device_get(model.embed_tokens.embedding[...])
    first = lookup_lm.train(tokenizer, steps=2, checkpoint=tmp_path / "llm.partial")
    assert np.isfinite(embedding(first)).all()
    again = lookup_lm.train(tokenizer, steps=3, checkpoint=tmp_path / "llm.partial")
    place = pickle.loads((tmp_path / "llm.partial").read_bytes())[1]
    assert (place.level, place.step) == (1, 3)
    assert (embedding(again) != embedding(first)).any()
    np.testing.assert_array_equal(embedding(again), embedding(lookup_lm.train(tokenizer, steps=3)))
