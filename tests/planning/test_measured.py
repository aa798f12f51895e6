"""The plan beside real runs: `launch/local.sh`, and `evaluate` of its long run, on 2 cores of an Intel Xeon, nothing
else on them (docs/benchmarks.md).

One rate was measured apart: a step of the dense stage takes 326 ms for 16.45 GFLOP. What other stages take is planned
from it: they differ in their models, batches and lengths.
"""

import pytest

from revision_jax.planning.counts import counts_of
from revision_jax.planning.machine import Machine
from revision_jax.planning.rates import ON_CPU, Rates
from revision_jax.planning.recipe import Recipe, configs_of

GFLOPS = 16.45 / 0.326
MINUTES = {"align": 1.3, "sparse": 3.4, "evaluate long": 3.4}  # of their commands; `train` of align and sparse
RATES = Rates(**ON_CPU, question_tokens=9.05, answer_tokens=1.14)  # as the searches counted


@pytest.fixture(scope="module")
def planned() -> dict[str, float]:
    """Step -> minutes."""
    found = {}
    for stage, spec in (("align", "align.py"), ("sparse", "stage1_sparse.py"), ("evaluate long", "stage2.py")):
        made = configs_of(f"configs/{spec}", {})
        counts = {split: count for split, (count, _) in counts_of(made["dense"], {}).items()}
        recipe = Recipe(made, counts, "shapes", Machine.of_cpu(GFLOPS, 16), RATES)
        (step,) = recipe.steps([stage])
        found[stage] = step.hours * 60
    return found


@pytest.mark.parametrize("name", MINUTES)
def test_within_a_quarter_of_what_was_measured(planned, name):
    assert planned[name] == pytest.approx(MINUTES[name], rel=0.25)
