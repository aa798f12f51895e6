"""Every format that people have, written small but faithfully: what is prepared is what the source arrays hold."""

import io
import json
import types
import zipfile

import grain
import h5py
import lmdb
import numpy as np
import pytest

from revision_jax.data.annotations.gaps import load_gaps
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.batches.clips import ClipKind, clip_stream
from revision_jax.data.batches.query_tokens import StoredQueryTokens
from revision_jax.data.batches.streams import Batching, join
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.builders.annotated import QUERY_TOKENS, Imported, QueryFeatures
from revision_jax.data.builders.folder import read_queries
from revision_jax.data.builders.mad import read_cone, read_mad
from revision_jax.data.builders.msrvtt import read_msrvtt
from revision_jax.data.builders.sources import open_features
from revision_jax.data.builders.vidchapters import read_ids, read_vidchapters, true_id
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video.extraction import Encoder
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import PromptEncoder, PromptTemplate

WIDTH = 12
LETTERS = types.SimpleNamespace(  # one token a letter
    bos_token_id=1, eos_token_id=2, pad_token_id=0, encode=lambda text, **_: [ord(letter) for letter in text]
)
PROMPTS = PromptEncoder(LETTERS, PromptTemplate(""), 120)


def arrays_of(names, seconds, fps, dtype="f4", width=WIDTH):
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=(round(seconds * fps), width)).astype(dtype) for name in names}


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return path


def write_lmdb(path, arrays, member="features", **extra):
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.savez(buffer, **{member: array}, **extra)
            transaction.put(name.encode(), buffer.getvalue())
    return path


def write_npy(path, arrays):
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


WRITERS = {"h5": write_h5, "lmdb": write_lmdb, "npy": write_npy}


def write_features(tmp_path, kind, arrays):
    return WRITERS[kind](tmp_path / ("features.h5" if kind == "h5" else "features"), arrays)


def prepare(tmp_path, annotations, features, fps, name="test"):
    encoder = Encoder("L/14", "a" * 64, WIDTH, fps)
    directory = tmp_path / "out"
    Imported(directory, "train", encoder, annotations, open_features(features), name=name).prepare()
    store = FeatureStore(directory)
    return directory, store, load_queries(directory / "queries.jsonl", store.durations)


def one_epoch(store, queries, hierarchy, batch_size):
    """The windows of a split, once each."""
    batching = Batching(batch_size, seed=2, num_epochs=1)
    stream = clip_stream([TrainSplit(store, queries)], hierarchy, PROMPTS, ClipKind(), batching)
    return join([[stream]], read_threads=4, prefetch=8)


def check_windows(store, queries, arrays, hierarchy):
    """The windows of an epoch equal those cut from the source arrays by hand."""
    pipeline = one_epoch(store, queries, hierarchy, 1)
    fps, seen = store.manifest.fps, 0
    for batch in pipeline.batches:
        (clip,) = pipeline.describe_record.clips[int(batch["record_id"][0])]
        source = arrays[clip.video_id].astype(np.float16)
        start, end = clip.window_start_s * fps, (clip.window_start_s + hierarchy.window_s) * fps
        steps = [start + (end - start) * k / (hierarchy.num_frames - 1) for k in range(hierarchy.num_frames)]
        naive = source[[min(int(step + 1e-6), len(source) - 1) for step in steps]]
        np.testing.assert_array_equal(batch["video"][0], naive)
        seen += 1
    assert seen == pipeline.epoch_batches > 1


def mad_file(tmp_path, durations):
    rows = {
        str(number): {
            "movie": movie,
            "sentence": f"Someone walks past scene {number}. ",
            "timestamps": [20.0 + 30 * (number % 5), 24.5 + 30 * (number % 5)],
            "ext_timestamps": [15.0 + 30 * (number % 5), 30.0 + 30 * (number % 5)],
            "movie_duration": durations[movie],
        }
        for number, movie in enumerate(sorted(durations) * 4)
    }
    path = tmp_path / "MAD_train.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_mad_in_every_container(tmp_path, kind):
    arrays = arrays_of(["10142", "3044_Big"], 180.0, 5)
    path = mad_file(tmp_path, {"10142": 180.1, "3044_Big": 179.8})
    features = write_features(tmp_path, kind, arrays)
    directory, store, queries = prepare(tmp_path, read_mad(path), features, 5.0)
    assert store.durations == {"10142": 180.1, "3044_Big": 179.8} and len(queries) == 8
    assert queries[0].sentence.startswith("Someone") and queries[0].moments == ((20.0, 24.5),)
    assert load_gaps(directory / "gaps.jsonl") == []
    check_windows(store, queries, arrays, Hierarchy(window_s=25.0, num_frames=10))


@pytest.mark.parametrize("by_clip", [True, False])
def test_cone_jsonl_of_ego4d_and_of_mad(tmp_path, by_clip):
    keys = ["clip-a", "clip-b"] if by_clip else ["video-a", "video-b"]
    arrays = arrays_of(keys, 120.0, 2)
    path = tmp_path / "train.jsonl"
    lines = [
        {"query_id": f"{letter}_{n}", "query": "where did I put it?", "duration": 120.0, "clip_id": f"clip-{letter}"}
        | {"video_id": f"video-{letter}", "timestamps": [10.0 + 20 * n, 13 + 20 * n]}
        for letter in "ab"
        for n in range(3)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    features = write_lmdb(tmp_path / "features", arrays, allow_pickle=np.array(False))
    _, store, queries = prepare(tmp_path, read_cone(path, open_features(features).keys()), features, 2.0)
    assert store.video_ids == keys and [query.video_id for query in queries] == [keys[0]] * 3 + [keys[1]] * 3
    check_windows(store, queries, arrays, Hierarchy(window_s=20.0, num_frames=12))


@pytest.mark.parametrize("split", ["train", "val"])
def test_vidchapters(tmp_path, split):
    ids = ["3B-xY0_k9aQ", "_9abcDEF-12"]
    arrays = arrays_of(ids, 400.0, 2)
    (tmp_path / f"{split}.json").write_text(json.dumps(ids))
    if split == "train":  # many queries a row, jsonl
        rows = [
            {"qid": n, "query": ["Intro", "Part 2", "End"], "vid": vid, "duration": 400.0, "split": "train"}
            | {"relevant_windows": [[[0, 40.5]], [[40.5, 200]], [[200, 399]]]}
            for n, vid in enumerate(ids)
        ]
        text = "\n".join(map(json.dumps, rows))
    else:  # one query a row, JSON, a running number before the id
        rows = [
            {"qid": f"q{n}", "query": ["Part"], "vid": f"{n}{ids[n % 2]}", "duration": 400.0, "split": "val"}
            | {"relevant_windows": [[50.0 * n + 1, 50.0 * n + 40]]}
            for n in range(6)
        ]
        text = json.dumps(rows)
    path = tmp_path / "chapters.json"
    path.write_text(text)
    annotations = read_vidchapters(path, read_ids(tmp_path / f"{split}.json"))
    assert not annotations.gaps and len(annotations.rows) == 6
    features = write_npy(tmp_path / "features", arrays)
    _, store, queries = prepare(tmp_path, annotations, features, 2.0)
    assert set(store.video_ids) == set(ids) and len(queries) == 6
    if split == "train":
        assert {query.query_id for query in queries} == {f"{n}/{k}" for n in range(2) for k in range(3)}
    check_windows(store, queries, arrays, Hierarchy(window_s=100.0, num_frames=16))


def test_the_running_number_is_told_from_an_id_that_begins_with_digits():
    known = {"3B-xY0_k9aQ", "abc", "_u"}
    assert true_id("3B-xY0_k9aQ", known) == "3B-xY0_k9aQ"
    assert true_id("123B-xY0_k9aQ", known) == "3B-xY0_k9aQ"
    assert true_id("7_abc", known) == "abc" and true_id("17_u", known) == "_u"
    assert true_id("no-number", known) == "no-number"
    with pytest.raises(ValueError, match="may be any of 11, 211"):
        true_id("3211", {"11", "211"})


def test_msrvtt_train_and_test(tmp_path):
    names = [f"video{n}" for n in range(4)]
    arrays = arrays_of(names, 16.0, 5)
    sentences = [
        {"video_id": name, "sen_id": 10 * n + k, "caption": f"a  man {k}\n"}
        for n, name in enumerate(names)
        for k in (0, 1)
    ]
    data = tmp_path / "MSRVTT_data.json"
    data.write_text(json.dumps({"videos": [], "sentences": sentences}))
    train = tmp_path / "MSRVTT_train.9k.csv"
    train.write_text("video_id\nvideo0\nvideo1\nvideo2\n")
    test = tmp_path / "MSRVTT_JSFUSION_test.csv"
    test.write_text('key,vid_key,video_id,sentence\nret0,msr0,video3,"a dog, running"\n')
    features = write_npy(tmp_path / "features", arrays)
    _, store, queries = prepare(tmp_path, read_msrvtt(data, train), features, 5.0)
    assert store.video_ids == names[:3] and len(queries) == 6
    assert queries[1].query_id == "video0/1" and queries[1].sentence == "a man 1"
    assert queries[1].moments == ((0.0, 16.0),)
    assert store.manifest.source["notes"] == ["MSR-VTT: MSRVTT_train.9k.csv has 3 videos: none of the usual splits"]
    for name in names[:3]:
        np.testing.assert_array_equal(store.read_all(name), arrays[name].astype(np.float16))
    found = read_msrvtt(None, test)
    assert [(row.video_id, row.sentence) for row in found.rows] == [("video3", "a dog, running")]
    with pytest.raises(ValueError, match=r"no column sentence; give MSRVTT_data\.json"):
        read_msrvtt(None, train)


def test_own_queries_with_own_features(tmp_path):
    arrays = arrays_of(["a/one", "two"], 60.0, 2, dtype="f2")
    path = tmp_path / "mine.jsonl"
    lines = [
        {"query_id": n, "video_id": "two", "sentence": "It rains.", "moments": [[5 * n + 1, 5 * n + 3]]}
        for n in range(4)
    ]
    lines.append({"query_id": "bad", "video_id": "two", "sentence": "x", "moments": [1, 2]})
    lines.append({"query_id": "odd", "video_id": "two", "sentence": "x", "moments": [], "color": 1})
    path.write_text("\n".join(map(json.dumps, lines)))
    features = write_h5(tmp_path / "features.h5", {"two": arrays["two"]})
    directory, store, queries = prepare(tmp_path, read_queries(path), features, 2.0)
    assert len(queries) == 4
    details = [gap.detail for gap in load_gaps(directory / "gaps.jsonl")]
    assert len(details) == 2 and "row 5" in details[0] and "unknown fields ['color']" in details[1]
    check_windows(store, queries, arrays, Hierarchy(window_s=20.0, num_frames=8))


@pytest.mark.parametrize("kind", ["h5", "lmdb"])
def test_query_features(tmp_path, kind):
    lengths = {"0": 5, "1": 21, "2": 16}
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(n, WIDTH)).astype("f4") for name, n in lengths.items()}
    if kind == "h5":
        path = write_h5(tmp_path / "tokens.h5", arrays)
    else:
        path = write_lmdb(
            tmp_path / "tokens", arrays, "token_features", cls_features=np.ones((1, WIDTH)), allow_pickle=False
        )
    encoder = Encoder("text", "b" * 64, WIDTH, 1.0)
    directory = QueryFeatures(tmp_path / "out", "train", encoder, [*lengths, "3"], open_features(path)).prepare()
    assert directory == tmp_path / "out" / QUERY_TOKENS
    assert [gap.video_id for gap in load_gaps(directory / "gaps.jsonl")] == ["3"]
    tokens = StoredQueryTokens(FeatureStore(directory), ["0", "1"], 8)
    short, cut = tokens("0", "a"), tokens("1", "b")
    np.testing.assert_array_equal(short["query"][:5], arrays["0"].astype("f2"))
    assert not short["query"][5:].any() and short["query_mask"].sum() == 5
    np.testing.assert_array_equal(cut["query"], arrays["1"][:8].astype("f2"))
    assert cut["query_mask"].all() and tokens.width == WIDTH


def test_what_is_wrong_with_rows_and_features_is_told_and_the_rest_goes_in(tmp_path):
    arrays = arrays_of(["m0", "m1", "m2", "m3"], 100.0, 5)
    arrays["m1"] = arrays["m1"][:, :-1]
    arrays["m2"][17, 3] = 1e30
    path = tmp_path / "MAD_val.json"
    row = lambda movie, start, end, said=100.0: (
        {"movie": movie, "sentence": "x.", "timestamps": [start, end]} | {"movie_duration": said}
    )
    rows = {"ok": row("m0", 5, 9), "point": row("m0", 5, 5), "late": row("m0", 98, 104), "end": row("m0", 98, 100.4)}
    rows |= {"width": row("m1", 5, 9), "inf": row("m2", 5, 9), "gone": row("m9", 5, 9), "long": row("m3", 5, 9, 140.0)}
    rows |= {"nan": row("m0", float("nan"), 9), "untimed": {"movie": "m0", "sentence": "x"}, "empty": row("m0", 1, 2)}
    rows["empty"]["sentence"] = " "
    path.write_text(json.dumps(rows))
    directory, store, queries = prepare(tmp_path, read_mad(path), write_h5(tmp_path / "f.h5", arrays), 5.0)
    assert store.video_ids == ["m0", "m3"] and [q.query_id for q in queries] == ["ok", "end", "long"]
    assert queries[1].moments == ((98.0, 100.0),)
    found = {(gap.kind, gap.query_id or gap.video_id) for gap in load_gaps(directory / "gaps.jsonl")}
    assert found == {
        ("zero length", "point"), ("outside video", "late"), ("encoder", "m1"), ("not finite", "m2"),
        ("video missing", "m9"), ("duration", "m3"), ("annotation", "nan"), ("annotation", ""), ("annotation", "empty"),
    }  # fmt: skip


def test_strangers_files_are_never_executed(tmp_path):
    evil = np.array([print], dtype=object)
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy/v.npy", evil, allow_pickle=True)
    buffer = io.BytesIO()
    np.savez(buffer, features=evil)
    with lmdb.open(str(tmp_path / "db")) as env, env.begin(write=True) as transaction:
        transaction.put(b"v", buffer.getvalue())
        transaction.put(b"w", b"not an archive")
    held = []  # an error holds what it came from: an LMDB that was refused is still open
    for folder, key in (("npy", "v"), ("db", "v"), ("db", "w")):
        with pytest.raises(ValueError, match=r"pickle.*refused|expected a plain array") as refused:
            open_features(tmp_path / folder).read(key)
        held.append(refused)


def test_what_cannot_be_features_is_told(tmp_path):
    (tmp_path / "f.h5").write_text("text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        open_features(tmp_path / "f.h5")
    with pytest.raises(ValueError, match="not features in a known form"):
        open_features(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"expected a file \.h5"):
        open_features(tmp_path / "nothing")
    source = open_features(write_h5(tmp_path / "g.h5", {"a": np.zeros((3, 2, 2)), "b": np.zeros((4, 2), int)}))
    for key in "ab":
        with pytest.raises(ValueError, match=r"expected floats \[N, D\]"):
            source.read(key)


def test_no_features_are_read_from_other_files(tmp_path):
    arrays = arrays_of(["v"], 10.0, 5)
    write_h5(tmp_path / "other.h5", arrays)
    np.zeros((50, WIDTH), "f4").tofile(tmp_path / "raw")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["link"] = h5py.ExternalLink("other.h5", "/v")
        file["soft"] = h5py.SoftLink("/link")
        file.create_dataset("raw", (50, WIDTH), "f4", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
        layout = h5py.VirtualLayout((50, WIDTH), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "v", (50, WIDTH))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("huge", (1 << 40, WIDTH), "f4", chunks=(64, WIDTH))
    source = open_features(tmp_path / "f.h5")
    for key, found in (("link", "link"), ("soft", "link"), ("raw", "other files"), ("virtual", "other files")):
        with pytest.raises(ValueError, match=rf"f.h5.*{found}"):
            source.read(key)
    with pytest.raises(ValueError, match=r"'huge': declares .* bytes; expected at most"):
        source.read("huge")


def test_sizes_that_are_only_declared_are_not_allocated(tmp_path):
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, WIDTH)}
    np.lib.format.write_array_header_1_0(buffer, header)
    (tmp_path / "npy").mkdir()
    (tmp_path / "npy/v.npy").write_bytes(buffer.getvalue() + b"0" * 100)
    with pytest.raises(ValueError, match=r"v.npy.*expected a plain array"):
        open_features(tmp_path / "npy").read("v")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("features.npy", buffer.getvalue() + b"0" * 100)
    with lmdb.open(str(tmp_path / "db")) as env, env.begin(write=True) as transaction:
        transaction.put(b"v", archive.getvalue())
    with pytest.raises(ValueError, match=r"'v'.*declares .* bytes"):
        open_features(tmp_path / "db").read("v")


def test_the_windows_stream_is_restored_at_every_step(tmp_path):
    arrays = arrays_of(["m0", "m1"], 180.0, 5)
    annotations = read_mad(mad_file(tmp_path, {"m0": 180.0, "m1": 180.0}))
    _, store, queries = prepare(tmp_path, annotations, write_h5(tmp_path / "f.h5", arrays), 5.0)
    hierarchy = Hierarchy(window_s=25.0, num_frames=10)
    pipeline = one_epoch(store, queries, hierarchy, 3)
    grain.experimental.assert_equal_output_after_checkpoint(pipeline.batches)
