"""Four forced CPU devices as data 2 x fsdp 2: one device's loss, and parameters that are really split."""

import json

import pytest

from tests.forced_devices import REPO, run_python

SCRIPT = """
import dataclasses, json, sys
sys.path.append(sys.argv[1])
import fake_run
import jax
import numpy as np
from flax import nnx
from revision_jax.checkpoint import Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.models.adapter import DenseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.parallel.mesh import batch_sharding, make_mesh
from revision_jax.training import loop

SIZES = LlamaConfig(fake_run.V, 16, 24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4)
TABLE = (("llm/.*/lora_[ab]", 1.0), ("llm/norm/scale", 0.1), (".*", "frozen"))

def make_grounder():
    lora = LoRAConfig(2, 4.0, 0.1, ("q_proj", "down_proj"))
    llm = Llama(SIZES, lora=lora, rngs=nnx.Rngs(0))
    return Grounder(llm, DenseAdapter(fake_run.D, SIZES.hidden_size, rngs=nnx.Rngs(1)))

def shapes(array):
    return [list(shard.data.shape) for shard in array.addressable_shards]

def first_steps(mesh):
    config = fake_run.make_config(train__batch_size=8, trainable=TABLE)
    task = dataclasses.replace(fake_run.make_task(config), model=make_grounder())
    with jax.set_mesh(mesh):
        parts, state = loop.build(config, task, mesh)
        losses, iterator = [], iter(task.batches)
        for _ in range(3):
            batch = dict(next(iterator))
            batch.pop("record_id")
            batch = jax.device_put(batch, batch_sharding(mesh))
            state, metrics = parts.step_fn(state, batch, parts.frozen)
            losses.append(float(metrics["loss"]))
    report = {
        "losses": losses,
        "frozen": {path: shapes(array) for path, array in parts.frozen.items()},
        "rows": [shape[0] for shape in shapes(batch["tokens"])],
        "compilations": parts.step_fn.compile_count,
    }
    return report, parts.frozen, iterator

assert len(jax.devices()) == 4
one, frozen, iterator = first_steps(make_mesh(devices=jax.devices()[:1]))
four, split, _ = first_steps(make_mesh(2, 2, 1))
# Saved on four devices, restored on one.
with Checkpoints(sys.argv[2], Meta({}, {})) as checkpoints:
    checkpoints.save(1, split, {"a": split["adapter/bias"]}, iterator)
    checkpoints.wait()
    _, again, _ = checkpoints.restore(frozen, {"a": frozen["adapter/bias"]}, iterator)
assert all(len(array.sharding.device_set) == 1 for array in again.values())
jax.tree.map(np.testing.assert_array_equal, again, frozen)
print(json.dumps([one, four]))
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What the steps of a tiny grounder say on one device and on four."""
    folder = tmp_path_factory.mktemp("sharded") / "checkpoints"
    return json.loads(run_python(SCRIPT, 4, REPO / "tests/training", folder).splitlines()[-1])


def test_data_2_fsdp_2_equals_one_device(reports):
    one, four = reports
    # The first step differs by the order of sums alone; later ones pass through Adam, which enlarges that.
    assert abs(one["losses"][0] - four["losses"][0]) <= 1e-6 * one["losses"][0]
    for a, b in zip(one["losses"], four["losses"]):
        assert abs(a - b) <= 1e-4 * a
    assert one["compilations"] == four["compilations"] == 1


def test_parameters_and_batch_are_really_split(reports):
    one, four = reports
    q_proj, embedding = "llm/layers/self_attn/q_proj/kernel", "llm/embed_tokens/embedding"
    assert one["frozen"][q_proj] == [[2, 16, 16]] and one["rows"] == [8]
    assert four["frozen"][q_proj] == [[2, 8, 16]] * 4
    assert four["frozen"][embedding] == [[32, 8]] * 4
    assert four["frozen"]["adapter/kernel"] == [[8, 8]] * 4
    assert four["rows"] == [2] * 4
