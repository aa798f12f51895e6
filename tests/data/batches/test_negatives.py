"""Strategies of contrastive windows: each where it says, none ever on the event."""

import json

import grain
import numpy as np
import pytest

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import negatives as module
from revision_jax.data.batches.clips import DataSet, clip_stream
from revision_jax.data.batches.negatives import Frames, Random, guarded, make_strategy, read_answers, spread
from revision_jax.data.batches.streams import join
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import PromptEncoder, PromptTemplate

FPS, D = 2.0, 8
HIERARCHY = Hierarchy(window_s=20.0, num_frames=10)
QUERIES = [
    Query("q0", "v0", "A dog runs.", ((100.0, 106.0),)),
    Query("q1", "v0", "a dog runs", ((300.0, 304.0),)),  # the same event again, annotated apart
    Query("q2", "v1", "A cat sits.", ((50.0, 54.0),)),
    Query("q3", "v2", "A dog runs.", ((20.0, 24.0),)),
    Query("q4", "v0", "It never rains.", ()),
]
ENCODED = {"A dog runs.": 0, "a dog runs": 0, "A cat sits.": 1, "It never rains.": 2}


class Letters:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def encode(self, text, add_special_tokens):
        return [ord(letter) for letter in text]


PROMPTS = PromptEncoder(Letters(), PromptTemplate(""), 96)


def encode(sentences):
    return np.eye(D, dtype=np.float32)[[ENCODED[sentence] for sentence in sentences]]


@pytest.fixture(scope="module")
def store(tmp_path_factory, builder_parts):
    """v0 has, besides noise: dogs at 100 and 300 s, something like a dog at 200 s, and an unannotated dog at 400 s."""
    array_builder, extractor, _ = builder_parts
    rng = np.random.default_rng(0)
    arrays = {f"v{n}": rng.normal(size=(1000, D)) * np.r_[0.1, np.ones(D - 1)] for n in range(4)}
    dog = np.eye(D)[0] + 0.2 * np.eye(D)[3]
    for start in (100, 300, 400):
        arrays["v0"][start * 2 : (start + 6) * 2] = dog
    arrays["v0"][400:412] = np.eye(D)[0] + 0.6 * np.eye(D)[4]
    arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    directory = tmp_path_factory.mktemp("negatives") / "d"
    array_builder(directory, arrays, extractor(fps=FPS)).prepare()
    return FeatureStore(directory)


def strategy(store, *names, **options):
    names = [(name, 1.0) if isinstance(name, str) else name for name in names]
    return make_strategy(names, store, QUERIES, HIERARCHY, encode=encode, **options)


def draws(strategy, query, count=60):
    return [strategy.draw(guarded(QUERIES)[query.query_id], np.random.default_rng(n)) for n in range(count)]


def shows(clip, span):
    return clip.window_start_s < span[1] and clip.window_start_s + 20 > span[0]


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "predictions.jsonl"
    rows = [{"evaluation": "x"}, {"method": "depth0", "query_id": "q0", "moments": [[10, 12, 9.0]]}]
    rows += [{"method": "depth1", "query_id": "q0", "moments": [[101, 105, 3.0], [220, 224, 2.0], [401, 404, 1.0]]}]
    rows += [{"method": "depth1", "video_id": "v0", "queries": 1, "cost": {}}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["random", "hard", "semi_hard", "cross_video", "mined"])
def test_no_strategy_ever_shows_the_event_or_its_repetition(store, answers, name):
    made = strategy(store, name, answers=answers)
    for query in QUERIES:
        for clip in draws(made, query):
            assert clip.answer is None and clip.query_id == query.query_id
            assert 0 <= clip.window_start_s <= store.durations[clip.video_id] - 20
            for other in QUERIES:
                if other.video_id == clip.video_id and other.sentence.lower()[:8] == query.sentence.lower()[:8]:
                    assert not any(shows(clip, span) for span in other.moments)


def test_random_is_the_papers_and_takes_the_same_draws(store):
    query = QUERIES[2]
    made = strategy(store, "random", near_miss_fraction=0.5)
    assert isinstance(made, Random)
    for seed in range(5):
        expected = module.sampling.contrastive(query, np.random.default_rng(seed), HIERARCHY, 500.0, 0.5)
        assert made.draw(query, np.random.default_rng(seed)) == expected


def test_hard_takes_what_looks_like_the_sentence_but_not_what_looks_like_the_event(store):
    clips = draws(strategy(store, "hard"), QUERIES[0], 200)
    near = sum(shows(clip, (200.0, 206.0)) for clip in clips)
    assert near > 200 / module.TOP / 2  # one of the best places
    places = strategy(store, "hard").places(guarded(QUERIES)["q0"])
    assert len(places) == module.TOP and abs(places[0] - 203) < 4 and not any(399 < place < 407 for place in places)
    assert (np.diff(np.sort(places)) >= 10).all()


def test_semi_hard_keeps_to_its_band(store):
    made = strategy(store, "semi_hard")
    query = guarded(QUERIES)["q0"]
    times, unit = made.frames.grid("v0")
    scores, allowed = unit.astype(np.float32)[:, 0], made.frames.allowed(query)
    chosen = np.isin(times.astype(np.float32), made.places(query))
    assert allowed[chosen].all() and 0.2 < chosen.sum() / allowed.sum() < 0.3
    assert scores[chosen].max() < scores[allowed].max() and scores[chosen].min() > np.median(scores[allowed])


def test_cross_video_takes_videos_in_which_nobody_says_the_same(store):
    assert {clip.video_id for clip in draws(strategy(store, "cross_video"), QUERIES[0])} == {"v1", "v3"}
    everywhere = [Query(f"e{n}", f"v{n}", "Same.", ((1.0, 2.0),)) for n in range(4)]
    made = make_strategy([("cross_video", 1.0)], store, everywhere, HIERARCHY)
    assert made.draw(everywhere[0], np.random.default_rng(0)).video_id == "v0"  # none is left: at random in its own


def test_mined_takes_wrong_answers_but_neither_the_event_nor_its_like(store, answers):
    made = strategy(store, "mined", answers=answers)
    assert made.places(guarded(QUERIES)["q0"]).tolist() == [222.0]
    assert all(clip.window_start_s <= 222 <= clip.window_start_s + 20 for clip in draws(made, QUERIES[0]))
    assert len({clip.window_start_s for clip in draws(made, QUERIES[2])}) > 30  # no answers: at random
    assert read_answers(answers).keys() == {"q0"}
    with pytest.raises(FileNotFoundError, match=r"data\.mined"):
        strategy(store, "mined", answers="nowhere.jsonl")


def test_a_mixture_keeps_to_its_weights(store):
    clips = draws(strategy(store, ("cross_video", 3.0), ("hard", 1.0)), QUERIES[0], 400)
    share = np.mean([clip.video_id != "v0" for clip in clips])
    assert 0.68 < share < 0.82


def test_nothing_but_look_alikes_is_drawn_at_random(store, monkeypatch):
    monkeypatch.setattr(module, "LOOK_ALIKE", -1.0)
    made = strategy(store, "hard")
    assert not len(made.places(guarded(QUERIES)["q0"]))
    assert len({clip.window_start_s for clip in draws(made, QUERIES[0])}) > 30


def test_frames_are_read_once(store, monkeypatch):
    frames = Frames(store, HIERARCHY)
    times, unit = frames.grid("v1")
    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float32), axis=1), 1, atol=1e-2)
    assert len(times) == len(unit) == 1000 and times[1] == 0.5
    monkeypatch.setattr(FeatureStore, "read", None)
    assert frames.grid("v1")[1] is unit


def test_spread_keeps_the_first_and_the_distance():
    assert spread(np.array([5.0, 7.0, 20.0, 11.0, 29.0]), 10).tolist() == [5.0, 20.0]
    assert len(spread(np.arange(0, 1000, 10.0), 10)) == module.TOP


@pytest.mark.parametrize("name", ["hard", "semi_hard", "cross_video", "mined"])
def test_pipelines_are_restored_at_every_step(store, answers, name):
    data = [DataSet(store, QUERIES, strategy(store, name, answers=answers))]
    make = lambda: clip_stream(data, HIERARCHY, PROMPTS, batch_size=2, seed=1, num_epochs=1, questions_per_window=2)
    grain.experimental.assert_equal_output_after_checkpoint(join([[make()]], read_threads=2, prefetch=2).batches)
