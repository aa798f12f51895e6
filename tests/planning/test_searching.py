"""Counts of a search in closed form, beside what real searches counted, and by hand."""

import json

import pytest

from revision_jax import config as configs
from revision_jax.planning.counts import Count
from revision_jax.planning.machine import Machine
from revision_jax.planning.rates import Rates
from revision_jax.planning.searching import SearchCount, evaluate_work, methods_of, question_flops
from revision_jax.planning.training import programs_of, run_of

CPU = Machine.of_cpu(1.0, 16)
KEPT = {"search.keep": (0.9, 0.59)}  # as the search below had it
# What the search of three test hours for 80 queries each counted (a long run of seed 0, docs/benchmarks.md): GFLOP,
# with 9.05 tokens a question and 1.14 an answer.
COUNTED = {
    (0, "top_down"): 6.37,
    (1, "top_down"): 712.8,
    (1, "retrieve_then_ground"): 454.9,
    (2, "top_down"): 2163.4,
    (2, "bottom_up"): 2421.9,
    (3, "top_down"): 2313.2,
    (3, "bottom_up"): 2595.6,
}
RATES = Rates(question_tokens=9.05, answer_tokens=1.14)


@pytest.fixture(scope="module")
def long():
    return run_of(configs.load("configs/stage2.py", KEPT), CPU)


@pytest.fixture(scope="module")
def search(long):
    return SearchCount(long, RATES)


@pytest.mark.parametrize("method", COUNTED, ids=lambda method: f"{method[0]} {method[1]}")
def test_as_a_real_search_counted(search, method):
    found = search.video(*method, 3600.0, 80)
    assert 3 * found.flops / 1e9 == pytest.approx(COUNTED[method], rel=0.02)


def test_windows_and_pairs(search):
    everything, chosen = search.video(1, "top_down", 3600.0, 80), search.video(3, "top_down", 3600.0, 80)
    assert (everything.encoded, everything.pairs, set(everything.parts)) == (112, 80 * 112, {"dense"})
    assert chosen.pairs == 80 * 67  # 59 % of 112, rounded up
    assert search.video(3, "top_down", 3600.0, 1).encoded == pytest.approx(67)
    assert chosen.parts["vectors"] == 80 * 112 * search.upper.sparse_vector(64, 16)
    assert search.video(1, "top_down", 3600.0, 600).encoded == 3 * 112  # parts of at most 256 queries


def test_what_methods_have_in_common_is_done_once(search):
    """A reading of 16 for depth 2, another for bottom-up at depth 3, and all windows for all."""
    methods = [(1, "top_down"), (2, "top_down"), (3, "top_down"), (3, "bottom_up")]
    flat, two, three, every = (search.video(*method, 3600.0, 80).parts for method in methods)
    assert (flat["dense"], two["vectors"], two[16], three[48]) == tuple(every[x] for x in ("dense", "vectors", 16, 48))
    count, once = Count(1, 1.0, 80), sum(every.values()) + three[16]  # 90 % of the windows: not the same groups
    assert three[16] < every[16] and search.split(methods, count) == pytest.approx(once)
    cascade = search.video(3, "cascade", 3600.0, 80)  # a shortlist of its own
    shortlisted = once + cascade.parts[48] + cascade.parts[16]
    assert search.split([*methods, (3, "cascade")], count) == pytest.approx(shortlisted)
    # The one that is measured asks the windows that it chooses, and makes the vectors of its shortlist.
    assert search.split(methods, count, (3, "top_down")) == pytest.approx(once + three["dense"])
    alone = search.split([*methods, (3, "cascade")], count, (3, "cascade"))
    assert alone == pytest.approx(once + cascade.flops)
    assert search.split([(0, "top_down")], count) == search.video(0, "top_down", 3600.0, 80).flops


def test_what_is_too_large_is_not_kept(search):
    """The vectors of 30,000 queries take 2.6 GB: each level that is read makes its own, and so does a search."""
    methods, count = [(2, "bottom_up"), (3, "top_down"), (3, "bottom_up")], Count(1, 1.0, 30_000)
    assert 30_000 * 112 * search.vector_bytes > 2**30 > 30_000 * 112 * search.answers_bytes
    _, three, every = (search.video(*method, 3600.0, 30_000).parts for method in methods)
    needed = every["dense"] + every[16] + every[48] + three[16] + 3 * every["vectors"]
    assert search.split(methods, count) == pytest.approx(needed)


def test_an_evaluation_asks_all_methods_of_two_splits(long, search):
    methods = methods_of(long, search.max_depth)
    assert {(3, "cascade"), (3, "bottom_up"), (1, "top_down")} <= set(methods)
    counts = {"train": Count(64, 64, 5343), "val": Count(1, 1.0, 80), "test": Count(3, 3.0, 240)}
    work = evaluate_work(long, counts, CPU, RATES)
    served = long.config.search.depth, long.config.search.policy
    asked = sum(search.split(methods, counts[name], served) for name in ("val", "test"))
    assert work.flops == pytest.approx(asked + 2 * question_flops(long, counts["test"]))
    # 240 groups of 48 and of 16, each a third of what it costs to train on.
    assert question_flops(long, counts["test"]) == pytest.approx(sum(p.flops for p in programs_of(long)) * 240 / 8 / 3)
    assert work.name == "evaluate long" and work.note.startswith(f"{len(methods)} methods, 320 queries")


def test_a_trained_run_counted_the_same(trained_run):
    """What the evaluation of a real, tiny run counted itself: depth 1."""
    cost = json.loads((trained_run.workdir / "eval/metrics.json").read_text())["methods"]["depth1"]["cost"]
    run = run_of(trained_run.config, CPU)
    context = len(run.prompts.prefix) + run.hierarchy.num_frames + SearchCount(run, Rates()).heads["dense"]
    question = (cost["tokens_prefilled"] - cost["windows"] * context) / cost["pairs"]
    counted = SearchCount(run, Rates(question_tokens=question, answer_tokens=cost["tokens_decoded"] / cost["pairs"]))
    found = counted.video(1, "top_down", cost["video_s"] / cost["videos"], cost["queries"] / cost["videos"])
    assert found.encoded * cost["videos"] == cost["windows"]
    assert found.pairs * cost["videos"] == pytest.approx(cost["pairs"])
    assert found.flops * cost["videos"] == pytest.approx(cost["flops"], rel=0.02)
