"""The threshold that `ground` uses: that of the method searched, or 0 with a warning, or an error; never silence."""

import json

import pytest

from revision_jax import config as configs
from revision_jax.config import ConfigError
from revision_jax.runs import budgets, calibration
from revision_jax.search.settings import SearchSettings

SETTINGS = SearchSettings.of(configs.load().search)


@pytest.fixture
def evaluated(tmp_path):
    """A work folder with what an evaluation leaves, in which `write` puts something else."""

    def write(content):
        (tmp_path / "eval").mkdir(exist_ok=True)
        content = json.dumps(content) if isinstance(content, dict) else content
        (tmp_path / calibration.FILE).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    methods = {"depth1": {"threshold": 0.25}, "depth2_bottom_up": {"threshold": 3}, "depth3": {"threshold": 0.5}}
    sound = {"search": SETTINGS.results(), "methods": methods}
    write(sound)
    return tmp_path, sound, write


def threshold(workdir, depth=1, policy="top_down", **changes):
    return calibration.threshold(workdir, SearchSettings.of(configs.load().search, **changes), depth, policy)


def test_each_method_has_its_own(evaluated, caplog):
    workdir, _, _ = evaluated
    assert threshold(workdir) == 0.25 and threshold(workdir, 3) == 0.5
    found = threshold(workdir, 2, "bottom_up")
    assert found == 3.0 and isinstance(found, float)
    assert threshold(workdir, window_block=4, top_k=3, query_batch=2) == 0.25  # what a confidence means is the same
    assert not caplog.records


def test_a_budget_has_its_own(evaluated, caplog):
    """Chosen with its shares, in a file of its own; told with the command that chooses it again."""
    workdir, sound, _ = evaluated
    place = workdir / budgets.place(0.15)
    place.parent.mkdir()
    place.write_text(json.dumps(sound | {"methods": {"depth3": {"threshold": 0.75}}}))
    settings = SearchSettings.of(configs.load().search)
    assert calibration.threshold(workdir, settings, 3, "top_down", 0.15) == 0.75 and threshold(workdir, 3) == 0.5
    other = SearchSettings.of(configs.load().search, beam=4)
    assert calibration.threshold(workdir, other, 3, "top_down", 0.15) == 0.0
    assert f"run `{budgets.command(workdir, 0.15)}` with these" in caplog.text


@pytest.mark.parametrize("depth, policy, name", [(2, "top_down", "depth2"), (1, "retrieve_then_ground", "depth1_retr")])
def test_a_method_that_was_not_evaluated(evaluated, caplog, depth, policy, name):
    assert threshold(evaluated[0], depth, policy) == 0.0
    assert f"was not evaluated with {name}" in caplog.text
    assert f"python -m revision_jax.evaluate --workdir {evaluated[0]}" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"confidence": "sequence_likelihood"}, {"beam": 4}, {"sampling": 0.5}, {"rescale": 1.0}, {"readings": 1}]
    + [{"similarity": 0.0}, {"alone": 1.0}],
)
def test_a_threshold_of_another_search_does_not_count(evaluated, caplog, changes):
    assert threshold(evaluated[0], 1, "top_down", **changes) == 0.0
    assert f"was evaluated with other values of search.{next(iter(changes))}" in caplog.text


def test_a_run_that_was_not_evaluated(tmp_path, caplog):
    assert threshold(tmp_path) == 0.0 == threshold(None)
    told = zip((tmp_path, None), caplog.messages, strict=True)
    assert all(text.startswith(f"{place} was not evaluated, so that every answer counts") for place, text in told)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", "3", "null", "no JSON", "\x00", b"\xff", '{"methods": {}}', '{"search": {}, "methods": 3}']
    + ['{"search": 3, "methods": {"depth1": {"threshold": 1}}}', '{"search": {}, "methods": {"depth1": 1}}'],
)
def test_what_is_no_calibration_is_refused(evaluated, content):
    workdir = evaluated[2](content)
    with pytest.raises(ConfigError, match=r"calibration.json is no calibration; make it again with `python -m"):
        threshold(workdir)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", '"0.5"', "[1]", "true"])
def test_a_threshold_that_is_no_number_is_refused(evaluated, value):
    _, sound, write = evaluated
    workdir = write(json.dumps(sound).replace("0.25", value))
    with pytest.raises(ConfigError, match=r"the threshold of depth1 is .*; expected a number"):
        threshold(workdir)
    assert threshold(workdir, 3) == 0.5
