"""The Shapes builder: files for val and test, none for train, the same features by either way."""

import numpy as np
import pytest

from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.builders import shapes_world as world
from revision_jax.data.builders.shapes import Shapes, prepare_shapes, rendered
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video.extraction import Extractor
from revision_jax.data.video.frames import probe

DURATION = 130.0


@pytest.fixture(scope="module")
def extractor(clip_dir):
    return Extractor(clip_dir, fps=1.0, batch=32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, extractor):
    directory = tmp_path_factory.mktemp("shapes")
    return directory, prepare_shapes(directory, extractor, videos={"train": 2, "val": 1}, duration_s=DURATION)


def test_splits(prepared):
    _, splits = prepared
    assert list(splits) == ["train", "val"]
    for split, count in (("train", 2), ("val", 1)):
        store = FeatureStore(splits[split])
        assert len(store.video_ids) == count
        assert set(store.durations.values()) == {DURATION}
        assert all(info.num_frames == 130 for info in store.manifest.videos.values())
        queries = load_queries(splits[split] / "queries.jsonl", store.durations)
        assert {query.video_id for query in queries} == set(store.video_ids)
        assert store.manifest.source["split"] == split
    assert not (splits["train"] / "videos").exists()
    (path,) = (splits["val"] / "videos").iterdir()
    found = probe(path)
    assert (found.duration_s, found.fps, found.width) == (DURATION, world.FPS, world.SIZE)


def test_the_way_through_a_file_changes_little(prepared, extractor):
    _, splits = prepared
    store = FeatureStore(splits["val"])
    video = world.make_video("val", 0, duration_s=DURATION)
    direct = extractor.encode_frames(rendered(video, 1.0)).astype(np.float32)
    through_file = store.read_all(video.video_id).astype(np.float32)
    spread = np.abs(direct - direct.mean(0)).mean()
    assert np.abs(direct - through_file).mean() < 0.2 * spread
    np.testing.assert_array_equal(
        extractor.encode_video(next((splits["val"] / "videos").iterdir())).features,
        store.read_all(video.video_id),
    )


def test_preparing_again_makes_nothing(prepared, extractor, monkeypatch):
    directory, splits = prepared
    monkeypatch.setattr(Shapes, "extract", None)
    assert prepare_shapes(directory, extractor, videos={"train": 2, "val": 1}, duration_s=DURATION) == splits


def test_a_killed_run_keeps_its_videos(tmp_path, extractor, monkeypatch):
    encode = Extractor.encode_video
    calls = []

    def fail_second(self, path, **kwargs):
        calls.append(path.name)
        if len(calls) == 2:
            raise RuntimeError("killed")
        return encode(self, path, **kwargs)

    monkeypatch.setattr(Extractor, "encode_video", fail_second)
    options = {"videos": {"test": 2}, "duration_s": 60.0}
    with pytest.raises(RuntimeError, match="killed"):
        prepare_shapes(tmp_path, extractor, **options)
    splits = prepare_shapes(tmp_path, extractor, **options)
    assert [name[-8:] for name in calls] == ["0000.mp4", "0001.mp4", "0001.mp4"]
    assert len(FeatureStore(splits["test"]).video_ids) == 2


def test_another_encoder_gets_another_directory(prepared, extractor, clip_factory, tmp_path):
    directory, splits = prepared
    other = Extractor(clip_factory(tmp_path, seed=1), fps=1.0, batch=32)
    again = prepare_shapes(directory, other, videos={"val": 1}, duration_s=DURATION)
    assert again["val"] != splits["val"]
    with pytest.raises(ValueError, match="Use another directory"):
        Shapes(splits["val"], "val", other, videos=1, duration_s=DURATION).prepare()


def test_domains_and_bad_arguments(extractor, tmp_path):
    night = prepare_shapes(tmp_path, extractor, videos={"val": 1}, duration_s=40.0, domain="night")["val"]
    day = prepare_shapes(tmp_path, extractor, videos={"val": 1}, duration_s=40.0)["val"]
    assert night != day and FeatureStore(night).manifest.source["domain"] == "night"
    with pytest.raises(ValueError, match="split is 'dev'"):
        prepare_shapes(tmp_path, extractor, videos={"dev": 1})
    with pytest.raises(ValueError, match="at least 1"):
        prepare_shapes(tmp_path, extractor, videos={"val": 0})
    with pytest.raises(ValueError, match="fog"):
        prepare_shapes(tmp_path, extractor, videos={"val": 1}, domain="fog")


@pytest.mark.parametrize("fps", [1.0, 2.5])
def test_rendered_covers_the_video(fps):
    video = world.make_video("train", 0, duration_s=30.0)
    frames = np.concatenate(list(rendered(video, fps)))
    assert frames.shape == (round(30 * fps), world.SIZE, world.SIZE, 3)
    np.testing.assert_array_equal(frames[20:21], video.frames(np.array([20 / fps])))


def test_distractors_are_the_events_that_are_easily_taken_for_the_query():
    video = world.make_video("train", 3)
    queries = video.queries(present=30, absent=10)
    when = {(start, end): event for event, start, end in video.events}
    assert sum(bool(query.distractors) for query in queries) > 30
    for query in queries:
        truths = {when[moment] for moment in query.moments}
        for event in truths:
            others = {when[span] for span in query.distractors}
            assert event not in others
            assert all(event.resembles(other) for other in others)
            alike = {e for e, *_ in video.events if e != event and (e.color, e.shape) == (event.color, event.shape)}
            assert alike <= others, "the same actor doing something else"
