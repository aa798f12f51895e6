"""Four forced CPU devices: every mesh finds what one device finds."""

import os
import subprocess
import sys
from pathlib import Path

import revision_jax

REPO = Path(revision_jax.__file__).parents[1]
SCRIPT = """
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

def search(mesh):
    module, arrays = take_apart(tiny_grounder())
    grounder = module.merge(place(arrays, module.shardings(mesh)))
    settings = SearchSettings(window_block=16, query_batch=2, decode_block=4)
    searcher = Searcher(grounder, PROMPTS, GRAMMAR, Hierarchy(16.0, F), settings, mesh)
    with jax.set_mesh(mesh):
        searcher.search(features, 1.0, 190.0, sentences)
        results = searcher.search(features, 1.0, 200.0, sentences)
        results += searcher.search(features, 1.0, 200.0, sentences, depth=0)
    assert searcher.compile_count == 2, searcher.compile_count
    return results, searcher.cost

expected, cost = search(make_mesh(1, 1, 1, devices=jax.devices()[:1]))
assert sum(len(r.moments) for r in expected) > 10
for sizes in [(2, 2, 1), (2, 1, 2)]:
    found, same = search(make_mesh(*sizes))
    assert (cost.tokens_decoded, cost.windows) == (same.tokens_decoded, same.windows), sizes
    for a, b in zip(expected, found):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-3, err_msg=str(sizes))
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
