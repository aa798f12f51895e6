"""A frame rate that is a little wrong is told, with what it shifts."""

import numpy as np
import pytest

from revision_jax.data.annotations.rows import Annotations, Row
from revision_jax.data.builders.annotated import Imported
from revision_jax.data.frame_rate import rate_note
from revision_jax.data.store.manifest import Manifest
from revision_jax.data.video.extraction import Encoder


class Features:
    """Features in memory."""

    def __init__(self, frames):
        self.frames = frames

    def keys(self):
        return ["film"]

    def read(self, key):
        return np.ones((self.frames, 4), np.float16)

    def identity(self):
        return {"file": "memory"}


def manifest(directory, rate, said_s, lasts_s=7200.0):
    """Of a film's features, made at `rate` frames a second and said to be of 5."""
    rows = [Row("q", "film", "x", ((1.0, 2.0),), duration_s=said_s)]
    features = Features(round(rate * lasts_s))
    Imported(directory, "test", Encoder("e", "0" * 64, 4, 5.0), Annotations(rows), features, name="mad").prepare()
    return Manifest.load(directory)


def test_a_rate_within_the_tolerance_says_what_it_shifts(tmp_path):
    note = rate_note(manifest(tmp_path / "a", 4.992, 7200.0), annotated=True)
    assert "the end of film are 11.6 s off" in note and "at 4.992 a second (--fps)" in note
    assert rate_note(manifest(tmp_path / "b", 5.0, 7200.4), annotated=True) is None


def test_without_lengths_it_says_what_nobody_would_notice(tmp_path):
    note = rate_note(manifest(tmp_path, 4.99, None), annotated=False)
    assert "no length is annotated" in note and "were it 4.99" in note and "14.4 s off" in note


@pytest.mark.parametrize("annotated", [True, False])
def test_videos_that_are_encoded_here_have_their_own_clock(tmp_path, annotated):
    made = manifest(tmp_path, 4.99, 7200.0)
    made.source.pop("features")
    assert rate_note(made, annotated=annotated) is None
