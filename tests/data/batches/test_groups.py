"""Groups as training batches: right features, query tokens and answers, deterministic, restorable at every step."""

import dataclasses
import types

import grain
import numpy as np
import pytest

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import groups
from revision_jax.data.batches.clips import ClipKind, clip_stream
from revision_jax.data.batches.groups import GroupKind, group_streams
from revision_jax.data.batches.load_group import LoadGroup
from revision_jax.data.batches.presence import presence_stream
from revision_jax.data.batches.query_tokens import QueryTokens
from revision_jax.data.batches.streams import Batching, join
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import PromptEncoder, PromptTemplate, group_answers

Q, D = 3, 8
FPS = 2.0
HIERARCHY = Hierarchy(window_s=20.0, num_frames=10)
LETTERS = types.SimpleNamespace(  # one token a letter
    bos_token_id=1, eos_token_id=2, pad_token_id=0, encode=lambda text, **_: [ord(letter) for letter in text]
)
PROMPTS = PromptEncoder(LETTERS, PromptTemplate(""), 96)
QUERIES = [
    Query("q0", "v0", "One.", ((30.0, 36.0),), ((60.0, 64.0),)),
    Query("q1", "v0", "Two.", ((10.0, 14.0), (80.0, 85.5))),
    Query("q2", "v2", "Three.", ((1.0, 5.0),)),
    Query("q3", "v0", "Never.", (), ((50.0, 55.0),)),
    Query("q4", "v0", "Too long.", ((40.0, 70.0),)),
    Query("q5", "v0", "Too near.", ((40.0, 50.0), (51.0, 60.0), (30.0, 39.0))),
    Query("q6", "v1", "No room.", ((12.0, 20.0),)),
]
BATCHING = Batching(2, seed=3, num_epochs=4)


def encode_query_tokens(sentences):
    """As many tokens as letters, filled with the sentence's length; 6 tokens a text at most."""
    lengths = np.array([min(len(sentence), 6) for sentence in sentences])
    mask = np.arange(6) < lengths[:, None]
    return np.where(mask, 0.5 * lengths[:, None], 0)[..., None] * np.ones(D, np.float32), mask


EXTRACTOR = types.SimpleNamespace(encode_query_tokens=encode_query_tokens)


@pytest.fixture(scope="module")
def load(make_store, tmp_path_factory):
    directory, _ = make_store(tmp_path_factory.mktemp("groups") / "d", lengths=(200, 64, 200, 200), fps=FPS)
    sentences = {query.query_id: query.sentence for query in QUERIES}
    return LoadGroup(
        FeatureStore(directory), HIERARCHY, PROMPTS, sentences, QueryTokens(EXTRACTOR, sentences.values(), Q)
    )


def long(load, **options):
    """Streams of groups of 6 and of 4; options are fields of `Batching`."""
    batching = dataclasses.replace(BATCHING, **{"places": 2} | options)
    return group_streams([(load, TrainSplit(load.store, QUERIES))], (6, 4), GroupKind(), batching)


def read(*kinds):
    return join(kinds, read_threads=2, prefetch=2)


def answer(tokens, mask):
    return "".join(chr(token) for token in tokens[mask])[:-1].strip()


def test_sizes_come_in_turn_with_their_features_and_answers(load):
    pipeline = read(long(load))
    sizes = []
    for batch in pipeline.batches:
        n = batch["video"].shape[1]
        sizes.append(n)
        shapes = {key: (value.shape[1:], value.dtype.name) for key, value in batch.items()}
        assert shapes == {
            "video": ((n, 10, D), "float16"),
            "query": ((Q, D), "float16"),
            "query_mask": ((Q,), "bool"),
            "tokens": ((96,), "int32"),
            "loss_mask": ((96,), "bool"),
            "record_id": ((), "int32"),
        }
        for row, record_id in enumerate(batch["record_id"]):
            first, end = group_answers(n)[answer(batch["tokens"][row], batch["loss_mask"][row])]
            described = pipeline.describe_record(int(record_id))
            assert described.endswith(f"From {first} to {end}.") and f"in {n} windows of video v" in described
            assert 2 <= end - first <= 3 and end <= n
            query_id = described.split()[1]
            clip = next(c for c in all_clips(load, n) if c.query_id == query_id)
            sentence = load.sentences[clip.query_id]
            np.testing.assert_array_equal(batch["query"][row], load.query_tokens("", sentence)["query"])
    assert sizes[:4] == [6, 4, 6, 4] and len(set(sizes)) == 2


def all_clips(load, size):
    drawer = groups.make_group_drawer(load, QUERIES, size, GroupKind())
    return [drawer.draw(row, np.random.default_rng(row)) for row in range(len(drawer))]


def test_windows_of_a_group_are_read_in_order(load):
    clip = all_clips(load, 4)[0]
    record = load((7, clip))
    everything = load.store.read_all("v0")
    for window, (video_id, start, end) in zip(record["video"], clip.windows):
        np.testing.assert_array_equal(window, everything[HIERARCHY.frame_indices(start, end, FPS, 200)])
        assert video_id == "v0"
    assert record["record_id"] == 7


def test_single_windows_are_asked_for_presence(load):
    parts = [(load, TrainSplit(load.store, QUERIES))]
    pipeline = read([presence_stream(parts, ClipKind(near_miss_fraction=0.5), BATCHING)])
    answers = []
    for batch in pipeline.batches:
        assert batch["video"].shape == (2, 1, 10, D)
        answers += [answer(*row) for row in zip(batch["tokens"], batch["loss_mask"])]
    # The clips of the dense stage, 7 positive and 7 contrastive an epoch.
    assert answers.count("Yes.") == answers.count("No.") == 4 * 7
    assert pipeline.epoch_batches == 7


def test_dense_batches_and_groups_alternate(load):
    batching = dataclasses.replace(BATCHING, places=3)
    dense = clip_stream([TrainSplit(load.store, QUERIES)], HIERARCHY, PROMPTS, ClipKind(questions=2), batching)
    pipeline = read([dense], long(load, place=1, places=3))
    iterator = iter(pipeline.batches)
    seen = [next(iterator) for _ in range(6)]
    assert [b["video"].shape[1:-1] for b in seen] == [(10,), (6, 10), (10,), (4, 10), (10,), (6, 10)]
    assert [sorted(set(b["record_id"] % 3)) for b in seen] == [[0], [1], [0], [2], [0], [1]]
    assert "query" not in seen[0] and seen[0]["tokens"].shape == (2, 2, 96)
    assert "s: " in pipeline.describe_record(0) and "in 6 windows" in pipeline.describe_record(1)


def test_deterministic_by_the_seed_and_each_size_draws_apart(load):
    ids = lambda seed: [[describe(b) for b in itertools_take(read(long(load, seed=seed)))] for _ in range(2)]

    def describe(batch):
        return [batch[key].tobytes() for key in sorted(batch)]

    def itertools_take(pipeline):
        iterator = iter(pipeline.batches)
        return [next(iterator) for _ in range(4)]

    first, second = ids(3)
    assert first == second and first != ids(4)[0]
    large, small = (all_queries(stream) for stream in long(load, num_epochs=1))
    assert sorted(large) == sorted(small) and large != small


def all_queries(stream):
    return [stream.describe_record.clips[i].query_id for i in range(len(stream.describe_record.clips))]


@pytest.mark.parametrize("kind", ["presence", "long", "unified"])
def test_restored_at_every_step(load, kind):
    split = TrainSplit(load.store, QUERIES)
    once = dataclasses.replace(BATCHING, num_epochs=1, places=3)
    if kind == "presence":
        pipeline = read([presence_stream([(load, split)], ClipKind(), once)])
    elif kind == "long":
        pipeline = read(long(load, num_epochs=1))
    else:
        dense = clip_stream([split], HIERARCHY, PROMPTS, ClipKind(), once)
        pipeline = read([dense], long(load, num_epochs=1, place=1, places=3))
    grain.experimental.assert_equal_output_after_checkpoint(pipeline.batches)


def test_endless_streams_can_be_joined(load):
    iterator = iter(read(long(load, num_epochs=None)).batches)
    assert [next(iterator)["video"].shape[1] for _ in range(30)] == [6, 4] * 15


def test_shards_together_are_the_whole(load):
    whole = list(read(long(load)).batches)
    parts = [list(read(long(load, shard=(index, 2))).batches) for index in range(2)]
    for batch, *halves in zip(whole, *parts, strict=True):
        for key, value in batch.items():
            np.testing.assert_array_equal(value, np.stack([half[key] for half in halves], 1).reshape(value.shape))


def test_groups_of_videos(load):
    queries = [*QUERIES, Query("twin", "v2", "one", ((30.0, 36.0),))]
    whole = GroupKind(of="videos")
    sentences = load.sentences | {"twin": "One."}
    with_twin = LoadGroup(load.store, HIERARCHY, PROMPTS, sentences, load.query_tokens)
    (stream,) = group_streams([(with_twin, TrainSplit(with_twin.store, queries))], (3,), whole, BATCHING)
    for batch in read([stream]).batches:
        assert batch["video"].shape == (2, 3, 10, D)
    clips = stream.describe_record.clips
    for clip in (clips[i] for i in range(len(clips))):
        videos = [video_id for video_id, _, _ in clip.windows]
        assert not (clip.query_id == "q0" and "v2" in videos), "the same sentence holds there"
    assert "of 3 videos" in stream.describe_record(0) and "In video" in stream.describe_record(0)
    with pytest.raises(ValueError, match=f"0 groups of 9 videos .*{groups.FEW_VIDEOS}"):
        group_streams([(load, TrainSplit(load.store, QUERIES))], (9,), whole, BATCHING)


def test_bad_arguments(load):
    with pytest.raises(ValueError, match=r"give 6 groups of 6 windows .*at least a batch of 64"):
        long(load, batch_size=64)
    longer = [*QUERIES, Query("q8", "v0", "long " * 30, ((0.0, 1.0),))]
    with pytest.raises(ValueError, match=r"query 'q8': .*max_text_tokens is 96"):
        group_streams([(load, TrainSplit(load.store, longer))], (4,), GroupKind(), BATCHING)
    with pytest.raises(ValueError, match="place is 1 of 1 streams"):
        long(load, places=1)
