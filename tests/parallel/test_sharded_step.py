"""Four forced CPU devices as data 2 x fsdp 2: one device's loss, and parameters that are really split."""

import json
import os
import subprocess
import sys
from pathlib import Path

import revision_jax

REPO = Path(revision_jax.__file__).parents[1]
SCRIPT = """
import json, sys
sys.path.append(sys.argv[1])
import jax
import fake_run
from revision_jax.parallel.mesh import batch_sharding, make_mesh
from revision_jax.training import loop

def first_steps(mesh):
    config = fake_run.make_config(train__batch_size=8)
    task = fake_run.make_task(config)
    with jax.set_mesh(mesh):
        parts, state = loop.build(config, task, mesh)
        losses = []
        iterator = iter(task.batches)
        for _ in range(2):
            batch = dict(next(iterator))
            batch.pop("record_id")
            batch = jax.device_put(batch, batch_sharding(mesh))
            state, metrics = parts.step_fn(state, batch, parts.frozen)
            losses.append(float(metrics["loss"]))
    shapes = lambda array: [list(shard.data.shape) for shard in array.addressable_shards]
    return {
        "losses": losses,
        "shards": {path: shapes(array) for path, array in parts.frozen.items()},
        "rows": [shape[0] for shape in shapes(batch["tokens"])],
        "compilations": parts.step_fn._cache_size(),
    }

assert len(jax.devices()) == 4
print(json.dumps([first_steps(make_mesh(devices=jax.devices()[:1])), first_steps(make_mesh(2, 2, 1))]))
"""


def test_data_2_fsdp_2_equals_one_device():
    environment = os.environ | {
        "PYTHONPATH": str(REPO),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(REPO / "tests/training")],
        env=environment, capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stderr
    one, four = json.loads(done.stdout.splitlines()[-1])
    for a, b in zip(one["losses"], four["losses"]):
        assert abs(a - b) <= 1e-6 * abs(a)
    assert one["shards"]["llm/layers/kernel"] == [[16, 16]]
    assert four["shards"]["llm/layers/kernel"] == [[8, 16]] * 4
    assert four["shards"]["llm/embedding"] == [[32, 8]] * 4
    assert four["rows"] == [2] * 4
    assert one["compilations"] == four["compilations"] == 1
