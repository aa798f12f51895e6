"""Streams over processes: disjoint shards whose union is one stream, whatever the number of hosts before and after."""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing

import grain
import numpy as np
import pytest

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches.clips import ClipKind, clip_stream
from revision_jax.data.batches.streams import Batching, Rows, join, make_stream
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import PromptEncoder, PromptTemplate

BATCH, STEPS = 8, 100
HIERARCHY = Hierarchy(window_s=20.0, num_frames=10)
QUERIES = [Query(f"q{n}", f"v{n % 2}", f"Thing {n}.", ((30.0 + 3 * n, 33.0 + 3 * n),)) for n in range(12)]


class Letters:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def encode(self, text, add_special_tokens):
        return [ord(letter) for letter in text]


def pipeline(directories, shard=(0, 1), num_epochs=None):
    """Two kinds in turn, the first a mixture of two splits: the position must hold for all of them."""
    splits = [TrainSplit(FeatureStore(path), QUERIES, weight=weight) for path, weight in zip(directories, (3.0, 1.0))]
    prompts = PromptEncoder(Letters(), PromptTemplate(""), 96)
    batching = Batching(BATCH, 5, num_epochs, shard, places=2)
    mixed = clip_stream(splits, HIERARCHY, prompts, ClipKind(questions=2), batching)
    single = clip_stream(splits[:1], HIERARCHY, prompts, ClipKind(), dataclasses.replace(batching, place=1))
    return join([[mixed], [single]], read_threads=2, prefetch=2)


def read(directories, shard, steps, state=None):
    """One process: record ids and features' sums of some batches, and where it stands then."""
    iterator = iter(pipeline(directories, shard).batches)
    if state is not None:
        iterator.set_state(state)
    batches = [next(iterator) for _ in range(steps)]
    rows = [(batch["record_id"].tolist(), batch["tokens"].tolist(), batch["video"].tobytes()) for batch in batches]
    return rows, iterator.get_state()


def processes(directories, count, steps, state=None):
    """The same in `count` processes at once."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of what is loaded here
    with concurrent.futures.ProcessPoolExecutor(count, mp_context=context) as pool:
        work = [pool.submit(read, directories, (index, count), steps, state) for index in range(count)]
        return [item.result(timeout=300) for item in work]


def joined(results):
    """Global batches from those of the hosts."""
    batches = []
    for step in range(len(results[0][0])):
        ids, tokens, video = zip(*(rows[step] for rows, _ in results))
        batches.append(([*itertools.chain(*ids)], [*itertools.chain(*tokens)], b"".join(video)))
    return batches


@pytest.fixture(scope="module")
def directories(make_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    return [make_store(folder / name, lengths=(200, 180), width=width)[0] for name, width in (("a", 8), ("b", 8))]


def test_processes_read_disjoint_shards_of_one_stream_and_go_on_in_any_number(directories):
    """Saved on 4 processes, restored on 2 and on 1: the next 100 global batches are the same."""
    whole, end = read(directories, (0, 1), STEPS + 7)
    four = processes(directories, 4, 7)
    assert joined(four) == whole[:7]
    for step in range(7):
        parts = [set(rows[step][0]) for rows, _ in four]
        assert all(len(part) == BATCH // 4 for part in parts) and len(set.union(*parts)) == BATCH
    states = [state for _, state in four]
    assert states == states[:1] * 4  # one position for all: a checkpoint keeps it once
    two = processes(directories, 2, STEPS, states[0])
    assert joined(two) == whole[7:]
    assert [state for _, state in two] == [end] * 2
    assert read(directories, (0, 1), STEPS, states[3])[0] == whole[7:]


def test_a_mixture_keeps_to_its_weights_and_names_its_records(directories):
    made = pipeline(directories)
    described = [made.describe_record(2 * record) for record in range(200)]
    assert all(line.startswith("query q") for line in described)
    splits = [TrainSplit(FeatureStore(path), QUERIES, weight=weight) for path, weight in zip(directories, (3.0, 1.0))]
    prompts = PromptEncoder(Letters(), PromptTemplate(""), 96)
    stream = clip_stream(splits, HIERARCHY, prompts, ClipKind(), Batching(4, seed=0))
    taken = [stream.describe_record.clips[record][0] for record in range(400)]
    assert np.mean(taken) == pytest.approx(0.25, abs=0.01)
    assert stream.epoch_batches == 2 * (12 + 12) // 4


def test_each_split_of_a_mixture_draws_apart(directories):
    twice = [TrainSplit(FeatureStore(directories[0]), QUERIES)] * 2
    prompts = PromptEncoder(Letters(), PromptTemplate(""), 96)
    stream = clip_stream(twice, HIERARCHY, prompts, ClipKind(), Batching(4, seed=0))
    drawn = {number: [] for number in range(2)}
    for record in range(48):
        number, clips = stream.describe_record.clips[record]
        drawn[number].append(clips[0].window_start_s)
    assert drawn[0] != drawn[1]


def test_mixtures_are_restored_at_every_step(directories):
    grain.experimental.assert_equal_output_after_checkpoint(pipeline(directories, num_epochs=1).batches)


def test_features_are_read_into_their_row_of_the_batch():
    class Drawer:
        skipped = {}

        def __len__(self):
            return 6

        def draw(self, row, rng):
            return row

    given = []

    def load(item, video=None):
        record_id, row = item
        given.append(video is not None)
        if video is None:
            return {"video": np.full((2, 3), row, np.float16), "record_id": np.int32(record_id)}
        video[:] = row
        return {"video": video, "record_id": np.int32(record_id)}

    stream = make_stream(Rows(Drawer(), load), Batching(3, 0, num_epochs=1))
    batch = stream.batches[0]
    assert batch["video"].shape == (3, 2, 3) and batch["record_id"].tolist() == [0, 1, 2]
    assert given == [False, True, True]
    assert sorted({*batch["video"][:, 0, 0], *stream.batches[1]["video"][:, 0, 0]}) == list(range(6))


def test_every_place_and_split_has_its_own_seed():
    batching = [Batching(4, 3, place=place, places=3) for place in range(3)]
    seeds = {own.own_seed(number) for own in batching for number in range(3)}
    assert len(seeds) == 9 and batching[0].own_seed(0) == 3
    with pytest.raises(ValueError, match="place is 3 of 3 streams"):
        Batching(4, 3, place=3, places=3)
