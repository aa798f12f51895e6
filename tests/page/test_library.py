"""What is shown and served: videos of the folder and uploads within the limits, by key, and nothing else."""

import logging
import os

import numpy as np
import pytest

from revision_jax.data.video.frames import VideoError, write_video
from revision_jax.page.library import Library, Limits, Refused


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """20 seconds, two pictures a second."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, [np.zeros((40, 32, 32, 3), np.uint8)], 2.0)
    return path


@pytest.fixture
def house(tmp_path, film):
    """(folder with a.mp4 and below/b.mkv, uploads/)"""
    folder, uploads = tmp_path / "videos", tmp_path / "uploads"
    (folder / "below").mkdir(parents=True)
    uploads.mkdir()
    for name in ("a.mp4", "below/b.mkv"):
        (folder / name).write_bytes(film.read_bytes())
    (folder / "notes.txt").write_text("no video")
    return folder, uploads


def put(uploads, film, name="up.mp4"):
    """An upload that has come in."""
    (uploads / "incoming").mkdir(exist_ok=True)
    path = uploads / "incoming" / name
    path.write_bytes(film.read_bytes())
    return path


def test_a_folders_videos_are_named_by_keys(house):
    library = Library(house[0], house[1], Limits(10**9, 60))
    choices = library.choices([])
    assert [name for name, _ in choices] == ["a.mp4", "below/b.mkv"]
    assert [library.find(key).path for _, key in choices] == [house[0] / "a.mp4", house[0] / "below/b.mkv"]
    for stranger in (None, "", "a.mp4", "../videos/a.mp4", str(house[0] / "a.mp4"), "/etc/passwd"):
        with pytest.raises(Refused, match="no such video"):
            library.find(stranger)


def test_links_that_lead_out_are_left_out(house, tmp_path, film, caplog):
    folder, uploads = house
    (folder / "out.mp4").symlink_to(film)
    (folder / "in.mp4").symlink_to(folder / "a.mp4")
    with caplog.at_level(logging.WARNING):
        library = Library(folder, uploads, Limits(10**9, 60))
    assert [name for name, _ in library.choices([])] == ["a.mp4", "below/b.mkv", "in.mp4"]
    assert "out.mp4 leads out" in caplog.text
    key = library.choices([])[0][1]
    (folder / "a.mp4").unlink()
    (folder / "a.mp4").symlink_to(film)  # meanwhile
    with pytest.raises(Refused):
        library.find(key)


def test_uploads_are_moved_and_seen_by_their_own(house, film):
    library = Library(None, house[1], Limits(10**9, 60, kept=2))
    keys = []
    for number in range(3):
        path = put(house[1], film, f"up{number}.MP4")
        keys.append(library.add(path).key)
        assert not path.exists()
    assert library.choices([]) == []
    assert [name for name, _ in library.choices(keys)] == ["up1.MP4", "up2.MP4"]  # at most two are kept
    assert library.find(keys[2]).path.read_bytes() == film.read_bytes()
    with pytest.raises(Refused):
        library.find(keys[0])
    assert len([path for path in house[1].rglob("*") if path.is_file()]) == 2


@pytest.mark.parametrize(
    "limits, told",
    [
        (Limits(100, 60), r"'up\.mp4' has 0\.0 MiB; expected at most 0 MiB \(--max_upload_mib\)"),
        (Limits(10**9, 5), r"'up\.mp4' lasts 0:00:20; expected at most 0:00:05 \(--max_minutes\)"),
    ],
    ids=["bytes", "seconds"],
)
def test_too_much_is_refused_and_deleted(house, film, limits, told):
    path = put(house[1], film)
    with pytest.raises(Refused, match=told):
        Library(None, house[1], limits).add(path)
    assert not path.exists() and not [one for one in house[1].rglob("*") if one.is_file()]


def test_what_is_no_video_is_refused_and_deleted(house):
    path = put(house[1], house[0] / "notes.txt", "notes.mp4")
    with pytest.raises(VideoError, match="found a text file"):
        Library(None, house[1], Limits(10**9, 60)).add(path)
    assert not path.exists()


def test_a_file_from_elsewhere_is_no_upload_and_left_alone(house, tmp_path):
    library = Library(None, house[1], Limits(10**9, 60))
    os.symlink(house[0] / "a.mp4", house[1] / "link.mp4")
    for path in (house[0] / "a.mp4", house[1] / "link.mp4", house[1] / "../videos/a.mp4", tmp_path / "none.mp4"):
        with pytest.raises(Refused, match="was not uploaded"):
            library.add(path)
    assert (house[0] / "a.mp4").is_file()


def test_a_folder_that_is_none_or_holds_no_video(house, tmp_path):
    with pytest.raises(ValueError, match="expected a folder"):
        Library(tmp_path / "none", house[1], Limits(1, 1))
    with pytest.raises(ValueError, match="holds no video"):
        Library(house[1], house[1], Limits(1, 1))
