"""Same answers, token by token: on 8 forced CPU devices however they are laid out, and with every size of block."""

from pathlib import Path

from tests.forced_devices import run_python

SCRIPT = """
import dataclasses
import sys
sys.path.append(sys.argv[1])
import jax
import numpy as np
from fake_search import F, FAMILIES, Sentences, VideoFeatures, make_searcher, make_settings, tiny_grounder
from revision_jax.hierarchy import Hierarchy
from revision_jax.parallel.mesh import make_mesh
from revision_jax.parallel.programs import forget
from revision_jax.search.packing.packer import Request
from revision_jax.search.packing.shared import NOTHING
from revision_jax.training.state import place, take_apart

features = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float16)
rng = np.random.default_rng(1)
query_tokens = rng.normal(size=(5, 3, 6)).astype(np.float32), rng.random((5, 3)) < 0.8
similar = rng.normal(size=(5, 6)).astype(np.float32)
sentences = Sentences([f"event {i}" for i in range(5)], *query_tokens, similar)
video = VideoFeatures(features, 200.0, 1.0)

ALL = dict(depth=3), dict(depth=1), dict(depth=0)

hierarchy = Hierarchy(16.0, F, 0.5, 0.25, levels=(12, 5))

def searcher_of(mesh, **changes):
    grounders = []
    for grounder in (tiny_grounder(**FAMILIES), tiny_grounder(seed=1, sparse=True, **FAMILIES)):
        module, arrays = take_apart(grounder)
        grounders.append(module.merge(place(arrays, module.shardings(mesh))))
    settings = make_settings(**dict(keep=(0.7, 0.4), similarity=2.0, alone=0.5, verify=0.3) | changes)
    return make_searcher(settings, hierarchy, dense=grounders[0], upper=grounders[1], mesh=mesh)

def search(mesh, asked=ALL[:1], share=False, **changes):
    forget()
    searcher = searcher_of(mesh, **changes)
    answers, results, costs = [], [], []
    with jax.set_mesh(mesh):
        whole = Request(video, searcher.windows(video, 3), sentences)
        shared = searcher.share(whole, searcher.plan(3, "bottom_up")) if share else NOTHING
        for options in asked:
            searched = searcher.search(video, sentences, shared=shared, **options)
            results += searched.results
            windows = 1 if options["depth"] == 0 else len(hierarchy.windows(200.0))
            answers.append([np.asarray(x)[: len(sentences), :windows] for x in searched.answers])
            costs.append(dataclasses.replace(searched.cost, seconds=0))
        # Another length of the same shapes meets a program that is there.
        searcher.search(VideoFeatures(features, 190.0, 1.0), sentences, shared=shared, **asked[0])
    made = 4 if share else 0  # vectors, two levels, all dense windows
    assert searcher.compile_count == len(asked) + made, searcher.compile_count
    return answers, results, costs

def check(expected, found, name):
    for (state, entropies, likelihood, length), others in zip(expected[0], found[0]):
        np.testing.assert_array_equal(state, others[0], err_msg=name)  # a state names the tokens that lead to it
        np.testing.assert_array_equal(length, others[3], err_msg=name)
        np.testing.assert_allclose(entropies, others[1], rtol=1e-5, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(likelihood, others[2], rtol=1e-4, err_msg=name, atol=1e-4)
    for a, b in zip(expected[1], found[1]):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-3, err_msg=name)
        for one, other in zip(a.sent, b.sent, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert expected[2][: len(found[2])] == found[2], name

# The model is divided: loops hold collectives, and all shards of the data must take as many turns.
from loops import loops_of
from revision_jax.search.answers import asking
from revision_jax.search.levels import dense, upper
def turns():
    forget()  # what is patched below is read when a program is traced
    searcher = searcher_of(make_mesh(2, 2, 2))
    with jax.set_mesh(searcher.mesh):
        return loops_of(searcher.trace(video, sentences, depth=3)[0].jaxpr.jaxpr)
uneven = turns()
assert len(uneven) > 8 and not any(uneven), uneven
for module in (asking, dense, upper):
    agreed, module.agreed = module.agreed, lambda bound: bound
    assert any(turns()), module
    module.agreed = agreed

expected = search(make_mesh(1, 1, 1, devices=jax.devices()[:1]), ALL)
assert sum(len(r.moments) for r in expected[1]) > 10 and len(jax.devices()) == 8
# Meshes and blocks at once: each program is slow to compile.
large = dict(window_block=64, query_batch=8, decode_block=64, question_tokens=12)
check(expected, search(make_mesh(8, 1, 1), ALL, share=True, **large), "8 shards, large blocks, vectors shared")
small = dict(window_block=4, query_batch=1, decode_block=1)
check(expected, search(make_mesh(2, 2, 2), **small), "a divided model, small blocks")
# 16 windows do not divide by 3: a block is 18.
three = search(make_mesh(3, 1, 1, devices=jax.devices()[:3]), [dict(depth=1)])
check(tuple(part[1:] if i != 1 else part[5:] for i, part in enumerate(expected)), three, "3 devices")
print("equal")
"""


def test_every_mesh_and_every_block_gives_the_same_tokens():
    assert run_python(SCRIPT, 8, Path(__file__).parent).strip() == "equal"
