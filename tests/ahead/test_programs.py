"""The programs that are compiled ahead: what a step computes beside its model's FLOPs."""

import jax

from revision_jax.ahead.programs import recomputed
from revision_jax.models.names import REMAT_POLICIES
from revision_jax.training.flops import FlopCount


def test_recomputed_products_are_those_that_a_policy_does_not_keep():
    shapes = {f"llm/layers/x/{name}/kernel": (2, 3, 5) for name in ("q_proj", "o_proj", "gate_proj", "up_proj")}
    batch = {"video": jax.ShapeDtypeStruct((1, 4, 8), "float16"), "tokens": jax.ShapeDtypeStruct((1, 6), "int32")}
    found = {remat: recomputed(remat, FlopCount(shapes, set(), 0), batch) for remat in REMAT_POLICIES}
    one = 2.0 * 10 * 30
    assert found == {"none": 0, "mlp": one, "names": 3 * one, "full": 4 * one}
