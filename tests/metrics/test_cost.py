import json

from revision_jax.metrics.cost import Cost, LevelCost


def test_costs_add_field_by_field():
    total = Cost(1, 2, 3, 4, 5, 6, 0.5) + Cost(10, 20, 30, 40, 50, 60, 1.0)
    assert total == Cost(11, 22, 33, 44, 55, 66, 1.5)
    assert total.as_dict()["tokens_decoded"] == 66
    levels = Cost(pairs=1, levels=(LevelCost(1, 2, 3, 4, 5),)) + Cost(pairs=3, all_pairs=8) + Cost(levels=(
        LevelCost(1, 1, 1, 1, 1), LevelCost(groups=7)))  # fmt: skip
    assert levels.levels == (LevelCost(2, 3, 4, 5, 6), LevelCost(groups=7))
    assert levels.frame_share == 50.0 and Cost().frame_share is None


def test_costs_survive_json():
    cost = Cost(1, 2, seconds=0.5, levels=(LevelCost(1, 2, 3, 4, 5),))
    assert Cost.from_dict(json.loads(json.dumps(cost.as_dict()))) == cost
