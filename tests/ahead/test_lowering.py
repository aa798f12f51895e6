"""Every kernel of attention x mesh x program, lowered for its platform, without that platform's hardware.

A program must hold the platform's kernel, called on each device's own rows and heads. Stage 1's are then compiled for
CPU devices, with XLA's attention in place of cuDNN's, so that the mesh's partitioner has its say.
"""

import json

import pytest

from tests.forced_devices import REPO, run_python

KERNELS = {"cuda": "__cudnn$fmha", "tpu": "tpu_custom_call"}
MESHES = [(1, 1, 1), (4, 1, 1), (1, 4, 1), (2, 1, 2), (2, 2, 2)]
SPECS = ("configs/stage1.py", "configs/stage1_sparse.py", "configs/stage2.py")
SCRIPT = """
import json, sys
from pathlib import Path
import jax, numpy as np
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn
sys.path.append(sys.argv[1])
from tiny_base import chain_config, make_base
from revision_jax.ahead.programs import PROGRAMS
from revision_jax.interop.llama import save_llama
from revision_jax.models import attention, platform as platforms
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.parallel.mesh import make_mesh
from revision_jax.pretrain.tokenizer import make_tokenizer
from revision_jax.runs.run import Run

folder, platform, meshes, specs = Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]), sys.argv[5:]
make_base(folder / "base", width=16, hidden=32)
# Heads as wide as the kernels ask for, and as many as the largest tensor axis divides.
sizes = LlamaConfig(len(make_tokenizer()), 32, 48, 2, 4, 4, 128, max_position_embeddings=128)
save_llama(Llama(sizes, rngs=nnx.Rngs(0)), folder / "base/llm")
platforms.compiled_for = lambda: {"cuda": "gpu", "compile": "gpu"}.get(platform, platform)
cudnn.check_cudnn_version = lambda: 91000
if platform == "compile":
    attention._cudnn_kernel = lambda q, k, v, mask, causal: attention._xla(q, k, v, causal, mask)

for spec in specs:
    for mesh_sizes in meshes:
        mesh = make_mesh(*mesh_sizes, devices=jax.devices()[: int(np.prod(mesh_sizes))])
        changes = {"model__dtype": "bfloat16", "train__batch_size": 8, "search__window_block": 8}
        changes["model__unroll"] = 1  # as at full size: the kernel is counted within the loop over layers
        run = Run(chain_config(spec, folder, **changes), mesh=mesh)
        with jax.set_mesh(mesh):
            for what in ["train", "search"] if run.stage.answers else ["train"]:
                name, trace, _ = next(PROGRAMS[what](run, 4.0))
                if platform == "compile":
                    trace().lower().compile()
                    print(json.dumps([spec, mesh_sizes, what]))
                else:
                    print(json.dumps([spec, mesh_sizes, what, trace().lower(lowering_platforms=(platform,)).as_text()]))
"""
# Whether `compile --program search` and `evaluate` take a mesh: searches are traced, of shapes and of weights.
SAME_MESHES = """
def taken(run, build):
    try:
        with jax.set_mesh(run.mesh):
            build(run)
    except ValueError as error:
        return str(error)
    return "taken"

def evaluate(run):
    searcher = run.searcher(models=run.models("fresh"))
    width = run.extractor.width
    video = VideoFeatures(np.zeros((200, width), np.float16), 200.0, 1.0)
    words = np.zeros((5, 16, width), np.float32)
    searcher.trace(video, Sentences(["a dog"] * 5, words, words[..., 0] == 0, words[:, 0]), depth=1, policy="top_down")

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.search.sentences import Sentences
for mesh_sizes in [(3, 1, 1), (1, 3, 1), (1, 1, 3), (1, 4, 2), (6, 1, 1), (3, 2, 1)]:
    mesh = make_mesh(*mesh_sizes, devices=jax.devices()[: int(np.prod(mesh_sizes))])
    run = Run(chain_config(specs[0], folder), mesh=mesh)
    both = [taken(run, ahead) for ahead in (lambda run: next(PROGRAMS["search"](run, 4.0))[1](), evaluate)]
    print(json.dumps(["same", mesh_sizes, *both]))
"""


def run(tmp_path, platform: str, meshes, specs, script: str = SCRIPT) -> list:
    """What the script printed, a row a program: config, mesh, what it does and its text."""
    printed = run_python(script, 8, REPO / "tests/runs", tmp_path, platform, json.dumps(meshes), *specs)
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.parametrize("platform", KERNELS)
def test_each_program_holds_its_platforms_kernel(platform, tmp_path):
    rows = run(tmp_path, platform, MESHES, SPECS)
    assert len(rows) == 5 * len(MESHES)  # the sparse stage answers nothing, so that it is not searched
    for spec, mesh, what, text in rows:
        where = (spec, mesh, what)
        # Stage 1 reads several texts behind one window, which splash has no mask for.
        if not (platform == "tpu" and spec == "configs/stage1.py" and what == "train"):
            assert KERNELS[platform] in text, where
        assert "CustomSPMDPartitioning" not in text, where  # nothing is left to a kernel's own partitioner
        if platform == "cuda" and what == "train":
            # Forward and backward: rematerialisation keeps what flash attention leaves, and does not run it again.
            assert text.count(KERNELS[platform]) == 2, where


def test_the_meshs_partitioner_takes_each_program_and_an_evaluation_takes_the_meshes_of_a_search(tmp_path):
    rows = run(tmp_path, "compile", [(4, 1, 1), (2, 2, 2)], SPECS[:1], SCRIPT + SAME_MESHES)
    compared = [row for row in rows if row[0] == "same"]
    assert len(rows) - len(compared) == 4
    for _, mesh, ahead, evaluated in compared:
        assert (ahead == "taken") == (evaluated == "taken"), (mesh, ahead, evaluated)
    assert 0 < sum(row[2] == "taken" for row in compared) < len(compared), compared
