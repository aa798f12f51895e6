"""Same answers, token by token: on 8 forced CPU devices however they are laid out, and with every size of block."""

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
from revision_jax.search.searcher import Searcher, SearchSettings
from revision_jax.training.state import place, take_apart

features = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float16)
sentences = [f"event {i}" for i in range(5)]

rng = np.random.default_rng(1)
query_tokens = rng.normal(size=(5, 3, 6)).astype(np.float32), rng.random((5, 3)) < 0.8

ALL = dict(depth=3), dict(depth=1), dict(depth=0)

def search(mesh, asked=ALL[:1], share=False, **changes):
    grounders = []
    for grounder in (tiny_grounder(), tiny_grounder(seed=1, sparse=True)):
        module, arrays = take_apart(grounder)
        grounders.append(module.merge(place(arrays, module.shardings(mesh))))
    settings = dict(window_block=16, query_batch=2, decode_block=4, keep=(0.7, 0.4)) | changes
    hierarchy = Hierarchy(16.0, F, 0.5, 0.25, levels=(12, 5))
    searcher = Searcher(grounders[0], PROMPTS, GRAMMAR, hierarchy, SearchSettings(**settings), mesh, upper=grounders[1])
    answers, results, costs = [], [], []
    with jax.set_mesh(mesh):
        windows = searcher.windows(features, 1.0, 200.0, 3)
        vectors = searcher.sparse_vectors(windows, features, sentences, query_tokens) if share else None
        for options in asked:
            results += searcher.search(
                features, 1.0, 200.0, sentences, query_tokens=query_tokens, vectors=vectors, **options
            )
            windows = 1 if options["depth"] == 0 else len(hierarchy.windows(200.0))
            answers.append([np.asarray(x)[: len(sentences), :windows] for x in searcher.answers])
            costs.append(dataclasses.replace(searcher.cost, seconds=0))
        # Another length of the same shapes meets a program that is there.
        searcher.search(features, 1.0, 190.0, sentences, query_tokens=query_tokens, vectors=vectors, **asked[0])
    assert searcher.compile_count == len(asked) + share, searcher.compile_count
    return answers, results, costs

def check(expected, found, name):
    for (state, entropies, likelihood, length), others in zip(expected[0], found[0]):
        np.testing.assert_array_equal(state, others[0], err_msg=name)  # a state names the tokens that lead to it
        np.testing.assert_array_equal(length, others[3], err_msg=name)
        np.testing.assert_allclose(entropies, others[1], rtol=0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(likelihood, others[2], rtol=1e-4, err_msg=name, atol=1e-4)
    for a, b in zip(expected[1], found[1]):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-3, err_msg=name)
        for one, other in zip(a.sent, b.sent, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert expected[2][: len(found[2])] == found[2], name

expected = search(make_mesh(1, 1, 1, devices=jax.devices()[:1]), ALL)
assert sum(len(r.moments) for r in expected[1]) > 10 and len(jax.devices()) == 8
# Meshes and blocks at once: each program is slow to compile.
large = dict(window_block=64, query_batch=8, decode_block=64, question_tokens=12)
check(expected, search(make_mesh(8, 1, 1), ALL, share=True, **large), "8 shards, large blocks, vectors shared")
small = dict(window_block=4, query_batch=1, decode_block=1)
check(expected, search(make_mesh(2, 2, 2), **small), "a divided model, small blocks")
print("equal")
"""


def test_every_mesh_and_every_block_gives_the_same_tokens():
    # Nearly all of the time goes into compiling; what the programs compute does not depend on how fast they are.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join([str(REPO), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "equal"
