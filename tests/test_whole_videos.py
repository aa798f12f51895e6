"""MSR-VTT's presets on a few clips: all three stages have positives and negatives, whole clips, and no `val`."""

import json

import numpy as np
import pytest
from tiny_base import chain_config, make_base

from revision_jax import prepare, train
from revision_jax.data.batches.clips import ClipKind, clip_stream
from revision_jax.data.batches.negatives.cross_video import CrossVideo
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.strategy import Mixture
from revision_jax.data.batches.streams import Batching
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.runs.run import Run
from revision_jax.runs.splits import open_split
from revision_jax.runs.training import wanted_splits

SECONDS = {f"video{n}": 6.0 + 2 * n for n in range(7)}  # up to 18 s; a window of the test has 20
CHANGES = {
    "hierarchy__window_s": 20.0,
    "prompt__system": "",
    "data__fps": 5.0,
    "model__dtype": "float32",
    "model__param_dtype": "float32",
    "model__remat": "none",
    "train__warmup_ratio": 0.1,
    "search__question_tokens": 0,
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with `base/` and `data/{train,test}`, made by `prepare msrvtt` of 7 clips with 2 captions each."""
    folder = tmp_path_factory.mktemp("msrvtt")
    make_base(folder / "base", width=16)
    rng = np.random.default_rng(0)
    (folder / "features").mkdir()
    for name, seconds in SECONDS.items():
        np.save(folder / "features" / f"{name}.npy", rng.normal(size=(int(5 * seconds), 16)).astype(np.float32))
    said = [
        {"video_id": name, "sen_id": 10 * n + k, "caption": f"a {kind} number {n}"}
        for n, name in enumerate(SECONDS)
        for k, kind in enumerate(("star", "circle"))
    ]
    (folder / "data.json").write_text(json.dumps({"videos": [], "sentences": said}))
    (folder / "train.csv").write_text("video_id\n" + "\n".join(list(SECONDS)[:6]) + "\n")
    (folder / "test.csv").write_text("video_id,sentence\nvideo6,a star moves\n")
    for split in ("train", "test"):
        argv = ["msrvtt", "--annotations", str(folder / "data.json"), "--csv", str(folder / f"{split}.csv")]
        argv += ["--features", str(folder / "features"), "--fps", "5", "--encoder", str(folder / "base/clip")]
        assert prepare.main([*argv, "--out", str(folder / "data"), "--split", split]) == 0
    return folder


def config_of(clips, spec, **changes):
    return chain_config(f"configs/{spec}.py:msrvtt", clips, **CHANGES | changes)


def drawn(clips, config):
    """Every clip of an epoch of the dense stage, with its batch row."""
    run = Run(config)
    store, queries = open_split(config, clips / "data/train", 16)
    kind, batching = ClipKind(whole=True), Batching(1, seed=0, num_epochs=1)
    stream = clip_stream([TrainSplit(store, queries)], run.hierarchy, run.prompts, kind, batching)
    return store, [stream.batches[n] for n in range(len(stream.batches))], stream


def test_three_stages_train_and_are_scored_without_val(clips, caplog):
    for name, spec in (("dense", "stage1"), ("sparse", "stage1_sparse"), ("long", "stage2")):
        config = config_of(clips, spec)
        assert set(wanted_splits(Run(config, clips / name))) == {"train", "test"}
        caplog.clear()
        with caplog.at_level("INFO", "revision_jax"):
            # One of them is scored here; short videos are ranked by stage 2 in tests/evaluation/test_clips.py.
            metrics = train.train(config_of(clips, spec, eval__after_training=name == "dense"), clips / name)
        if name != "long":
            assert "12 positive, 12 contrastive windows" in caplog.text
        assert len((clips / name / "metrics.jsonl").read_text().splitlines()) == 4
        if name == "dense":
            assert metrics["split"] == "test" and metrics["retrieval"]["clips"] == 1
            assert metrics["retrieval"]["methods"]["depth1"]


def test_a_clip_is_one_window_and_negatives_are_other_clips(clips):
    config = config_of(clips, "stage1")
    store, batches, stream = drawn(clips, config)
    assert len(batches) == 24
    lines = [stream.describe_record(int(batch["record_id"][0])) for batch in batches]
    present = [line for line in lines if line.endswith("From 00 to 07.")]
    absent = [line for line in lines if line.endswith("Not Present")]
    assert (len(present), len(absent)) == (12, 12)
    for line in lines:
        asked, shown = line.split("/")[0].removeprefix("query "), line.split("in video ")[1].split(",")[0]
        assert (asked == shown) == (line in present)
        assert f"0.0 to {SECONDS[shown]:.1f} s" in line
    # Eight frames spread over the whole clip: no two are the same frame.
    for line, batch in zip(lines, batches, strict=True):
        frames = store.read_all(line.split("in video ")[1].split(",")[0])
        found = [int(np.flatnonzero((frames == frame).all(axis=1))[0]) for frame in batch["video"][0]]
        assert found[0] == 0 and found[-1] == len(frames) - 1 and len(set(found)) == 8


def test_a_mixture_draws_where_there_is_a_window(clips):
    config = config_of(clips, "stage1")
    store, queries = open_split(config, clips / "data/train", 16)
    hierarchy = Run(config).hierarchy
    at_random = Random(hierarchy, store.durations)
    other = CrossVideo(queries, store.durations, hierarchy.window_s, at_random)
    mixture = Mixture([at_random, other], [9.0, 1.0], hierarchy, store.durations)
    assert mixture.elsewhere(queries[0]) and not at_random.elsewhere(queries[0])
    rng = np.random.default_rng(0)
    assert all(mixture.draw(queries[0], rng, 0.0).video_id != queries[0].video_id for _ in range(20))
