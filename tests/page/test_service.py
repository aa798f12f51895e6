"""A question's way without the page: refused early, its place told, answered by the code of `ground`."""

import json
import threading

import pytest

from revision_jax import demo, ground
from revision_jax.page.library import Library, Limits
from revision_jax.page.line import Line
from revision_jax.page.service import Service
from revision_jax.runs.answers import as_json
from revision_jax.runs.asking import Asking
from revision_jax.runs.run import load_run

SENTENCE = "a red circle moves to the left"


@pytest.fixture(scope="module")
def service(trained_run, tmp_path_factory):
    library = Library(trained_run.video.parent, tmp_path_factory.mktemp("uploads"), Limits(10**9, 600))
    line = Line(most=2)
    yield Service(load_run(trained_run.workdir), library, line, Asking(threshold=float("-inf")))
    line.close()


def test_its_place_is_told_and_it_is_answered_like_ground(service, trained_run, capfd):
    go = threading.Event()
    service.line.join(lambda tell: go.wait(60))
    key = {video: key for video, key in service.library.choices([])}[trained_run.video.name]
    steps = service.ask(key, SENTENCE)
    assert next(steps) == "waits: 1 question is first"
    with pytest.raises(ValueError, match="2 questions wait already"):
        next(service.ask(key, SENTENCE))
    go.set()
    *told, (video, answered) = steps
    assert video.path == trained_run.video and set(told) <= {f"reads {video.name}", f"searches {video.name}", ""} | {
        "waits: 1 question is first"
    }
    arguments = [str(trained_run.video), SENTENCE, "--workdir", str(trained_run.workdir), "--always", "--json"]
    assert ground.main(arguments) == 0
    printed, shown = (
        json.loads(text)["videos"][0]["queries"] for text in (capfd.readouterr().out, as_json([answered]))
    )
    assert shown == printed


@pytest.mark.parametrize(
    "key, sentence, told",
    [
        ("/etc/passwd", SENTENCE, "no such video"),
        (None, " ", "empty"),
        (None, "a red circle " * 50, "expected at most 500"),
        (None, "a red circle " * 30, "the model reads at most"),
    ],
    ids=["stranger", "empty", "long", "too long for the model"],
)
def test_what_cannot_be_asked_is_refused(service, key, sentence, told):
    key = key or service.library.choices([])[0][1]
    with pytest.raises(ValueError, match=told):
        list(service.ask(key, sentence))


def test_a_broken_file_is_told_without_its_place(service, trained_run, tmp_path):
    whole = trained_run.video.read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    library = Library(tmp_path, tmp_path / "none", Limits(10**9, 600))
    broken = Service(service.run, library, service.line, service.how)
    with pytest.raises(ValueError, match=r"^half\.mp4: found") as told:
        list(broken.ask(library.choices([])[0][1], SENTENCE))
    assert str(tmp_path) not in str(told.value)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--max_minutes", "0"], "--max_minutes is 0.0; expected more than 0"),
        (["--videos", "none"], "--videos is none; expected a folder"),
        (["--port", "99999999"], "cannot listen at 127.0.0.1:99999999"),
    ],
    ids=["limit", "folder", "port"],
)
def test_what_the_verb_refuses(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert demo.main(arguments) == 2
    assert told in capsys.readouterr().err
