"""Strategies of contrastive windows: each where it says, none ever on the event."""

import json
import re
import subprocess
import sys
from pathlib import Path

import grain
import numpy as np
import pytest

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import frame_grid, negatives, sampling
from revision_jax.data.batches.clips import ClipKind, clip_stream
from revision_jax.data.batches.negatives.mined import read_answers
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.strategy import Strategy, StrategyContext, guarded, make_strategy
from revision_jax.data.batches.streams import Batching, join
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.store.features import FeatureStore
from revision_jax.evaluation.predictions import Prediction, PredictionLog
from revision_jax.hierarchy import Hierarchy
from revision_jax.metrics.cost import Cost
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


def strategy(store, *names, answers=None):
    names = [(name, 1.0) if isinstance(name, str) else name for name in names]
    return make_strategy(names, StrategyContext(store, QUERIES, HIERARCHY, encode, answers))


def draws(strategy, query, count=60):
    return [strategy.draw(guarded(QUERIES)[query.query_id], np.random.default_rng(n), 0.0) for n in range(count)]


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


@pytest.mark.parametrize("name", negatives.strategy_names())
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
    made = strategy(store, "random")
    assert isinstance(made, Random)
    for seed in range(5):
        expected = sampling.contrastive(query, np.random.default_rng(seed), HIERARCHY, 500.0, 0.5)
        assert made.draw(query, np.random.default_rng(seed), 0.5) == expected


def test_hard_takes_what_looks_like_the_sentence_but_not_what_looks_like_the_event(store):
    clips = draws(strategy(store, "hard"), QUERIES[0], 200)
    near = sum(shows(clip, (200.0, 206.0)) for clip in clips)
    assert near > 200 / frame_grid.TOP / 2  # one of the best places
    places = strategy(store, "hard").times(guarded(QUERIES)["q0"])
    assert len(places) == frame_grid.TOP and abs(places[0] - 203) < 4 and not any(399 < place < 407 for place in places)
    assert (np.diff(np.sort(places)) >= 10).all()


def test_semi_hard_keeps_to_its_band(store):
    made = strategy(store, "semi_hard")
    query = guarded(QUERIES)["q0"]
    times, unit = made.grid.frames("v0")
    scores, allowed = unit.astype(np.float32)[:, 0], made.grid.allowed(query)
    chosen = np.isin(times.astype(np.float32), made.times(query))
    assert allowed[chosen].all() and 0.2 < chosen.sum() / allowed.sum() < 0.3
    assert scores[chosen].max() < scores[allowed].max() and scores[chosen].min() > np.median(scores[allowed])


def test_cross_video_takes_videos_in_which_nobody_says_the_same(store):
    assert {clip.video_id for clip in draws(strategy(store, "cross_video"), QUERIES[0])} == {"v1", "v3"}
    everywhere = [Query(f"e{n}", f"v{n}", "Same.", ((1.0, 2.0),)) for n in range(4)]
    made = make_strategy([("cross_video", 1.0)], StrategyContext(store, everywhere, HIERARCHY))
    assert (
        made.draw(everywhere[0], np.random.default_rng(0), 0.0).video_id == "v0"
    )  # none is left: at random in its own


def test_mined_takes_wrong_answers_but_neither_the_event_nor_its_like(store, answers):
    made = strategy(store, "mined", answers=answers)
    assert made.times(guarded(QUERIES)["q0"]).tolist() == [222.0]
    assert all(clip.window_start_s <= 222 <= clip.window_start_s + 20 for clip in draws(made, QUERIES[0]))
    assert len({clip.window_start_s for clip in draws(made, QUERIES[2])}) > 30  # no answers: at random
    assert read_answers(answers, QUERIES, store.durations).keys() == {"q0"}
    with pytest.raises(FileNotFoundError, match=r"data\.mined"):
        strategy(store, "mined", answers=Path("nowhere.jsonl"))


def predictions(path, store, **changes):
    """The log of an evaluation with an answer to q0 and one to q2; `changes` of the first, after it was written."""
    path.unlink(missing_ok=True)
    log = PredictionLog(path, "x")
    for query in (QUERIES[0], QUERIES[2]):
        log.append("depth1", [query], [Prediction(query.query_id, np.array([[10.0, 14.0, 0.5]]))], Cost())
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    lines[1] |= changes
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_mined_answers_belong_to_these_queries_or_are_told(store, tmp_path, caplog):
    path = predictions(tmp_path / "predictions.jsonl", store)
    assert strategy(store, "mined", answers=path).answers.keys() == {"q0", "q2"}
    assert f"{path} (data.mined) has no answer to 3 of the 5 queries of {store.path}" in caplog.text
    predictions(path, store, moments=[[30.0, 34.0, 0.5]])
    assert read_answers(path, QUERIES, store.durations).keys() == {"q2"}
    assert f"{path}:3: the lines of 'v0' above are not what was written; it is left out" in caplog.text
    for row, told in (
        ({"video_id": "v1"}, "video_id of 'q0' is 'v1', here 'v0'"),
        ({"sentence": "A cow."}, "sentence of 'q0' is 'A cow.', here 'A dog runs.'"),
        ({"moments": [[490.0, 502.0, 1.0]]}, "a moment of 'q0' ends at 502 s, its video at 500 s"),
    ):
        path.write_text(json.dumps({"query_id": "q0", "moments": []} | row))
        with pytest.raises(ValueError, match=re.escape(told)):
            read_answers(path, QUERIES, store.durations)


def test_a_mixture_keeps_to_its_weights(store):
    clips = draws(strategy(store, ("cross_video", 3.0), ("hard", 1.0)), QUERIES[0], 400)
    share = np.mean([clip.video_id != "v0" for clip in clips])
    assert 0.68 < share < 0.82


def test_nothing_but_look_alikes_is_drawn_at_random(store, monkeypatch):
    monkeypatch.setattr(frame_grid, "LOOK_ALIKE", -1.0)
    made = strategy(store, "hard")
    assert not len(made.times(guarded(QUERIES)["q0"]))
    assert len({clip.window_start_s for clip in draws(made, QUERIES[0])}) > 30


@pytest.mark.parametrize("name", ["hard", "semi_hard", "cross_video", "mined"])
def test_pipelines_are_restored_at_every_step(store, answers, name):
    splits = [TrainSplit(store, QUERIES, strategy(store, name, answers=answers))]
    stream = clip_stream(splits, HIERARCHY, PROMPTS, ClipKind(questions=2), Batching(2, seed=1, num_epochs=1))
    grain.experimental.assert_equal_output_after_checkpoint(join([[stream]], read_threads=2, prefetch=2).batches)


def test_a_strategy_is_found_by_its_file(tmp_path, monkeypatch, store):
    """One more file in the package is one more name in the config and one more strategy, and nothing else changes."""
    (tmp_path / "first.py").write_text(
        "from revision_jax.data.batches.sampling import Clip\n"
        "from revision_jax.data.batches.strategy import Strategy\n"
        "class First(Strategy):\n"
        "    name = 'first'\n"
        "    for_groups = False\n"
        "    @classmethod\n"
        "    def make(cls, context):\n"
        "        return cls()\n"
        "    def draw(self, query, rng, near_miss_fraction):\n"
        "        return Clip(query.query_id, query.video_id, 0.0, None)\n"
    )
    (tmp_path / "other.py").write_text("first = 1\n")
    monkeypatch.setattr(negatives, "__path__", [*negatives.__path__, str(tmp_path)])
    for name in ("first", "other"):  # not one that another test added; gone again after this one
        monkeypatch.setitem(sys.modules, f"{negatives.__name__}.{name}", None)
        monkeypatch.delitem(sys.modules, f"{negatives.__name__}.{name}")
    assert {"first", "random"} <= set(negatives.strategy_names())
    assert draws(strategy(store, "first"), QUERIES[0], 1)[0].window_start_s == 0.0
    with pytest.raises(ValueError, match=r"other\.py: found 0 classes with name = 'other'"):
        negatives.find_strategy("other")


def test_every_strategy_says_what_it_needs(store):
    assert {name for name in negatives.strategy_names() if not negatives.find_strategy(name).for_groups} == {
        "cross_video"
    }
    assert all(issubclass(negatives.find_strategy(name), Strategy) for name in negatives.strategy_names())
    bare = StrategyContext(store, QUERIES, HIERARCHY)
    for name, lacking in (("hard", "an encoder"), ("semi_hard", "an encoder"), ("mined", r"data\.mined")):
        with pytest.raises(ValueError, match=f"'{name}' .*{lacking}"):
            make_strategy([(name, 1.0)], bare)
    with pytest.raises(ValueError, match="no strategy 'none'; expected one of cross_video, hard"):
        make_strategy([("none", 1.0)], bare)


def test_the_names_are_known_without_loading_a_strategy():
    code = "import sys; from revision_jax.data.batches.negatives import strategy_names; print(strategy_names())\n"
    code += "print(any(name in sys.modules for name in ('jax', 'numpy')))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "semi_hard" in shown and shown.endswith("False\n")


def test_near_misses_are_as_many_as_the_stream_asks_where_a_strategy_draws_at_random(store, monkeypatch):
    """The share belongs to the draw: clips and groups of one strategy may have different ones."""
    monkeypatch.setattr(frame_grid, "LOOK_ALIKE", -1.0)  # nothing is left for `hard`: it draws at random
    query = Query("q", "v1", "A cat sits.", ((50.0, 54.0),), ((300.0, 304.0),))
    made = make_strategy([("hard", 1.0)], StrategyContext(store, [query], HIERARCHY, encode))
    share = lambda fraction: np.mean(
        [
            clip.window_start_s <= 300 and clip.window_start_s + 20 >= 304
            for clip in (made.draw(query, np.random.default_rng(n), fraction) for n in range(200))
        ]
    )
    assert share(1.0) == 1.0 and share(0.0) < 0.15
