"""Sizes of data sets: given, drawn, prepared, published, or refused."""

import pytest

from revision_jax import config as configs
from revision_jax.planning.counts import PUBLISHED, Count, counts_of


def test_published_sizes_give_way_to_given_ones():
    config = configs.load("configs/stage1.py:mad")
    found = counts_of(config, {"test": "10,20,300"})
    assert found["train"] == (PUBLISHED["mad"][0], "published")
    assert found["test"] == (Count(10, 20.0, 300), "given")
    assert found["test"][0].video_s == 7200 and found["test"][0].queries_a_video == 30
    films, hours, queries = zip(*[(one.videos, one.hours, one.queries) for one, _ in counts_of(config, {}).values()])
    assert (sum(films), sum(queries)) == (650, 384_000)  # arXiv 2112.00431
    assert sum(hours) * 60 / 650 == pytest.approx(110, rel=0.01)


def test_the_embedded_world_is_drawn():
    found = counts_of(configs.load("configs/stage1_sparse.py"), {})
    assert (found["train"][0].videos, found["train"][0].hours) == (64, 64.0)
    assert found["train"][0].queries == pytest.approx(5343, rel=0.01)  # as it was made, docs/benchmarks.md
    assert found["test"] == (Count(3, 3.0, 240), "drawn")


def test_a_prepared_split_is_counted(trained_run, tmp_path):
    for split, folder in trained_run.directories.items():
        (tmp_path / split).symlink_to(folder)
    config = configs.load("configs/stage1.py:folder", {"data.name": "folder", "data.dir": str(tmp_path)})
    found = counts_of(config, {})
    assert {origin for _, origin in found.values()} == {"counted"}
    drawn = trained_run.config.data
    assert [one.videos for one, _ in found.values()] == [drawn.train_videos, drawn.val_videos, drawn.test_videos]
    assert found["train"][0].hours == pytest.approx(drawn.train_videos * drawn.video_s / 3600)
    lines = (trained_run.directories["test"] / "queries.jsonl").read_text().count("\n")
    assert found["test"][0].queries == lines > 0


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "0,1,1", "1,0,1", "1,1,-3", ""])
def test_what_is_no_count(text):
    with pytest.raises(ValueError, match=r"--train is .*; expected VIDEOS,HOURS,QUERIES above 0"):
        Count.parse("train", text)


def test_unknown_sizes_are_asked_for(tmp_path):
    config = configs.load("configs/stage1.py:tacos", {"data.dir": str(tmp_path)})
    with pytest.raises(
        configs.ConfigError, match=r"no train split is prepared at .*; give --train VIDEOS,HOURS,QUERIES"
    ):
        counts_of(config, {})
