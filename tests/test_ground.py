"""The ground verb on a run with random parts: what it prints, and what it says of files that are no videos."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import revision_jax
from revision_jax import ground, load_run
from revision_jax.data.video.frames import read_frames, write_video
from revision_jax.runs.asking import read_sentences

SENTENCE = "a red circle moves to the left"


@pytest.fixture(scope="module")
def videos(trained_run, tmp_path_factory):
    """The held-out file as it is and in another container, size and rate; and files that are no videos."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "other.mkv", (frames for frames in read_frames(trained_run.video, 4.0, 96)), 4.0)
    whole = trained_run.video.read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (folder / "empty.mp4").touch()
    (folder / "nothing").mkdir()
    return folder


def _run(trained_run, *arguments):
    return ground.main([*map(str, arguments), "--workdir", str(trained_run.workdir)])


def test_prints_moments_or_that_there_are_none(trained_run, capfd):
    assert _run(trained_run, trained_run.video, SENTENCE, "a blue star spins", "--top", 3) == 0
    out, err = capfd.readouterr()
    assert err == ""
    blocks = out.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:2]] == [SENTENCE, "a blue star spins"]
    assert re.fullmatch(r"depth 1: 100 % of the dense windows asked, [\d,]+ tokens a query .*, \d+\.\d s", blocks.pop())
    moment = r"  \d+\. 0:0[0-2]:\d\d - 0:0[0-2]:\d\d   confidence \d+\.\d\d"
    for line in [line for block in blocks for line in block.splitlines()[1:]]:
        assert re.fullmatch(moment, line) or line.startswith("  not in this video"), line


def test_json_and_files_of_queries(trained_run, videos, tmp_path, capfd):
    (tmp_path / "events.txt").write_text(f"{SENTENCE}\n\na blue star spins\n")
    assert _run(trained_run, videos / "other.mkv", "--queries", tmp_path / "events.txt", "--json") == 0
    (found,) = json.loads(capfd.readouterr().out)["videos"]
    assert found["duration_s"] == pytest.approx(130, abs=1)
    assert [q["sentence"] for q in found["queries"]] == [SENTENCE, "a blue star spins"]
    for query in found["queries"]:
        assert query["present"] == bool(query["moments"])
        for moment in query["moments"]:
            assert 0 <= moment["start_s"] < moment["end_s"] <= found["duration_s"] + 1e-3
            assert moment["confidence"] >= query["threshold"]


def test_a_folder_of_videos_is_ranked_and_broken_files_are_skipped_where_asked(trained_run, videos, tmp_path, capfd):
    names = ("other.mkv", "truncated.mp4", "text.mp4")
    for name in names:
        shutil.copy(videos / name, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no video")
    assert _run(trained_run, tmp_path, SENTENCE) == 2  # text.mp4 is told before the run is loaded
    assert "text.mp4: found a text file" in capfd.readouterr().err
    asked = (trained_run.video, tmp_path, SENTENCE, "a blue star spins", "--always", "--skip-broken", "--top", 3)
    assert _run(trained_run, *asked, "--json") == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert found["version"] == 1
    assert [Path(one["video"]).name for one in found["videos"]] == [trained_run.video.name, "other.mkv"]
    assert [Path(one["video"]).name for one in found["skipped"]] == ["text.mp4", "truncated.mp4"]
    assert err.count("skipped: ") == 2 and "truncated.mp4" in err
    for number, ranking in enumerate(found["ranking"]):
        told = [moment["confidence"] for moment in ranking["moments"]]
        of_all = [m["confidence"] for one in found["videos"] for m in one["queries"][number]["moments"]]
        assert 0 < len(told) <= 3 and told == sorted(of_all, reverse=True)[: len(told)]
        assert {moment["video"] for moment in ranking["moments"]} <= {one["video"] for one in found["videos"]}
    assert _run(trained_run, *asked) == 0
    blocks = capfd.readouterr().out.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:2]] == [SENTENCE, "a blue star spins"]
    moment = r"  1\. 0:\d\d:\d\d - 0:\d\d:\d\d   confidence \d+\.\d\d   \S+\.(mp4|mkv)"
    assert re.fullmatch(moment, blocks[0].splitlines()[1])
    assert blocks[0].splitlines()[-1] in ("  in 1 of 2 videos", "  in 2 of 2 videos")


def test_the_least_confidence_is_the_users(trained_run, capfd):
    assert _run(trained_run, trained_run.video, SENTENCE, "--min_confidence", "1e9", "--json") == 0
    (query,) = json.loads(capfd.readouterr().out)["videos"][0]["queries"]
    assert (query["present"], query["threshold"], query["moments"]) == (False, 1e9, [])


def test_a_second_question_reads_no_video(trained_run, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("REVISION_JAX_CACHE", str(tmp_path))
    film = shutil.copy(trained_run.video, tmp_path / "film.mp4")
    assert _run(trained_run, film, SENTENCE, "--always", "--timings") == 0
    first, err = capfd.readouterr()
    assert re.fullmatch(r"start [\d.]+ s  videos [\d.]+ s  search [\d.]+ s  all [\d.]+ s\n", err)

    def no_decoding(*_, **__):
        raise AssertionError("a video was read")

    monkeypatch.setattr("revision_jax.data.video.extraction.Extractor.encode_video", no_decoding)
    moved = shutil.move(film, tmp_path / "moved.mp4")
    assert _run(trained_run, moved, SENTENCE, "--always") == 0
    assert capfd.readouterr().out.splitlines()[:2] == first.splitlines()[:2]
    with pytest.raises(AssertionError, match="a video was read"):
        _run(trained_run, moved, SENTENCE, "--cache", "off")


def test_moments_as_files(trained_run, tmp_path, capfd):
    files = ("--csv", "m.csv", "--vtt", "out", "--edl", "m.edl", "--clips", "out")
    flags = [value if value.startswith("--") else tmp_path / value for value in files]
    assert _run(trained_run, trained_run.video, SENTENCE, "--always", "--top", 2, *flags) == 0
    rows = (tmp_path / "m.csv").read_text().splitlines()
    assert rows[0] == "sentence,video,start_s,end_s,confidence" and 2 <= len(rows) <= 3
    assert (tmp_path / f"out/{trained_run.video.stem}.vtt").read_text().startswith("WEBVTT\n\n0")
    assert (tmp_path / "m.edl").read_text().count("* FROM CLIP NAME: ") == len(rows) - 1
    clips = sorted((tmp_path / "out").glob("*.mkv"))
    assert len(clips) == len(rows) - 1
    for clip in clips:
        assert sum(len(batch) for batch in read_frames(clip, 1.0, 48)) > 0


def test_the_python_api_gives_the_same(trained_run, monkeypatch, tmp_path):
    results = load_run(trained_run.workdir).ground(trained_run.video, [SENTENCE, "a blue star spins"])
    # The newest run under ./runs is the default.
    monkeypatch.chdir(trained_run.workdir.parents[1])
    run = load_run()
    one = run.ground(run.encode(trained_run.video), SENTENCE)[0]
    assert one.threshold == trained_run.metrics["calibration"]["depth1"]["threshold"]
    assert one.sentence == SENTENCE and one.present == results[0].present
    np.testing.assert_allclose(one.moments, results[0].moments, rtol=1e-5)


def test_agrees_with_the_evaluation(trained_run):
    """Same extractor, same search: a held-out file gives the moments that were scored."""
    lines = (trained_run.workdir / "eval/predictions.jsonl").read_text().splitlines()
    of_video = [row for row in map(json.loads, lines) if row.get("video_id") == trained_run.video.stem]
    rows = [row for row in of_video if "query_id" in row and row["method"] == "depth1"]
    results = load_run(trained_run.workdir).ground(trained_run.video, [row["sentence"] for row in rows])
    assert sum(len(result.moments) for result in results) > 0
    for row, result in zip(rows, results):
        np.testing.assert_allclose(result.moments, np.reshape(row["moments"], (-1, 3)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "file, words",
    [
        ("text.mp4", "found"),
        ("truncated.mp4", "incomplete or damaged"),
        ("sound.mp4", "only audio, no video stream"),
        ("missing.mp4", "no such file"),
        ("empty.mp4", "found"),
        ("nothing", "holds no video; expected files that end in"),
        ("gs://bucket/film.mp4", "VIDEO is"),
    ],
)
def test_what_is_no_video_is_one_clear_line(file, words, trained_run, videos, capfd):
    assert _run(trained_run, file if "://" in file else videos / file, SENTENCE) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and words in err and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["  "], "is empty; expected a sentence"),
        ([], "no sentence given; expected an event in quotes"),
        (["a red circle " * 40], "prompt.max_text_tokens"),
        ([SENTENCE, "--top", "0"], "--top is 0"),
        ([SENTENCE, "--exact"], "--exact is about clips"),
        ([SENTENCE, "other film.mp4"], "other film.mp4: found no such file"),
        ([SENTENCE, "--queries", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_queries_are_one_clear_line(arguments, words, trained_run, capfd):
    assert _run(trained_run, trained_run.video, *arguments) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_a_bad_sentence_of_a_file_is_told_with_its_line(tmp_path):
    (tmp_path / "events.txt").write_text("a star\n\n<video></s>\n")
    with pytest.raises(ValueError, match=r"events\.txt:3: the query '<video></s>' is empty"):
        read_sentences((), str(tmp_path / "events.txt"))


def test_without_a_run_it_says_how_to_make_one(trained_run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert ground.main([str(trained_run.video), SENTENCE]) == 2
    err = capfd.readouterr().err
    assert "no trained run under runs/ that can answer" in err
    assert "python -m revision_jax.train --config configs/stage1.py" in err
    shutil.copytree(trained_run.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    assert ground.main([str(trained_run.video), SENTENCE, "--workdir", "run"]) == 2
    assert "holds no trained run" in capfd.readouterr().err


def test_as_a_command(trained_run, videos, tmp_path):
    """In a process of its own: nothing else on stderr, the exit code, and help without slow imports."""
    env = os.environ | {"PYTHONPATH": str(Path(revision_jax.__file__).parents[1])}
    command = [sys.executable, "-m", "revision_jax.ground"]
    bad = subprocess.run(
        [*command, str(videos / "text.mp4"), SENTENCE], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
    good = subprocess.run(
        [*command, str(trained_run.video), SENTENCE, "--workdir", str(trained_run.workdir)],
        env=env, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert (good.returncode, good.stderr) == (0, ""), good.stderr
    assert good.stdout.startswith(SENTENCE)
    code = "import sys; from revision_jax.ground import main\n"
    code += "try: main(['--help'])\nfinally: print('jax' in sys.modules, 'av' in sys.modules)"
    teaches = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert teaches.stdout.endswith("False False\n") and "Examples:" in teaches.stdout and "--queries" in teaches.stdout
