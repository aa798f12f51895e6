"""Every kernel of attention x every mesh x every program, lowered for its platform and compiled on forced CPU devices.

No GPU and no TPU is needed: a program is lowered for a platform that is not there, and must hold that platform's kernel,
called on each device's own rows and heads. Then it is compiled for eight CPU devices with XLA's attention in the
kernel's place, so that the mesh's partitioner has its say.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import revision_jax

REPO = Path(revision_jax.__file__).parents[1]
KERNELS = {"cuda": "__cudnn$fmha", "tpu": "tpu_custom_call", "cpu": None}
MESHES = [(1, 1, 1), (4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 1), (2, 1, 2), (1, 2, 2), (2, 2, 2)]
SCRIPT = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp
import numpy as np
from flax import nnx
sys.path.append(sys.argv[1])
from tiny_base import GROUPS, chain_config, make_base
from revision_jax.ahead.programs import PROGRAMS
from revision_jax.interop.llama import save_llama
from revision_jax.models import attention
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.parallel.mesh import make_mesh
from revision_jax.pretrain.tokenizer import make_tokenizer
from revision_jax.runs.run import Run
from jax._src.cudnn import fused_attention_stablehlo as cudnn

folder, platform, kernel, meshes = Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]), json.loads(sys.argv[5])
make_base(folder / "base", width=16, hidden=32)
# As wide a head as the kernels ask for, and four of them for four devices.
sizes = LlamaConfig(len(make_tokenizer()), 32, 48, 2, 4, 4, 128, max_position_embeddings=128)
save_llama(Llama(sizes, rngs=nnx.Rngs(0)), folder / "base/llm")
attention._platform = lambda: {"cuda": "gpu"}.get(platform, platform)
cudnn.check_cudnn_version = lambda: 91000
lower = jax.stages.Wrapped

def programs(spec, sizes):
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    changes = {"model__dtype": "bfloat16", "train__batch_size": 8, "search__window_block": 8}
    run = Run(chain_config(spec, folder, **changes), mesh=mesh)
    with jax.set_mesh(mesh):
        for what in ("train", "search", "extract"):
            if what == "search" and not run.stage.answers or what == "extract" and "stage1.py" not in spec:
                continue
            for name, lower, _ in PROGRAMS[what](run, 4.0):
                yield name, lower

for spec in ("configs/stage1.py", "configs/stage1_sparse.py", "configs/stage2.py", "configs/stage2.py:unified"):
    for sizes in meshes:
        for name, lower in programs(spec, sizes):
            text = lower().as_text()
            print(spec, sizes, name, text.count(kernel or "nothing"), "CustomSPMDPartitioning" in text, flush=True)
"""


def test_x(tmp_path):
    pass
