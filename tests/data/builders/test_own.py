"""Annotations of one's own: CSV, ELAN's files, subtitles -> the same queries; what is wrong is told with its line."""

import json

import numpy as np
import pytest

from revision_jax import prepare
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.builders.events import read_time
from revision_jax.data.builders.folder import read_own

FORMS = {
    "events.csv": (
        "video,start,end,sentence\n"
        'film.mp4,1.5,0:00:04.000,"A man opens a door, slowly."\n'
        "film.mp4,00:00:10,12,a dog runs\n"
        "film,20,21.25,a dog runs\n"
    ),
    "events.tsv": (
        "Sentence\tVideo\tStart\tEnd\n"
        '"A man opens a door, slowly."\tfilm\t1,5\t4\na dog runs\tfilm\t10\t12\na dog runs\tfilm\t20\t21,25\n'
    ),
    "film.eaf": """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" FORMAT="3.0" VERSION="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///films/other.mp4" MIME_TYPE="video/mp4"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="1500"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="4000"/>
    <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="10000"/><TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="12000"/>
    <TIME_SLOT TIME_SLOT_ID="ts5" TIME_VALUE="20000"/><TIME_SLOT TIME_SLOT_ID="ts6" TIME_VALUE="21250"/>
    <TIME_SLOT TIME_SLOT_ID="ts7"/>
  </TIME_ORDER>
  <TIER LINGUISTIC_TYPE_REF="t" TIER_ID="people">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>A man opens a door, slowly.</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="t" TIER_ID="animals">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
      <ANNOTATION_VALUE>a dog runs</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts5" TIME_SLOT_REF2="ts6">
      <ANNOTATION_VALUE>a dog runs</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
""",
    "elan/film.txt": (
        '"#file:///films/film.eaf"\n'
        "people\tAnn\t00:00:01.500\t1.5\t00:00:04.000\t4.0\t00:00:02.500\t2.5\tA man opens a door, slowly.\n"
        "animals\t\t00:00:10.000\t10.0\t00:00:12.000\t12.0\t00:00:02.000\t2.0\ta dog runs\n"
        "animals\t\t00:00:20.000\t20.0\t00:00:21.250\t21.25\t00:00:01.250\t1.25\ta dog runs\n"
    ),
    "headed/film.tsv": (
        "Begin Time - msec\tEnd Time - msec\tDuration - msec\tpeople\tanimals\n"
        "1500\t4000\t2500\tA man opens a door, slowly.\t\n10000\t12000\t2000\t\ta dog runs\n"
        "20000\t21250\t1250\t\ta dog runs\n"
    ),
    "film.srt": (
        "1\n00:00:01,500 --> 00:00:04,000\n<i>A man opens</i>\na door, slowly.\n\n"
        "2\n00:00:10,000 --> 00:00:12,000\n{\\an8}a dog runs\n\n3\n00:00:20,000 --> 00:00:21,250\na dog runs\n"
    ),
    "film.en.vtt": (
        "WEBVTT - made by hand\nKind: captions\n\nNOTE nothing\nto see\n\nSTYLE\n::cue { color: red }\n\n"
        "intro\n00:01.500 --> 00:04.000 align:start\n<v Ann>A man opens a door, slowly.</v>\n\n"
        "00:10.000 --> 00:12.000\na dog&#32;runs\n\n00:00:20.000 --> 00:00:21.250\na dog runs\n"
    ),
}
ROWS = [
    ("film#1", "film", "A man opens a door, slowly.", ((1.5, 4.0),)),
    ("film#2", "film", "a dog runs", ((10.0, 12.0), (20.0, 21.25))),
]


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_every_form_says_the_same(tmp_path, name, ends):
    path = write(tmp_path, name, "\ufeff" * (ends != "\n") + FORMS[name].replace("\n", ends))
    found = read_own(path, {"film"})
    assert [(row.query_id, row.video_id, row.sentence, row.moments) for row in found.rows] == ROWS
    assert not found.gaps


@pytest.mark.parametrize(
    "text, seconds",
    [("62.5", 62.5), ("1:02,5", 62.5), ("0:01:02.500", 62.5), ("100:00:00", 360000.0), (" 75 ", 75.0)],
)
def test_times(text, seconds):
    assert read_time(text) == seconds


@pytest.mark.parametrize("text", ["", "1m", "1:75", "1:75:00", "-1", "1:2:3:4", "nan", "1e3", "٣"])
def test_other_times_are_refused(text):
    with pytest.raises(ValueError, match=r"expected seconds \(62.5\) or H:MM:SS.mmm"):
        read_time(text)


WRONG = {
    "a.csv": ("video,start,end,sentence\na,1,2,x\na,5,4,x\na,1m,2,x\na,1\na,1,2,\n,1,2,x\n", ["3", "4", "5", "6", "7"]),
    "a.srt": ("1\n0:00:01,0 --> 0:00:02,0\nx\n\n2\nx\n\n3\n0:00:01,0 --> \nx\n\n0:00:01,0 --> 0:00:02,0\n",
              ["5", "8", "12"]),
    "a.eaf": (FORMS["film.eaf"].replace('REF2="ts2"', 'REF2="ts7"').replace('REF2="ts4"', 'REF2="ts1"'),
              ["13", "17"]),
    "a.tsv": ("t\t\t00:00:01.0\t00:00:02.0\tx\nt\t\t1.0\t2.0\tx\nt\t\t0:00:01.0\t0:00:09.0\t0:00:01.0\tx\n",
              ["2", "3"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rows_are_told_by_their_line(tmp_path, name):
    text, lines = WRONG[name]
    found = read_own(write(tmp_path, name, text), {"a"})
    assert found.rows and [gap.detail.split()[0].rstrip(":") for gap in found.gaps] == [f"{name}:{n}" for n in lines]
    assert all("expected" in gap.detail for gap in found.gaps)


BOMB = '<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b SYSTEM "file:///etc/passwd">]>\n<x>&a;&b;</x>'


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.eaf", BOMB, r"a.eaf:2: declares a document type"),
        ("a.eaf", "<a>", r"a.eaf:1: no XML"),
        ("a.eaf", "<a/>", r"found <a>; expected <ANNOTATION_DOCUMENT>"),
        ("a.eaf", "<ANNOTATION_DOCUMENT>&a;</ANNOTATION_DOCUMENT>", r"a.eaf:1: no XML \(undefined entity"),
        ("a.srt", "hello\n", r"a.srt:1: no cue; expected lines such as 00:00:01,000 --> "),
        ("a.csv", "film,from,to\n", r"a.csv:1: found 'film,from,to'; expected a header with the columns video,start"),
        ("a.csv", 'video,start,end,sentence\na,1,2,"x\n', r"a.csv:2: .*expected a CSV with quotes closed"),
        ("a.csv", "video,start,end,sentence,end\n", r"the columns end stand twice"),
        ("a.tsv", "Begin Time - hh:mm:ss.ms\tx\n", r"a.tsv:1: found no column 'end time'"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_own(write(tmp_path, name, text), {"a"})


def test_an_event_without_times_never_happens(tmp_path):
    found = read_own(write(tmp_path, "a.csv", "video;start;end;sentence;who\na;;;a cat sings;Ann\n"), {"a"})
    assert found.rows[0].moments == () and found.notes == ["a.csv: columns that are not read: who"]


def test_a_folder_has_a_file_for_each_video(tmp_path):
    for name in ("film.srt", "film.eaf", "day/two.en.vtt", "notes.txt"):
        write(tmp_path / "marks", name, FORMS.get(name, FORMS["film.en.vtt"]))
    (tmp_path / "none").mkdir()
    found = read_own(tmp_path / "marks", {"film", "day/two"})
    assert {row.video_id for row in found.rows} == {"film", "day/two"} and len(found.rows) == 4
    assert [gap.detail for gap in found.gaps] == ["film.srt is about the same video as film.eaf, which alone is read"]
    for path in (tmp_path / "none", tmp_path / "none.csv"):
        with pytest.raises(FileNotFoundError, match="no annotations; expected a file"):
            read_own(path, ())


def test_prepare_makes_queries_of_a_csv(tmp_path):
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy/film.npy", np.ones((30, 128), np.float32))
    path = write(tmp_path, "events.csv", FORMS["events.csv"])
    command = ["folder", "--features", str(tmp_path / "npy"), "--annotations", str(path), "--split", "test"]
    assert prepare.main([*command, "--out", str(tmp_path / "mine")]) == 0
    queries = load_queries(tmp_path / "mine/test/queries.jsonl")
    assert [(q.query_id, q.video_id, q.sentence, q.moments) for q in queries] == ROWS
    first = json.loads((tmp_path / "mine/test/queries.jsonl").read_text().split("\n")[0])
    assert first["moments"] == [[1.5, 4.0]]
