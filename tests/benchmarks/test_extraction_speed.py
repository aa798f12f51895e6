"""The benchmark of extraction: both extractors see the same frames, with the shipped and with random weights."""

import json

import numpy as np
import pytest

from revision_jax.benchmarks import extraction

FLAGS = ["--seconds", "2", "--width", "64", "--height", "48", "--repeat", "1", "--rest", "0"]


def test_the_shipped_encoder_is_compared_on_a_film(torch, capsys):
    extraction.main(FLAGS)
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 10 and report["film"]["seconds"] == 2 and report["cosines"]["least"] > 0.99
    [row] = report["beside"]
    assert row["peer_is"] == "PyAV + PyTorch" and row["ratio"]["median"] > 0


def test_random_weights_of_other_sizes(torch, monkeypatch, capsys):
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(extraction, "SIZES", small)
    extraction.main([*FLAGS, "--encoder", "random-b32", "--fps", "1"])
    report = json.loads(capsys.readouterr().out)
    assert report["encoder"].startswith("random weights") and report["frames"] == 2


def test_features_that_do_not_agree_are_told():
    features = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    assert extraction.check_features(features.astype(np.float16), features)["least"] > 0.999
    with pytest.raises(ValueError, match=r"\(5, 8\) and \(4, 8\); expected as many frames"):
        extraction.check_features(features, features[:4])
    with pytest.raises(ValueError, match="they do not do the same work"):
        extraction.check_features(features, np.roll(features, 1, axis=0))
