"""`ground` on films of 24 forms in one call: moments, chapters and clips are of the same pictures."""

import json
from pathlib import Path

import av
import numpy as np

from revision_jax import ground
from tests.data.video.forms import FORMS, LENGTH_S, read_number, write

SENTENCE = "a red circle moves to the left"
GUESSED = (".mpg", ".vob")  # see tests/data/video/test_forms.py


def test_moments_chapters_and_exact_clips_are_of_the_same_pictures(trained_run, tmp_path, capfd):
    (tmp_path / "films").mkdir()
    films = {str(write(form, tmp_path / "films")): form for form in FORMS}
    out = tmp_path / "out"
    flags = ("--always", "--top", "100", "--json", "--vtt", out, "--clips", out, "--exact")
    assert ground.main([*map(str, (*films, SENTENCE, *flags, "--workdir", trained_run.workdir))]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [one["video"] for one in told["videos"]] == list(films)
    for one in told["videos"]:
        assert abs(one["duration_s"] - LENGTH_S) < (1 if films[one["video"]].rate is None else 0.13)
    (ranking,) = told["ranking"]
    moments = ranking["moments"]
    assert {moment["video"] for moment in moments} == set(films)
    clips = {int(path.stem.rsplit("-", 1)[1]): path for path in out.glob("*.mkv")}
    assert sorted(clips) == list(range(1, len(moments) + 1))
    for rank, moment in enumerate(moments, 1):
        form = films[moment["video"]]
        span = moment["start_s"] + 1e-3, moment["end_s"] - 1e-3
        first, last = (int(np.searchsorted(form.starts_s, time_s, side="right")) - 1 for time_s in span)
        with av.open(str(clips[rank])) as container:
            numbers = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        off = 1 if form.ending in GUESSED else 0
        assert abs(numbers[0] - first) <= off and abs(numbers[-1] - last) <= off, (form.name, moment)
        chapters = (out / f"{Path(moment['video']).stem}.vtt").read_text()
        assert f"{clock(moment['start_s'])} --> {clock(moment['end_s'])}\n{SENTENCE}" in chapters


def clock(seconds: float) -> str:
    whole = round(1000 * seconds)
    return f"00:00:{whole // 1000:02d}.{whole % 1000:03d}"
