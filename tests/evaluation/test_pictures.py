"""Thumbnails of an evaluation: of the split's own videos, of files that `prepare` noted, of none."""

import json

from revision_jax.data.store.locations import save_locations
from revision_jax.evaluation import pictures
from revision_jax.evaluation.pictures import make_thumbnails
from revision_jax.report.plots import Timeline


def case(video_id, start):
    return Timeline("a star", 130.0, [(start, start + 2)], [(start + 30, start + 34, 2.0)], 1.0, video_id)


def test_pictures_are_bounded_and_told(trained_run, tmp_path, monkeypatch):
    test = trained_run.directories["test"]
    names = [path.stem for path in sorted((test / "videos").iterdir())]
    cases = [case(name, start) for name in names for start in (5.0, 50.0)]
    made = make_thumbnails(test, cases)
    assert len(made.pictures) == 4 * len(names) and made.told.startswith(f"{4 * len(names)} pictures of 160 pixels")
    assert all(picture.startswith(b"\xff\xd8") for picture in made.pictures.values())

    monkeypatch.setattr(pictures, "MOST_BYTES", sum(map(len, made.pictures.values())) - 1)
    fewer = make_thumbnails(test, cases)
    assert len(fewer.pictures) == len(made.pictures) - 1 and "; 1 of those wanted are not there" in fewer.told

    # Files elsewhere; one of them is broken, and then all are gone.
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    save_locations(tmp_path, {names[0]: test / f"videos/{names[0]}.mp4", names[1]: broken})
    some = make_thumbnails(tmp_path, cases)
    assert {name for name, _ in some.pictures} == {names[0]} and "1 videos could not be read" in some.told
    none = make_thumbnails(tmp_path / "elsewhere", cases)
    assert not none.pictures and none.told.startswith("No pictures: the video files of this data are not known")


def test_the_report_of_a_run_has_them(trained_run):
    page = (trained_run.workdir / "eval/report.html").read_text()
    data = json.loads(page.partition('id="query-data">')[2].partition("</script>")[0])
    assert data["pictures"] and any(len(row) == 8 for row in data["rows"]) and "pictures of 160 pixels" in page
