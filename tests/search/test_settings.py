"""Settings are the config's fields, checked by the config's rules however they are made."""

import dataclasses

import pytest
from fake_search import make_settings

from revision_jax import config as configs
from revision_jax.config import ConfigError
from revision_jax.search.settings import SearchSettings


def test_the_fields_are_those_of_the_config():
    search = configs.load().search
    assert {field.name for field in dataclasses.fields(SearchSettings)} == set(search)
    assert dataclasses.asdict(SearchSettings.of(search)) == search.to_dict()
    assert SearchSettings.of(search, top_k=7).top_k == 7


@pytest.mark.parametrize("field, value, expected", [
    ("confidence", "entropy", "one of inverse_mean_entropy"), ("windows", "half", "one of whole, released"),
    ("ranking", "luck", "one of confidence, cosine"), ("beam", 0, "between 1 and"), ("sampling", -0.1, "between 0"),
    ("sampling", float("nan"), "between 0"), ("nms_iou", 1.5, "between 0.0 and 1.0"), ("depth", -1, "between 0 and"),
    ("question_tokens", -1, "between 0 and"), ("keep", (), "shares of the windows"), ("readings", 0, "between 1 and"),
    ("keep", (float("inf"),), "shares of the windows"),
    # What no machine can hold.
    *((name, 10**9, "between [01] and") for name in ("depth", "beam", "top_k", "readings", "question_tokens")),
    *((name, 10**9, "between 1 and 1000000") for name in ("query_batch", "window_block", "decode_block")),
    *((name, 1e300, "between 0.0 and 1000") for name in ("sampling", "rescale", "similarity")),
])  # fmt: skip
def test_a_bad_value_is_refused_however_it_comes(field, value, expected):
    for make in (
        lambda: make_settings(**{field: value}),
        lambda: dataclasses.replace(make_settings(), **{field: value}),
        lambda: configs.load(overrides={f"search.{field}": value}),
    ):
        with pytest.raises(ConfigError, match=f"search.{field} is .*; expected.*{expected}"):
            make()


def test_rules_between_fields_and_unknown_fields():
    for make in (
        lambda: make_settings(beam=2, sampling=0.5),
        lambda: configs.load(overrides={"search.beam": 2, "search.sampling": 0.5}),
    ):
        with pytest.raises(ConfigError, match=r"search.beam is 2 and search.sampling 0.5; expected one of them"):
            make()
    with pytest.raises(ConfigError, match=r"unknown config key 'search.beams'; did you mean search.beam"):
        make_settings(beams=2)
    with pytest.raises(ConfigError, match=r"search.depth is missing"):
        SearchSettings.of({})


def test_results_depend_on_all_but_the_layout():
    assert set(make_settings().results()) | set(SearchSettings.LAYOUT) == set(configs.load().search)
