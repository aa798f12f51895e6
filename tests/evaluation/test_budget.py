"""A share of the pairs may be looked at: the ways that are tried, the one that is chosen, and who takes it over."""

import contextlib
import dataclasses
import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from revision_jax import evaluate, ground, load_run
from revision_jax.config import ConfigError
from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation import budget as b
from revision_jax.evaluation import methods as m
from revision_jax.evaluation import moments
from revision_jax.evaluation.options import Options
from revision_jax.evaluation.predictions import Prediction
from revision_jax.evaluation.protocols import PROTOCOLS
from revision_jax.hierarchy import Hierarchy
from revision_jax.metrics.cost import Cost
from revision_jax.report.table import budget_rows
from revision_jax.runs import budgets
from revision_jax.search.searcher import Searcher
from tests.search.fake_search import F, UpperOracle, make_searcher, make_settings

HIERARCHY = Hierarchy(32.0, F, 0.5, 0.5, levels=(12, 4))
SENTENCE = "a red circle moves to the left"
POLICIES = {"top_down", "cascade", "retrieve_then_ground"}  # that a run spends its budget by here


def searcher(**models):
    return make_searcher(make_settings(keep=(0.9, 0.59), shortlist=0.3), HIERARCHY, **models)


# ------------------------------------------------------------------------------------------------- the grid
def test_all_policies_within_the_budget_are_tried_in_both_ways():
    ways = b.ways_to_spend(0.15, searcher(upper=UpperOracle()))
    shares = {
        method: [(w.keep, w.shortlist) for w in ways if w.method == method] for method in {w.method for w in ways}
    }
    both = [(1.0, 0.15), (pytest.approx(0.15**0.5), 0.15)]
    for method in ("depth3", "depth3_top_down_rescaled", "depth3_fused"):
        assert shares.pop(method) == [(keep, 0.3) for keep in both]
    # From the shortlist on all levels cut by one factor; a shortlist as small as the budget leaves nothing to choose.
    even = [(pytest.approx((share * 0.15) ** 0.5), 0.15) for share in (0.3, 0.6)]
    assert shares.pop("depth3_cascade") == [(both[0], 0.3), (even[0], 0.3), (both[0], 0.6), (even[1], 0.6)]
    assert shares.pop("depth1_retrieve_then_ground") == [((1.0, 0.15), 0.3)] and not shares
    assert len({way.name for way in ways}) == len(ways)


def test_everything_may_be_asked_where_the_budget_is_whole():
    methods = {way.method for way in b.ways_to_spend(1.0, searcher(upper=UpperOracle()))}
    assert {"depth1", "depth3_bottom_up", "depth3"} <= methods and "depth3_cascade" not in methods
    assert "depth3_bottom_up" not in {way.method for way in b.ways_to_spend(0.99, searcher(upper=UpperOracle()))}
    alone = b.ways_to_spend(1.0, searcher())
    assert [way.method for way in alone] == ["depth1_retrieve_then_ground", "depth1"]
    assert [way.method for way in b.ways_to_spend(0.5, searcher())] == ["depth1_retrieve_then_ground"]


@pytest.mark.parametrize("budget", [0.01, 0.15, 0.5, 0.7, 1.0])
def test_no_way_asks_more(budget):
    one = searcher(upper=UpperOracle())
    for way in b.ways_to_spend(budget, one):
        policy = way.searcher(one).plan().policy
        asked = 1000 if policy is None else policy.counts(1000, 1000)[-1]
        assert asked == math.ceil(1000 * budget), way


# ------------------------------------------------------------------------------------------------- the choice
def test_most_is_chosen_and_of_equals_the_cheapest():
    way = lambda shortlist: b.Way(3, "cascade", (1.0, 0.15), shortlist)
    tried = [
        b.Tried(way(0.1), 70.0, 15.0, 900.0),
        b.Tried(way(0.2), 80.0, 15.0, 5000.0),
        b.Tried(way(0.3), 80.0, 15.0, 4000.0),
        b.Tried(way(0.4), 80.0, 15.0, 4000.0),
    ]
    assert b.choose(tried) is tried[2]
    assert tried[2].as_dict() == {
        "depth": 3, "policy": "cascade", "keep": (1.0, 0.15), "shortlist": 0.3, "least": 1,
        "R1@0.3": 80.0, "frame_share": 15.0, "llm_tokens_per_query": 4000.0,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="no query of val has a moment"):
        b.choose([dataclasses.replace(tried[0], recall=float("nan"))])
    with pytest.raises(ConfigError, match="no policy of this run stays within the budget"):
        b.choose([])


def test_ways_are_scored_by_their_first_moments():
    queries = [Query("a", "v", "x", ((10.0, 20.0),)), Query("b", "v", "y", ((0.0, 5.0),)), Query("c", "v", "z", ())]
    right, wrong = np.array([[10.0, 19.0, 0.5]]), np.array([[50.0, 60.0, 0.9], [0.0, 5.0, 0.8]])
    cost = Cost(videos=1, queries=3, windows=4, frames=64, tokens_prefilled=90, tokens_decoded=9, pairs=3, all_pairs=20)
    answers = {
        b.Way(1, "retrieve_then_ground", (0.15,), 0.3): (right, wrong, right),
        b.Way(2, "fused", (0.15,), 0.3): (right, wrong[1:], wrong),
    }
    answers = {
        way: ([Prediction(q.query_id, found) for q, found in zip(queries, moments)], cost)
        for way, moments in answers.items()
    }
    tried = b.score_ways(answers, queries, PROTOCOLS["ours"])
    assert [(one.way.policy, one.recall, one.frame_share, one.tokens) for one in tried] == [
        ("retrieve_then_ground", 50.0, 15.0, 33.0), ("fused", 100.0, 15.0, 33.0)
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("given, told", [
    ({"budget": 0.0}, "--budget is 0.0; expected a share"), ({"budget": 1.5}, "--budget is 1.5; expected a share"),
    ({"budget": float("nan")}, "--budget is nan; expected a share"),
    ({"budget": 0.5, "search": {"keep": (0.5, 0.5)}}, "--budget chooses search.keep, which is set too"),
    ({"budget": 0.5, "search": {"depth": 1, "beam": 2}}, "--budget chooses search.depth, which is set too"),
    ({"budget": 0.5, "methods": ("depth1",)}, "--methods names some; leave out one of them"),
])  # fmt: skip
def test_a_budget_beside_what_it_chooses(given, told):
    with pytest.raises(ConfigError, match=told):
        Options(out="budget", **given)


def test_a_budget_has_a_folder_of_its_own():
    with pytest.raises(ConfigError, match="give --out NAME"):
        Options(budget=0.5)
    assert "budget" in Options(budget=1.0, out="all").given()


def test_files_and_commands_name_the_share():
    names = [budgets.place(share).name for share in (0.15, 1.0, 0.001, 0.333333333333)]
    assert names == ["0.15.json", "1.json", "0.001.json", "0.333333333333.json"]
    assert budgets.command("RUN", 0.15) == (
        "python -m revision_jax.evaluate --workdir RUN --budget 0.15 --out budget15"
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- a run
@contextlib.contextmanager
def few_policies():
    """Those that differ most: each is a program of its own to compile. Above, all of them are laid out."""
    every = b.ways_to_spend
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "ways_to_spend", lambda *given: [way for way in every(*given) if way.policy in POLICIES])
        yield


@pytest.fixture(scope="module")
def spent(long_run, tmp_path_factory):
    """A copy of the run of stage 2 whose search within 30 % of the pairs was chosen; and the flags that did it, as the
    message says that one meets without."""
    workdir = Path(shutil.copytree(long_run, tmp_path_factory.mktemp("budget") / "long"))
    with pytest.raises(ConfigError, match="no search was chosen for a budget of 0") as refused:
        load_run(workdir, budget=0.3)
    flags = shlex.split(re.search(r"`python -m revision_jax.evaluate (.*)`", str(refused.value))[1])
    with few_policies():
        assert evaluate.main(flags) == 0
    return workdir, flags


def read(path):
    return json.loads(path.read_text())


def test_the_choice_is_scored_and_told(spent):
    workdir, _ = spent
    metrics = read(workdir / "budget30/metrics.json")
    budget, (method,) = metrics["budget"], metrics["methods"]
    chosen, tried = budget["chosen"], budget["tried"]
    assert budget["share"] == 0.3 and chosen in tried and metrics["served"] == method == chosen_method(chosen)
    assert chosen["R1@0.3"] == max(one["R1@0.3"] for one in tried)
    equal = [one["llm_tokens_per_query"] for one in tried if one["R1@0.3"] == chosen["R1@0.3"]]
    assert chosen["llm_tokens_per_query"] == min(equal)
    assert {one["policy"] for one in tried} == POLICIES
    windows = metrics["methods"][method]["cost"]["all_pairs"] / metrics["queries"]
    for share in (*(one["frame_share"] for one in tried), metrics["methods"][method]["cost"]["frame_share"]):
        assert 0 < share <= 30 + 100 / windows  # a video's number of windows is rounded up
    search = metrics["protocol"]["search"]
    assert {name: search[name] for name in ("depth", "policy", "keep", "shortlist")} == {
        name: chosen[name] for name in ("depth", "policy", "keep", "shortlist")
    }
    # One program for each policy, four for what all share (vectors, two levels, all windows), and two where the chosen
    # one searches alone, however many shares were tried.
    compiled = metrics["compilations"]["search"]
    assert compiled["programs"] <= compiled["shapes"] <= len(POLICIES) + 4 + 2
    rows = budget_rows(metrics)[1]
    assert len(rows) == len(tried) and rows[0][2] == f"{chosen['R1@0.3']:.1f}"
    assert "Ways to spend the budget" in (workdir / "budget30/report.html").read_text()


def chosen_method(chosen):
    return b.Way(chosen["depth"], chosen["policy"], (), 1.0).method


def test_a_way_costs_and_finds_what_its_search_does(spent):
    """Vectors that all ways share change nothing: the chosen one was searched again by itself."""
    workdir, _ = spent
    lines = [json.loads(line) for line in (workdir / "budget30/predictions_tried_val.jsonl").read_text().splitlines()]
    chosen = read(workdir / "budget30/metrics.json")["budget"]["chosen"]
    way = b.Way(chosen["depth"], chosen["policy"], tuple(chosen["keep"]), chosen["shortlist"])
    suffix = "_upper" if way.depth > 1 else ""
    alone = (workdir / f"budget30/predictions{suffix}_val.jsonl").read_text().splitlines()
    answers = lambda rows, name: {
        r["query_id"]: r["moments"] for r in rows if r.get("method") == name and "moments" in r
    }
    tried, again = answers(lines, way.name), answers(map(json.loads, alone), way.method)
    assert tried and tried == again


def test_a_finished_choice_searches_nothing_again(spent, monkeypatch):
    workdir, flags = spent
    before = read(workdir / "budget30/metrics.json")
    monkeypatch.delattr(Searcher, "search")
    with few_policies():
        assert evaluate.main(flags) == 0
    after = read(workdir / "budget30/metrics.json")
    assert after["budget"] == before["budget"] and after["methods"] == before["methods"]


def test_ground_takes_it_over_with_its_threshold(spent, chain, capfd):
    workdir, _ = spent
    kept = read(workdir / budgets.place(0.3))
    (calibration,) = kept["methods"].values()
    run = load_run(workdir, budget=0.3)
    assert {name: run.config.search[name] for name in ("depth", "policy", "shortlist")} == {
        name: kept["search"][name] for name in ("depth", "policy", "shortlist")
    }
    video = next((chain.directories["test"] / "videos").iterdir())
    argv = [str(video), SENTENCE, "--workdir", str(workdir), "--json", "--cache", "off"]
    assert ground.main([*argv, "--budget", "0.3"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["search"]["keep"] == kept["search"]["keep"] and told["search"]["policy"] == kept["search"]["policy"]
    (one,) = told["videos"]
    assert one["queries"][0]["threshold"] == calibration["threshold"] and 0 < one["cost"]["frame_share"] < 60
    for more, words in (
        (
            ["--budget", "0.2"],
            "no search was chosen for a budget of 0.2 (there is one for 0.3); choose it with `python",
        ),
        (["--budget", "0.3", "--keep", "0.5,0.5"], "--budget chooses search.keep, which is set too"),
        (["--budget", "0.3", "--search.shortlist=0.5"], "--budget chooses search.shortlist, which is set too"),
        (["--budget", "0"], "--budget is 0.0; expected a share"),
    ):
        assert ground.main([*argv, *more]) == 2
        err = capfd.readouterr().err
        assert words in err and err.count("\n") == 1


def test_a_choice_that_cannot_be_read_is_refused(spent, tmp_path):
    workdir = Path(shutil.copytree(spent[0], tmp_path / "run"))
    for content in ("", "{}", '{"search": 3}', '{"search": {"depth": 1}}'):
        (workdir / budgets.place(0.3)).write_text(content)
        with pytest.raises(ConfigError, match="does not say what was chosen; choose it again with `python -m"):
            load_run(workdir, budget=0.3)


def test_what_a_log_holds_is_not_asked_again(tmp_path, monkeypatch):
    """Of hand-made answers: a choice that was killed goes on behind the videos that it has."""
    asked = []

    def search(self, depth, policy, *, measured):
        def ask(store, video_id, queries):
            asked.append((policy, video_id))
            if len(asked) == 3:
                raise KeyboardInterrupt
            return [Prediction(q.query_id, np.zeros((0, 3))) for q in queries], Cost(queries=len(queries))

        return ask

    monkeypatch.setattr(m.Asking, "search", search)
    monkeypatch.setattr(b, "answers_digest", lambda *_: "the same")
    one = searcher(upper=UpperOracle())
    ways = b.ways_to_spend(0.5, one)[:2]
    split = b.Split("val", None, {name: [Query(name, name, "x", ((0.0, 1.0),))] for name in ("v", "w")})
    arguments = ways, m.Asking(None, one, None, None), split, one._models, tmp_path / "log.jsonl"
    with pytest.raises(KeyboardInterrupt):
        b.ask_ways(*arguments)
    answers = b.ask_ways(*arguments)
    assert len(asked) == 5 and list(answers) == ways and all(len(found) == 2 for found, _ in answers.values())


@pytest.mark.parametrize("budget, at_once", [(0.02, False), (0.3, True)])
def test_all_windows_are_asked_at_once_where_the_ways_ask_more_in_all(budget, at_once, tmp_path, monkeypatch):
    made, order = [], []
    monkeypatch.setattr(m, "SharedWork", lambda searcher, parts: made.append(parts))
    monkeypatch.setattr(m.Asking, "search", lambda self, depth, policy, measured: order.append(policy))
    monkeypatch.setattr(m, "answer", lambda split, groups: dict.fromkeys(groups[0].methods))
    monkeypatch.setattr(b, "answers_digest", lambda *_: "the same")
    one = searcher(upper=UpperOracle())
    b.ask_ways(b.ways_to_spend(budget, one), m.Asking(None, one, None), None, one._models, tmp_path / "log.jsonl")
    assert made == [at_once]
    assert order[-1] == "cascade" and order.index("fused") < order.index("cascade")
