"""Moments as CSV, WebVTT and an edit decision list, worked out by hand."""

import csv

from revision_jax.report.moments import Moment, file_names, write_clips, write_csv, write_edl, write_vtt

FOUND = [
    Moment('a "red" circle, <b>moving</b>', "in/film.mp4", 61.52, 70.0, 0.934),
    Moment("a star\nspins", "in/film.mp4", 3.0, 3725.25, 0.5),
    Moment("a star\nspins", "other/film.mkv", 0.0, 0.0, 0.25),
]


def test_csv_gives_back_what_was_found(tmp_path):
    write_csv(tmp_path / "new/m.csv", FOUND)
    with (tmp_path / "new/m.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["sentence", "video", "start_s", "end_s", "confidence"]
    assert [Moment(*row[:2], *map(float, row[2:])) for row in rows[1:]] == FOUND


def test_chapters_of_a_video_stand_in_its_order_and_cannot_break_the_file(tmp_path):
    write_vtt(tmp_path, FOUND)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film-2.vtt", "film.vtt"]
    assert (tmp_path / "film.vtt").read_text() == (
        "WEBVTT\n\n00:00:03.000 --> 01:02:05.250\na star\\nspins\n\n"
        '00:01:01.520 --> 00:01:10.000\na "red" circle, &lt;b&gt;moving&lt;/b&gt;\n'
    )


def test_an_edit_decision_list_by_hand(tmp_path):
    write_edl(tmp_path / "m.edl", FOUND[:1] + FOUND[2:])
    assert (tmp_path / "m.edl").read_text().splitlines() == [
        "TITLE: moments",
        "FCM: NON-DROP FRAME",
        "",
        "001  AX       V     C        00:01:01:13 00:01:10:00 00:00:00:00 00:00:08:12",
        "* FROM CLIP NAME: film.mp4",
        '* COMMENT: a "red" circle, <b>moving</b> (0.93)',
        "",
        "002  AX       V     C        00:00:00:00 00:00:00:01 00:00:08:12 00:00:08:13",
        "* FROM CLIP NAME: film.mkv",
        "* COMMENT: a star\\nspins (0.25)",
    ]


def test_names_are_safe_and_apart(tmp_path):
    assert dict(file_names(["a/x.mp4", "b/x.mkv", "c/../é?*.mp4"])) == {
        "a/x.mp4": "x",
        "b/x.mkv": "x-2",
        "c/../é?*.mp4": "é__",
    }
    made = []
    write_clips(tmp_path, FOUND, lambda moment, out: made.append(out.name))
    assert made == ["film-00.01.01-1.mkv", "film-00.00.03-2.mkv", "film-2-00.00.00-3.mkv"]
