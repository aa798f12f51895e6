"""The benchmark of decoding: films that all read, and a peer that is the program named."""

import json

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from revision_jax.benchmarks import decoding

FLAGS = ["--seconds", "2", "--width", "96", "--height", "64", "--repeat", "1", "--rest", "0"]


@pytest.fixture
def program(tmp_path):
    """Stands in for ffmpeg, which not every machine has: tells so many pictures, or fails."""

    def make(script):
        path = tmp_path / "program"
        path.write_text(f'#!/bin/sh\n[ "$1" = -version ] && echo ffmpeg version 7.1 && exit\n{script}\n')
        path.chmod(0o755)
        return ["--ffmpeg", str(path)]

    return make


@pytest.mark.parametrize("codec", decoding.CODECS)
def test_a_film_of_each_codec_is_read_beside_ffmpeg(codec, program, capsys):
    decoding.main([*FLAGS, "--codec", codec, *program("echo frame= 10 fps=0 >&2")])
    report = json.loads(capsys.readouterr().out)
    assert report["ffmpeg"] == "7.1" and report["films"][0]["pictures"] == 10
    assert [row["peer_is"] for row in report["beside"]] == ["ffmpeg", "decode alone"]
    assert all(row["ratio"]["median"] > 0 for row in report["beside"])


def test_ffmpeg_gets_the_work_that_ours_does(program, tmp_path):
    [_, path] = program(f'echo "$@" > {tmp_path}/said; echo frame= 3 >&2')
    assert decoding.run_ffmpeg(path, tmp_path / "a film.mp4", 2.5) == 3
    said = (tmp_path / "said").read_text()
    assert "fps=2.5,scale=224:224" in said and "crop=224:224" in said and "a film.mp4" in said


def test_failures_and_other_counts_are_told(program, tmp_path):
    with pytest.raises(RuntimeError, match="failed with 3:\nno such codec"):
        decoding.run_ffmpeg(program("echo no such codec >&2; exit 3")[1], tmp_path / "film.mp4", 5)
    with pytest.raises(ValueError, match=r"ours samples 10 pictures of h264.mp4, .* 4; expected as many"):
        decoding.main([*FLAGS, *program("echo frame= 4 >&2")])
    with pytest.raises(SystemExit, match="no program nowhere; expected FFmpeg's"):
        decoding.main([*FLAGS, "--ffmpeg", "nowhere"])


def test_the_film_has_pictures_that_nothing_refers_to_and_detail(tmp_path):
    decoding.make_film(tmp_path / "film.mp4", "h264", 96, 64, 2)
    with av.open(str(tmp_path / "film.mp4")) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    assert len(kinds) == 50 and PictureType.B in kinds
    shown = list(decoding.film_pictures(96, 64, 1))
    assert len(shown) == 25 and shown[0].std() > 10 and not np.array_equal(shown[0], shown[1])
