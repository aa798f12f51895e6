"""What is said of a program that was compiled ahead: XLA's own words, and what to change where it does not fit."""

import pytest

from revision_jax import config as configs
from revision_jax.ahead.compiling import advise, compile_one
from revision_jax.parallel.topology import Topology


def test_what_xla_refuses_is_read_from_its_words():
    def trace():
        raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory. Used 18.75G of 15.75G hbm. Exceeded by 3.00G.")

    report = compile_one(trace, Topology.parse("v5e-16"), {"parts": {"frozen weights": 2**30}})
    assert report == {
        "parts_gib": {"frozen weights": 1.0}, "fits": False, "peak_gib": 18.75, "hbm_gib": 15.75, "spare": 0.0
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="something else"):
        compile_one(
            lambda: (_ for _ in ()).throw(RuntimeError("something else")), Topology.parse("v5e-16"), {"parts": {}}
        )


@pytest.mark.parametrize(
    "weights, what, changes, advice",
    [
        (13.0, "train", {}, "raise mesh.fsdp"),
        (13.0, "search", {}, "raise mesh.tensor"),
        (1.0, "search", {}, "lower search.window_block"),
        (1.0, "train", {"model.remat": "names"}, "set model.remat to 'full'"),
        (1.0, "train", {"model.remat": "full"}, "raise train.accumulate"),
    ],
)
def test_advice_goes_to_what_takes_the_memory(weights, what, changes, advice):
    report = {"parts_gib": {"frozen weights": weights}, "hbm_gib": 16.0}
    assert advise(configs.load(overrides=changes), report, what).find(advice) >= 0
