"""The events that are asked for happen in one video alone; right answers count, others and none do not."""

import argparse

import pytest

from revision_jax.benchmarks import which_video
from revision_jax.data.builders import shapes_world as world


def test_sentences_are_about_events_of_one_video_alone():
    videos = [world.make_video("test", index, duration_s=180.0) for index in range(4)]
    asked = which_video.choose(videos, 8, seed=0)
    assert len({one.video_id for one in asked[:4]}) == 4  # each video once before one is asked for twice
    for one in asked:
        holding = [
            video for video in videos if any(event.sentence(n) == one.sentence for event, *_ in video.events
                                             for n in range(12))
        ]  # fmt: skip
        assert [video.video_id for video in holding] == [one.video_id]
        spans = [span for _, *span in holding[0].events]
        assert len(one.moments) and all(list(moment) in spans for moment in one.moments)
    with pytest.raises(ValueError, match="happen in one video alone; expected 900"):
        which_video.choose(videos, 900, seed=0)


def test_a_folder_with_a_broken_file_is_measured(trained_run):
    args = argparse.Namespace(workdir=trained_run.workdir, videos=2, minutes=2.0, sentences=2, seed=0)
    found = which_video.measure(args)
    assert (found["videos"], found["sentences"], found["skipped"]) == (2, 2, ["broken.mp4"])
    assert found["right_moment_percent"] <= found["right_video_percent"] <= 100 and found["chance_percent"] == 50
