"""Eight forced CPU devices: every mesh trains alike, and what it splits is really split."""

import json

import pytest

from tests.forced_devices import REPO, run_python

MESHES = {"data 8": (8, 1, 1), "fsdp 8": (1, 8, 1), "2x2x2": (2, 2, 2)}
STEPS = 20
BIASES = ("self_attn/q_proj/bias", "mlp/down_proj/bias", "self_attn/q_norm/scale")
SCRIPT = """
import dataclasses, json, sys
sys.path.append(sys.argv[1])
import fake_run
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from revision_jax.models.adapter import DenseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Compute, Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.parallel.collectives import read_collectives
from revision_jax.parallel.mesh import make_mesh, put_batch
from revision_jax.training import loop

steps, meshes = int(sys.argv[2]), json.loads(sys.argv[3])
# With what the families have beside Llama's blocks.
SIZES = LlamaConfig(
    fake_run.V, 16, 32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=4, qk_norm=True,
    biases=("q_proj", "k_proj", "v_proj", "down_proj"),
    rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
)
TABLE = (("llm/.*/lora_[ab]", 1.0), (".*", "frozen"))

def make_model(dtype):
    lora = LoRAConfig(2, 4.0, 0.0, ("q_proj", "down_proj"))
    llm = Llama(SIZES, lora=lora, rngs=nnx.Rngs(0), compute=Compute(dtype, dtype, remat="names"))
    model = Grounder(llm, DenseAdapter(fake_run.D, SIZES.hidden_size, rngs=nnx.Rngs(1)))
    graphdef, state = nnx.split(model)
    for i, (path, param) in enumerate(nnx.to_flat_state(state)):
        if path[-1] == "bias":  # zero at first
            param.set_value(0.1 * jax.random.normal(jax.random.key(i), param.get_value().shape))
    return nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(dtype), state))

def train(sizes, dtype, steps):
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    config = fake_run.make_config(train__batch_size=8, train__steps=steps, trainable=TABLE)
    task = dataclasses.replace(fake_run.make_task(config), model=make_model(dtype))
    with jax.set_mesh(mesh):
        parts, state = loop.build(config, task, mesh)
        losses, iterator = [], iter(task.batches)
        for _ in range(steps):
            batch = dict(next(iterator))
            batch.pop("record_id")
            batch["video"] = batch["video"].astype(dtype)
            batch = put_batch(batch, mesh)
            state, metrics = parts.step_fn(state, batch, parts.frozen)
            losses.append(float(metrics["loss"]))
        if dtype == jnp.float32:
            return losses
        hlo = parts.step_fn.lower(state, batch, parts.frozen).compile().as_text()
        hidden = jax.jit(lambda b, f, t: parts.module.merge(f, t).embed_windows(task.prefix, b["video"]))
        activations = hidden(batch, parts.frozen, state.trainable)
    shard = lambda x: list(x.sharding.shard_shape(x.shape))
    return {
        "losses": losses,
        "parameters": {path: shard(x) for path, x in (parts.frozen | state.trainable).items()},
        "rows": shard(batch["tokens"])[0], "activations": shard(activations)[0],
        "collectives": [[c.kind, c.bytes, c.times] for c in read_collectives(hlo)],
        "compilations": parts.step_fn.compile_count,
        "stack": max(x.nbytes for x in parts.frozen.values()),
    }

narrow = {name: train(sizes, jnp.float32, 1) for name, sizes in meshes.items()}
jax.config.update("jax_enable_x64", True)
print(json.dumps([narrow, {name: train(sizes, jnp.float64, steps) for name, sizes in meshes.items()}]))
"""


@pytest.fixture(scope="module")
def reports():
    """Mesh -> the first loss in float32; mesh -> what twenty steps in float64 say."""
    meshes = {"one": (1, 1, 1)} | MESHES
    printed = run_python(SCRIPT, 8, REPO / "tests/training", STEPS, json.dumps(meshes))
    return json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="module")
def wide(reports):
    return reports[1]


@pytest.mark.parametrize("mesh", MESHES)
def test_twenty_steps_agree_in_float64(wide, mesh):
    one, other = wide["one"]["losses"], wide[mesh]["losses"]
    assert len(one) == STEPS and one[-1] < one[0]
    assert other == pytest.approx(one, rel=1e-9)


def test_the_first_step_agrees_in_float32(reports):
    found = reports[0]
    assert found.keys() == {"one", *MESHES}
    for mesh, losses in found.items():
        assert losses == pytest.approx(found["one"], rel=1e-6), mesh


def test_parameters_and_activations_are_split(wide):
    q_proj, up, lora = (
        f"llm/layers/{name}" for name in ("self_attn/q_proj/kernel", "mlp/up_proj/kernel", "mlp/down_proj/lora_a")
    )
    expected = {"one": [3, 16, 16], "data 8": [3, 16, 16], "fsdp 8": [3, 2, 16], "2x2x2": [3, 8, 8]}
    assert {mesh: found["parameters"][q_proj] for mesh, found in wide.items()} == expected
    assert wide["2x2x2"]["parameters"][up] == [3, 8, 16]
    biases = {name: wide["2x2x2"]["parameters"][f"llm/layers/{name}"] for name in BIASES}
    assert biases == {"self_attn/q_proj/bias": [3, 8], "mlp/down_proj/bias": [3, 8], "self_attn/q_norm/scale": [3, 4]}
    assert all(found["parameters"][lora] == [3, 32, 2] for found in wide.values())  # LoRA stays whole
    assert {mesh: found["rows"] for mesh, found in wide.items()} == {"one": 8, "data 8": 1, "fsdp 8": 1, "2x2x2": 2}
    assert all(found["activations"] == found["rows"] for found in wide.values())


def test_collectives_are_the_planned_ones(wide):
    assert wide["one"]["collectives"] == []
    kinds = {mesh: {kind for kind, _, _ in found["collectives"]} for mesh, found in wide.items()}
    assert kinds["data 8"] == {"all-reduce"}  # of LoRA's gradients and the metrics, no weight moves
    assert "all-gather" in kinds["fsdp 8"]
    for mesh in ("fsdp 8", "2x2x2"):
        gathers = [(size, times) for kind, size, times in wide[mesh]["collectives"] if kind == "all-gather"]
        # A layer at a time, never a stack of all layers.
        assert max(size for size, _ in gathers) < wide[mesh]["stack"]
        assert max(times for _, times in gathers) == 3


def test_one_compilation_each(wide):
    assert {found["compilations"] for found in wide.values()} == {1}
