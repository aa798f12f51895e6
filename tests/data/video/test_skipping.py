"""Pictures that nobody sees are not decoded; those that are sampled stay the same, to the bit."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from av.error import InvalidDataError

from revision_jax.data.video import frames
from revision_jax.data.video.frames import read_frames
from revision_jax.data.video.opening import opened
from revision_jax.data.video.skipping import AHEAD, can_skip, with_skips
from tests.data.video.forms import REORDERED, Form, read_number, write

FILM = Fraction(25)
X265 = ("x265-params", "log-level=none:pools=1:bframes=4:open-gop=1:keyint=24")
OPEN_GOP = ("x264-params", "open-gop=1:b-pyramid=none:keyint=48")
FORMS = (
    Form(".mp4", "libx264", rate=FILM, options=REORDERED),
    Form(".mkv", "libx264", rate=FILM, options=(("bf", "8"), OPEN_GOP)),
    Form(".mp4", "libx264", rate=None, options=REORDERED),
    Form(".mkv", "libx264", rate=None, options=REORDERED),
    Form(".mp4", "libx264", size=(400, 304), rate=FILM, options=REORDERED),  # large enough for several threads
    Form(".mp4", "libx265", rate=FILM, options=(X265,)),
    Form(".mkv", "libx265", rate=None, options=(X265,)),
)


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: form.name)
def film(request, tmp_path_factory):
    return request.param, write(request.param, tmp_path_factory.mktemp("film"))


def pictures(path, fps):
    return np.concatenate(list(read_frames(path, fps, 32)))


def marks(path, fps):
    """Whether no sample shows a picture, for each, in the order in which they are shown."""
    with opened(path) as (container, stream):
        found = [(p.pts, unseen) for p, unseen in with_skips(container.demux(), stream, 0.0, fps) if p.size]
    return [unseen for _, unseen in sorted(found)]


@pytest.mark.parametrize("fps", [0.5, 2, 5, 12.5])
def test_samples_are_those_of_all_pictures(film, fps, monkeypatch):
    form, path = film
    found = pictures(path, fps)
    monkeypatch.setattr(frames, "can_skip", lambda *_: False)
    np.testing.assert_array_equal(found, pictures(path, fps))
    shown = np.searchsorted(form.starts_s, np.arange(len(found)) / fps + 2e-3, side="right") - 1
    assert [read_number(picture) for picture in found] == shown.tolist()


def test_what_no_sample_shows_is_marked(film):
    form, path = film
    few = marks(path, 2)
    assert len(few) == len(form.starts_s)
    if form.rate is not None:
        assert 0.8 < np.mean(few) < 0.95  # one picture of 12.5 is sampled
        assert not any(marks(path, 50))
    assert not few[0] and not few[-1]


def test_only_codecs_that_mark_their_pictures(tmp_path):
    for form, expected in (
        (FORMS[0], True),
        (Form(".avi", "mpeg4"), False),
        (Form(".ts", "libx264", rate=FILM, options=REORDERED), False),  # its clock may jump
    ):
        with opened(write(form, tmp_path)) as (container, stream):
            assert can_skip(container, stream) is expected


STREAM = SimpleNamespace(time_base=Fraction(1, 25))


def packets(times):
    return [SimpleNamespace(pts=time, size=1, stream=STREAM) for time in times]


@pytest.mark.parametrize("strange", [None, 10])
def test_nothing_is_skipped_after_a_time_that_is_missing_or_steps_back(strange):
    times = [*range(100), strange, *range(101, 200)]
    found = [unseen for _, unseen in with_skips(packets(times), STREAM, 0.0, 1.0)]
    assert len(found) == len(times) and any(found[: 99 - AHEAD]) and not any(found[100 - AHEAD :])


def test_an_error_comes_after_the_packets_before_it():
    def broken():
        yield from packets(range(5))
        raise InvalidDataError(1, "damage")

    seen = []
    with pytest.raises(InvalidDataError, match="damage"):
        for packet, _ in with_skips(broken(), STREAM, 0.0, 1.0):
            seen.append(packet.pts)
    assert seen == list(range(5))
