"""Recall against what is looked at: which searches are measured, means and intervals over runs, table and plot."""

import json

import matplotlib.image
import numpy as np
import pytest

from revision_jax.benchmarks import budget as b
from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation.predictions import Prediction
from revision_jax.hierarchy import Hierarchy
from revision_jax.metrics.cost import Cost
from revision_jax.search.policies import policy_names
from tests.search.fake_search import F, UpperOracle, make_searcher, make_settings

HIERARCHY = Hierarchy(32.0, F, 0.5, 0.5, levels=(12, 4))


def measured(hits, share):
    cost = Cost(
        queries=10, windows=10, frames=160, tokens_prefilled=1000, pairs=int(share), all_pairs=100, flops=share * 1e10
    )
    return b.Measured({score: np.array(hits, float) for score in b.SCORES}, cost)


def runs():
    """Two runs, four queries, two points of one policy beside the search of all windows."""
    everything = b.Point("depth1", 1.0)
    few, many = b.Point("depth3", 0.1), b.Point("depth3", 0.5)
    return [
        b.Measurement("data", {everything: measured([100, 100, 0, 0], 100), few: measured([100, 0, 0, 0], 10),
                               many: measured([100, 100, 0, 0], 50)}),
        b.Measurement("data", {everything: measured([100, 100, 100, 0], 100), few: measured([100, 100, 0, 0], 10),
                               many: measured([100, 100, 0, 0], 50)}),
    ]  # fmt: skip


def test_every_policy_is_measured_at_every_share_it_can_have():
    searcher = make_searcher(make_settings(keep=(0.9, 0.59), shortlist=0.3), HIERARCHY, upper=UpperOracle())
    ways = b.ways_of(searcher, policy_names(), (0.01, 0.5, 1.0), "last")
    keeps = {name: [point.keep for point in ways if point.method == name] for name, _ in ways}
    assert keeps.pop("depth1") == [1.0] == keeps.pop("depth3_bottom_up")
    assert set(keeps) == {
        "depth3",
        "depth3_top_down_rescaled",
        "depth3_fused",
        "depth3_cascade",
        "depth1_retrieve_then_ground",
    }
    assert all(found == [0.01, 0.5, 1.0] for found in keeps.values())
    assert ways[b.Point("depth3", 0.5)].keep == (1.0, 0.5)
    assert [ways[b.Point("depth3_cascade", keep)].shortlist for keep in (0.01, 0.5, 1.0)] == [0.3, 0.5, 1.0]
    even = b.ways_of(searcher, ["top_down", "cascade"], (0.01,), "even")
    assert even[b.Point("depth3", 0.01)].keep == (pytest.approx(0.1), 0.01)
    assert even[b.Point("depth3_cascade", 0.01)].keep == (pytest.approx(0.003**0.5), 0.01)
    alone = make_searcher(make_settings(keep=(0.9, 0.59)), HIERARCHY)
    assert {point.method for point in b.ways_of(alone, policy_names(), (0.5, 1.0), "even")} == {
        "depth1", "depth1_retrieve_then_ground"
    }  # fmt: skip


def test_hits_are_of_present_queries():
    queries = [Query("a", "v", "x", ((10.0, 20.0),)), Query("b", "v", "y", ()), Query("c", "v", "z", ((0.0, 10.0),))]
    moments = [[[10.0, 20.0, 1.0]], [[0.0, 5.0, 1.0]], [[8.0, 12.0, 1.0]]]
    found = b.hits(queries, [Prediction(q.query_id, np.array(x)) for q, x in zip(queries, moments)])
    assert found["R1@0.1"].tolist() == [100, 100] and found["R1@0.3"].tolist() == [100, 0]


def test_means_over_runs_and_paired_differences():
    everything, few, many = b.rows_over(runs())
    assert everything["R1@0.3"]["value"] == 62.5 and everything["R1@0.3"]["runs"] == [50.0, 75.0]
    assert everything["R1@0.3 minus all"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert few["R1@0.3"]["value"] == 37.5 and few["R1@0.3 minus all"]["value"] == -25.0
    low, high = many["R1@0.3 minus all"]["interval"]  # of one query alone, by half
    assert many["R1@0.3 minus all"]["value"] == -12.5 and -50 <= low < high <= 0
    low, high = many["R1@0.3"]["interval"]
    assert 0 <= low < 50 < high <= 100
    assert (few["frame_share"], few["llm_tokens_per_query"], few["gflops_per_query"]) == (10.0, 100.0, 10.0)
    assert few["frames_to_llm_per_query"] == 16.0
    one, other = runs()
    with pytest.raises(ValueError, match="expected runs that were asked the same queries"):
        b.rows_over([one, other._replace(asked="other data")])


def test_table_plot_and_line(tmp_path, capsys, monkeypatch):
    given = iter(runs())
    monkeypatch.setattr(b, "measure", lambda *_: next(given))
    b.main(["--workdir", "A", "--workdir", "B", "--plot", str(tmp_path / "plots/budget.png")])
    *table, line = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| method | windows asked, % |") and len({row.count("|") for row in table}) == 1
    assert table[3].startswith("| two upper levels (depth 3) | 10.0 | 37.5 (") and "| -25.0 (" in table[3]
    told = json.loads(line)
    assert (
        told["runs"] == ["A", "B"] and told["queries"] == 4 and [row["keep"] for row in told["rows"]] == [1.0, 0.1, 0.5]
    )
    picture = matplotlib.image.imread(tmp_path / "plots/budget.png")
    assert picture.shape[1] > picture.shape[0] > 300 and picture[..., :3].std() > 0.02
    with pytest.raises(SystemExit):
        b.main(["--workdir", "A", "--keep", "0.5,2"])
    assert "expected shares above 0 and at most 1" in capsys.readouterr().err
