"""The benchmarks run, and say what they measured; how fast is not asserted."""

import dataclasses
import json

import numpy as np
import pytest

from revision_jax.benchmarks import length, search


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Short windows, so that this takes seconds."""
    hierarchy = search.make_hierarchy()
    shorter = type(hierarchy)(20.0, 12, 0.5, 0.5, (100, 33))
    monkeypatch.setattr(search, "make_hierarchy", lambda scale=1.0: dataclasses.replace(shorter, upper_scale=scale))


def test_ours_and_the_plain_program_in_one_run(capsys):
    policies = ["--policies", "top_down", "--keep", "8,4"]
    search.main(["--compare", "--shape", "tiny", "--hours", "0.1", "--queries", "3", *policies])
    result = json.loads(capsys.readouterr().out)
    plain, top_down = result["runs"]
    assert plain["timed_queries"] == 1 and plain["extrapolated_to"] == 3 and plain["dense_pairs_per_query"] == 35
    assert plain["sparse_vectors_per_query"] == 14 * 35 and top_down["sparse_vectors_per_query"] == 35
    assert top_down["dense_pairs_per_query"] == 4
    assert top_down["llm_tokens_per_query"] < plain["llm_tokens_per_query"]
    expected = plain["seconds_per_query"] / top_down["seconds_per_query"]
    assert top_down["times_as_fast"] == pytest.approx(expected) and top_down["tflops"] > 0
    assert top_down["memory_gib"]["counted"] > top_down["memory_gib"]["temporary"]


def test_lengths_cost_what_a_constant_number_of_windows_costs(capsys):
    length.main(["--shape", "tiny", "--hours", "0.1,0.4", "--queries", "1", "--keep", "8,4"])
    short, long = json.loads(capsys.readouterr().out)["rows"]
    assert short["dense_windows_per_query"] == long["dense_windows_per_query"] == 4
    assert short["llm_tokens_per_query"] < long["llm_tokens_per_query"] < 4 * short["llm_tokens_per_query"]
    assert long["sparse_vectors_per_query"] > 3 * short["sparse_vectors_per_query"] and short["R1@0.3"] is None


@pytest.mark.parametrize("seconds", [50.0, 100.0, 250.0, 1000.0])
def test_the_event_is_there_once(seconds):
    features = np.zeros((100, 1), np.float32)
    features[40:46] = 1
    longer, moments = length.repeated(features, 1.0, [(40.0, 46.0)], seconds, seed=3)
    assert len(longer) == seconds and longer.sum() == 6
    ((start, end),) = moments
    assert end - start == 6 and (longer[int(start) : int(end)] == 1).all()
