"""Training batches: right features, right answers, deterministic, restorable at every step, shardable."""

import collections

import grain
import numpy as np
import pytest

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import clips as module
from revision_jax.data.batches.clips import ClipKind, clip_stream
from revision_jax.data.batches.streams import Batching, join
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import NOT_PRESENT, PromptEncoder, PromptTemplate, dense_answers

HIERARCHY = Hierarchy(window_s=20.0, num_frames=10)
FPS = 2.0
QUERIES = [
    Query("q0", "v0", "One.", ((30.0, 36.0),), ((60.0, 64.0),)),
    Query("q1", "v0", "Two.", ((10.0, 14.0), (80.0, 85.5))),
    Query("q2", "v1", "Three.", ((1.0, 5.0),)),
    Query("q3", "v0", "Never.", (), ((50.0, 55.0),)),
    Query("q4", "v0", "Too long.", ((40.0, 70.0),)),
    Query("q5", "v0", "Too near.", ((40.0, 50.0), (51.0, 60.0), (30.0, 39.0))),
    Query("q6", "v1", "No room.", ((12.0, 20.0),)),
]


class Letters:
    """A tokenizer of one token a letter."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        return [ord(letter) for letter in text]


PROMPTS = PromptEncoder(Letters(), PromptTemplate(""), 96)


@pytest.fixture(scope="module")
def store(make_store, tmp_path_factory):
    directory, _ = make_store(tmp_path_factory.mktemp("pipeline") / "d", lengths=(200, 64), fps=FPS)
    return FeatureStore(directory)


def build(store, queries=QUERIES, *, read_threads=4, prefetch=8, **options):
    """A pipeline of clips alone; options are fields of `ClipKind` and `Batching`."""
    kind = {"near_miss_fraction": 0.5} | {key: value for key, value in options.items() if hasattr(ClipKind(), key)}
    batching = {"batch_size": 4, "seed": 3, "num_epochs": 1} | {k: v for k, v in options.items() if k not in kind}
    stream = clip_stream([TrainSplit(store, queries)], HIERARCHY, PROMPTS, ClipKind(**kind), Batching(**batching))
    return join([[stream]], read_threads=read_threads, prefetch=prefetch)


def records(pipeline):
    """Every clip of a finite pipeline, by record id."""
    found = {}
    for batch in pipeline.batches:
        for row in range(len(batch["record_id"])):
            found[int(batch["record_id"][row])] = {key: value[row] for key, value in batch.items()}
    return found


def answer(record):
    text = "".join(chr(token) for token in record["tokens"][record["loss_mask"]])
    assert text[-1] == chr(2)
    return text[:-1].strip()


def test_shapes_and_dtypes(store):
    batch = next(iter(build(store).batches))
    shapes = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert shapes == {
        "video": ((4, 10, 8), "float16"),
        "tokens": ((4, 96), "int32"),
        "loss_mask": ((4, 96), "bool"),
        "record_id": ((4,), "int32"),
    }


def test_features_answers_and_questions_are_those_of_the_clip(store):
    pipeline = build(store, batch_size=1, num_epochs=8)
    arrays = {video_id: store.read_all(video_id) for video_id in store.video_ids}
    queries = {query.query_id: query for query in QUERIES}
    present = 0
    for record_id, record in records(pipeline).items():
        clip = pipeline.describe_record.clips[record_id][0]
        query = queries[clip.query_id]
        start, end = clip.window_start_s, clip.window_start_s + 20.0
        total = len(arrays[clip.video_id])
        naive = [
            arrays[clip.video_id][min(int(start * FPS + k / 9 * (end - start) * FPS + 1e-6), total - 1)]
            for k in range(10)
        ]
        np.testing.assert_array_equal(record["video"], np.stack(naive))
        question = "".join(chr(token) for token in record["tokens"] if token not in (0, 2))
        assert query.sentence.lower().rstrip(".") in question and clip.video_id == query.video_id
        if answer(record) == NOT_PRESENT:
            assert not any(start < e and s < end for s, e in query.moments)
        else:
            present += 1
            s, e = HIERARCHY.to_seconds(*dense_answers(10)[answer(record)], start)
            assert any(abs(s - a) <= 2 and abs(e - b) <= 2 for a, b in query.moments)
            assert sum(start < b and a < end for a, b in query.moments) == 1
    assert present == 8 * 7


def test_counts_and_skips(store, caplog):
    pipeline = build(store, batch_size=1)
    assert pipeline.skipped == {module.TOO_LONG: 1, module.TOO_NEAR: 1, module.NO_ROOM: 1}
    assert "give no clips" in caplog.text
    # positives: q0, q1 and q5 twice, q2, q6; contrastive: the same without q6, and q3
    found = records(pipeline)
    kinds = collections.Counter(answer(record) == NOT_PRESENT for record in found.values())
    assert (kinds[False], kinds[True]) == (7, 7) and pipeline.epoch_batches == 14


def test_occurrences_that_must_share_a_window_are_each_its_answer(store):
    """Three windows of one query, as QVHighlights has them: each is drawn as its own target, none is lost."""
    near = Query("near", "v0", "Near.", ((40.0, 42.0), (43.0, 46.0), (47.0, 48.0)))
    apart, shared = (build(store, [*QUERIES, near], batch_size=1, shared=shared) for shared in (False, True))
    assert apart.skipped[module.TOO_NEAR] == 2 and module.TOO_NEAR not in shared.skipped
    assert apart.epoch_batches < shared.epoch_batches
    answered = set()
    for record_id, record in records(shared).items():
        clip = shared.describe_record.clips[record_id][0]
        if clip.query_id == "near" and answer(record) != NOT_PRESENT:
            s, e = HIERARCHY.to_seconds(*clip.answer, clip.window_start_s)
            answered |= {moment for moment in near.moments if abs(s - moment[0]) <= 2 and abs(e - moment[1]) <= 2}
    assert answered == set(near.moments)


@pytest.mark.parametrize(("neg_factor", "contrastive"), [(0.0, 0), (0.5, 4), (1.0, 7), (2.5, 18)])
def test_neg_factor(store, neg_factor, contrastive):
    found = records(build(store, batch_size=1, neg_factor=neg_factor))
    assert sum(answer(record) == NOT_PRESENT for record in found.values()) == contrastive
    assert len(found) == 7 + contrastive


def test_near_miss_fraction(store):
    pipeline = build(store, QUERIES[:1], batch_size=1, near_miss_fraction=1.0)
    starts = [pipeline.describe_record.clips[i][0].window_start_s for i in range(20)]
    answers = [pipeline.describe_record.clips[i][0].answer for i in range(20)]
    holding = [s <= 60.0 and s + 20 >= 64 for s, a in zip(starts, answers, strict=True) if a is None]
    assert len(holding) == 10 and all(holding)


def test_deterministic_and_reshuffled_every_epoch(store):
    first, second = (records(build(store, batch_size=1, num_epochs=3)) for _ in range(2))
    assert list(first) == list(range(42))
    np.testing.assert_equal(first, second)
    other = records(build(store, batch_size=1, num_epochs=3, seed=4))
    assert any((first[i]["video"] != other[i]["video"]).any() for i in first)
    clips = build(store).describe_record.clips
    epochs = [[(c.query_id, c.answer is None) for c in (clips[14 * e + i][0] for i in range(14))] for e in range(2)]
    assert epochs[0] != epochs[1]
    assert collections.Counter(epochs[0]) == collections.Counter(epochs[1])
    starts = [{clips[14 * e + i][0].window_start_s for i in range(14)} for e in range(2)]
    assert starts[0] != starts[1]


def test_restored_at_every_step(store):
    grain.experimental.assert_equal_output_after_checkpoint(build(store, num_epochs=2).batches)


def test_endless(store):
    iterator = iter(build(store, num_epochs=None).batches)
    ids = np.concatenate([next(iterator)["record_id"] for _ in range(10)])
    assert ids.tolist() == list(range(40))


def test_shards_together_are_the_whole(store):
    whole = list(build(store, num_epochs=4).batches)
    parts = [list(build(store, num_epochs=4, shard=(index, 2)).batches) for index in range(2)]
    assert [len(part) for part in parts] == [len(whole)] * 2
    for batch, *halves in zip(whole, *parts, strict=True):
        for key, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([half[key] for half in halves]))


def test_reading_options_change_nothing(store):
    first = list(build(store, read_threads=1, prefetch=1, num_epochs=2).batches)
    second = list(build(store, read_threads=8, prefetch=16, num_epochs=2).batches)
    np.testing.assert_equal(first, second)


def test_describe_record(store):
    pipeline = build(store, num_epochs=2)
    lines = [pipeline.describe_record(i) for i in range(20)]
    assert any(line.startswith("query q2 'Three.' in video v1, ") and "From" in line for line in lines)
    assert any(line.endswith(": Not Present") for line in lines)


def test_bad_arguments(store):
    with pytest.raises(ValueError, match="'q9' names video 'v7'"):
        build(store, [Query("q9", "v7", "x", ((0.0, 1.0),))])
    with pytest.raises(ValueError, match="expected equal parts"):
        build(store, shard=(0, 3))
    with pytest.raises(ValueError, match="expected equal parts"):
        build(store, shard=(2, 2))
    with pytest.raises(ValueError, match="at least one positive and a batch of 64"):
        build(store, batch_size=64)
    with pytest.raises(ValueError, match="at least one positive"):
        build(store, QUERIES[3:5], batch_size=1)
    with pytest.raises(ValueError, match=r"query 'q8': .*max_text_tokens is 96"):
        build(store, [*QUERIES, Query("q8", "v0", "long " * 30, ((0.0, 1.0),))])


def test_several_questions_share_a_window_and_the_first_is_the_clips_own(store):
    one, three = (records(build(store, questions=n)) for n in (1, 3))
    assert one.keys() == three.keys()
    for record_id, record in three.items():
        assert record["tokens"].shape == (3, 96) and record["loss_mask"].shape == (3, 96)
        assert (record["loss_mask"].sum(-1) > 0).all()
        np.testing.assert_array_equal(record["video"], one[record_id]["video"])
        np.testing.assert_array_equal(record["tokens"][0], one[record_id]["tokens"])
