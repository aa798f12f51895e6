"""Four forced CPU devices: every mesh finds what one device finds."""

import os
import subprocess
import sys
from pathlib import Path

import revision_jax

REPO = Path(revision_jax.__file__).parents[1]
SCRIPT = """
import dataclasses
import sys
sys.path.append(sys.argv[1])
import jax
import numpy as np
from fake_search import GRAMMAR, PROMPTS, F, tiny_grounder
from revision_jax.hierarchy import Hierarchy
from revision_jax.parallel.mesh import make_mesh
from revision_jax.search.evaluator import Searcher, SearchSettings
from revision_jax.training.state import place, take_apart

features = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float16)
sentences = [f"event {i}" for i in range(5)]

rng = np.random.default_rng(1)
query_tokens = rng.normal(size=(5, 3, 6)).astype(np.float32), rng.random((5, 3)) < 0.8

def search(mesh):
    grounders = []
    for grounder in (tiny_grounder(), tiny_grounder(seed=1, sparse=True)):
        module, arrays = take_apart(grounder)
        grounders.append(module.merge(place(arrays, module.shardings(mesh))))
    settings = SearchSettings(window_block=16, query_batch=2, decode_block=4, keep=(0.7, 0.4))
    hierarchy = Hierarchy(16.0, F, 0.5, 0.25, levels=(12, 5))
    searcher = Searcher(grounders[0], PROMPTS, GRAMMAR, hierarchy, settings, mesh, upper=grounders[1])
    with jax.set_mesh(mesh):
        searcher.search(features, 1.0, 190.0, sentences)
        results = searcher.search(features, 1.0, 200.0, sentences)
        costs = [searcher.cost]
        results += searcher.search(features, 1.0, 200.0, sentences, depth=0)
        for policy in ("top_down", "bottom_up"):
            results += searcher.search(
                features, 1.0, 200.0, sentences, depth=3, policy=policy, query_tokens=query_tokens
            )
            costs.append(searcher.cost)
    assert searcher.compile_count == 4, searcher.compile_count
    return results, costs

expected, costs = search(make_mesh(1, 1, 1, devices=jax.devices()[:1]))
assert sum(len(r.moments) for r in expected) > 10
for sizes in [(2, 2, 1), (2, 1, 2)]:
    found, others = search(make_mesh(*sizes))
    for cost, same in zip(costs, others):
        assert dataclasses.replace(cost, seconds=0) == dataclasses.replace(same, seconds=0), sizes
    for a, b in zip(expected, found):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-3, err_msg=str(sizes))
        for one, other in zip(a.sent, b.sent, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=str(sizes))
print("equal")
"""


def test_every_mesh_finds_the_same_moments():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join([str(REPO), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "equal"
