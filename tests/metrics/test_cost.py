from revision_jax.metrics.cost import Cost


def test_costs_add_field_by_field():
    total = Cost(1, 2, 3, 4, 5, 6, 0.5) + Cost(10, 20, 30, 40, 50, 60, 1.0)
    assert total == Cost(11, 22, 33, 44, 55, 66, 1.5)
    assert total.as_dict()["tokens_decoded"] == 66
