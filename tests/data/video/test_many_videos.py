"""Videos encoded together have the features that each has alone (odd files and kills: tests/test_prepare.py)."""

from fractions import Fraction

import av
import numpy as np
import pytest

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.video.extraction import Extractor, identify
from revision_jax.data.video.frames import write_video
from revision_jax.data.video.many_videos import encode_videos
from revision_jax.parallel.programs import forget


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number, length in enumerate((7, 3, 12)):
        write_video(folder / f"{number}.mp4", [rng.integers(0, 255, (length, 32, 32, 3), np.uint8)], 1.0)
    (folder / "bad.mp4").write_text("text")
    with av.open(str(folder / "late.mp4"), "w") as container:  # its first picture comes after 4 s
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 32
        for time in range(4, 7):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return [(path.stem, path) for path in sorted(folder.iterdir())]


def test_features_are_those_of_each_video_alone(files, clip_dir):
    forget()
    extractor = Extractor(clip_dir, 1.0, batch=8)
    together = dict(encode_videos(extractor, files, decoders=2))
    assert isinstance(together.pop("bad"), Gap)
    assert {name: len(video.features) for name, video in together.items()} == {"0": 7, "1": 3, "2": 12, "late": 7}
    for name, path in files:
        if name in together:
            alone = extractor.encode_video(path)
            np.testing.assert_allclose(together[name].features, alone.features, atol=2e-3)
            assert together[name].duration_s == alone.duration_s and together[name].fps == 1.0
    assert extractor.compile_count == 1


def test_an_encoder_is_known_without_loading_it(clip_dir, tmp_path):
    extractor, known = Extractor(clip_dir, 2.0), identify(clip_dir, 2.0)
    for field in ("name", "fingerprint", "width", "fps"):
        assert getattr(extractor, field) == getattr(known, field)
    with pytest.raises(FileNotFoundError, match="expected a Hugging Face directory"):
        identify(tmp_path, 1.0)
