"""Films of 24 forms: each sampled picture is the one that is shown then; clips begin and end at the frame."""

import os

import av
import numpy as np
import pytest

from revision_jax.data.video.clips import write_clip
from revision_jax.data.video.frames import read_frames
from revision_jax.data.video.opening import VideoError
from tests.data.video.forms import FORMS, LENGTH_S, read_number, write

FPS, SPAN = 4.0, (3.3, 6.6)
GUESSED = (".mpg", ".vob")  # few of their pictures have a time of their own; after a seek FFmpeg counts from the next
UNCOPIED = ("flv", "gif", "h263", "png", "rawvideo", "wmv2")  # Matroska does not hold them


def frames_of(form):
    """Numbers of the first and the last picture that are shown within the span."""
    return [
        int(np.searchsorted(form.starts_s, time_s, side="right")) - 1 for time_s in (SPAN[0] + 1e-3, SPAN[1] - 1e-3)
    ]


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: form.name)
def film(request, tmp_path_factory):
    return request.param, write(request.param, tmp_path_factory.mktemp("film"))


def shown(path):
    """(seconds, number) of each picture of a clip."""
    with av.open(str(path)) as container:
        return [(frame.time, read_number(upright(frame))) for frame in container.decode(video=0)]


def upright(frame):
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def test_times_are_right_to_half_a_sampling_interval(film):
    form, path = film
    reader = read_frames(path, FPS, 32)
    numbers = [read_number(picture) for batch in reader for picture in batch]
    if form.rate is None:  # such a file need not say how long its last picture stands
        assert form.starts_s[-1] < reader.duration_s < form.starts_s[-1] + 1
    else:
        assert reader.duration_s == pytest.approx(LENGTH_S, abs=0.5 / FPS)
    assert abs(len(numbers) - reader.duration_s * FPS) <= 1
    starts = np.append(form.starts_s, reader.duration_s)
    for sample, number in enumerate(numbers):
        assert starts[number] - 0.5 / FPS <= sample / FPS <= starts[number + 1] + 0.5 / FPS


def test_an_exact_clip_is_right_to_one_frame(film, tmp_path):
    form, path = film
    write_clip(path, *SPAN, tmp_path / "clip.mkv", exact=True)
    clip = shown(tmp_path / "clip.mkv")
    first, last = frames_of(form)
    off = 1 if form.ending in GUESSED else 0
    numbers = [number for _, number in clip]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert abs(numbers[0] - first) <= off and abs(numbers[-1] - last) <= off
    for time_s, number in clip:
        assert time_s == pytest.approx(max(form.starts_s[number] - SPAN[0], 0), abs=off / 24 + 2e-3)


def test_a_copied_clip_holds_the_span_from_a_key_frame_on(film, tmp_path):
    form, path = film
    if form.codec in UNCOPIED:
        with pytest.raises(VideoError, match="Take --exact"):
            write_clip(path, *SPAN, tmp_path / "clip.mkv")
        return
    write_clip(path, *SPAN, tmp_path / "clip.mkv")
    numbers = [number for _, number in shown(tmp_path / "clip.mkv")]
    first, last = frames_of(form)
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] <= first and numbers[-1] >= last - 1


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux alone tells how a thread is scheduled")
def test_an_av1_film_leaves_the_tests_scheduled_as_they_were(tmp_path):
    """As root its encoder makes the thread a real-time one: what these tests start would take a core for itself."""
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    write(next(form for form in FORMS if form.codec == "libsvtav1"), tmp_path)
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == before
