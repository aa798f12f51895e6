"""A run with a tiny stand-in for model and data; as a script, the subject of the kill and multi-host tests.

python fake_run.py WORKDIR [key=value ...] [die=STEP] [slow=SECONDS a step]
"""

import os
import signal
import sys
import time

import flax.nnx as nnx
import grain
import jax
import jax.numpy as jnp
import numpy as np

from revision_jax import config as configs
from revision_jax.parallel import multihost
from revision_jax.parallel.mesh import host_shard, make_mesh
from revision_jax.training import loop
from revision_jax.training.preemption import RESTART_CODE, Preempted
from revision_jax.training.task import Task

B, F, D, T, V, P, H = 4, 6, 8, 10, 32, 3, 16
FIELDS = {
    "hierarchy.num_frames": F,
    "prompt.max_text_tokens": T,
    "train.batch_size": B,
    "train.steps": 12,
    "train.log_every": 2,
    "train.checkpoint_every": 4,
    "train.learning_rate": 3e-2,
    "lora.dropout": 0.1,
    "trainable": (("llm/layers/lora_[ab]", 1.0), ("llm/.*", "frozen"), ("adapter/.*", "frozen")),
}
BASE = {"llm": {"path": "somewhere/llm", "sha256": "0" * 64}}
TRAINED = {"llm/layers/lora_a": (H, 2), "llm/layers/lora_b": (2, H)}  # the shapes of what the table trains


class Layers(nnx.Module):
    def __init__(self, key):
        a, b = jax.random.split(key)
        self.kernel = nnx.Param(jax.random.normal(a, (H, H)) / 4, axes=("embed", "mlp"))
        self.lora_a = nnx.Param(jax.random.normal(b, (H, 2)) / 4, axes=("lora_in", "lora"))
        self.lora_b = nnx.Param(jnp.zeros((2, H)), axes=("lora", "lora_out"))


class LLM(nnx.Module):
    def __init__(self, key):
        a, b = jax.random.split(key)
        self.embedding = nnx.Param(jax.random.normal(a, (V, H)), axes=("vocab", "embed"))
        self.layers = Layers(b)


class Adapter(nnx.Module):
    def __init__(self, key):
        self.kernel = nnx.Param(jax.random.normal(key, (D, H)) / 3, axes=("norm", "embed"))


class FakeGrounder(nnx.Module):
    """Grounder's signatures, three small products inside."""

    def __init__(self, key, dropout=0.1):
        self.llm, self.adapter, self.dropout = LLM(key), Adapter(key), dropout

    def __call__(self, prefix, video, tokens):
        return self.logits(self.hidden(prefix, video, tokens))

    def logits(self, hidden):
        return (hidden @ self.llm.embedding[...].T).astype(jnp.float32)

    def hidden(self, prefix, video, tokens, *, dropout_key=None):
        layers = self.llm.layers
        embed = self.llm.embedding[...]
        context = (video @ self.adapter.kernel[...]).mean(1, keepdims=True) + embed[prefix].mean(0)
        h = jnp.tanh(embed[jnp.roll(tokens, 1, axis=1)] + context)
        low = h
        if dropout_key is not None:
            keep = jax.random.bernoulli(dropout_key, 1 - self.dropout, h.shape)
            low = jnp.where(keep, h / (1 - self.dropout), 0)
        return h @ layers.kernel[...] + low @ layers.lora_a[...] @ layers.lora_b[...]


def record(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """An example that depends on (seed, index) alone: the answer repeats the question's token."""
    word = rng.integers(1, 4)
    return {
        "video": rng.normal(size=(F, D)).astype(np.float32),
        "tokens": np.full(T, word, np.int32),
        "loss_mask": np.arange(T) >= T // 2,
        "record_id": np.int32(index),
    }


def poisoned(bad: int, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    example = record(index, rng)
    if index == bad:
        example["video"] = example["video"] * np.nan
    return example


def make_task(config, *, bad_record: int | None = None, records: int = 20, shard=(0, 1)) -> Task:
    data = grain.MapDataset.range(records).seed(config.seed).shuffle().repeat()
    make = record if bad_record is None else (lambda index, rng: poisoned(bad_record, index, rng))
    index, rows = shard[0], config.train.batch_size // shard[1]
    data = data.random_map(make).batch(config.train.batch_size)
    data = data.map(lambda batch: {name: x[index * rows : (index + 1) * rows] for name, x in batch.items()})
    return Task(
        model=FakeGrounder(jax.random.key(config.seed), config.lora.dropout),
        prefix=np.arange(P, dtype=np.int32),
        batches=data.to_iter_dataset(grain.ReadOptions(2, 4)),
        epoch_batches=records // config.train.batch_size,
        describe_record=lambda index: f"query {index}",
        base=BASE,
        validation=held_out(config, records) if config.train.eval_every else (),
    )


def held_out(config, records: int) -> list[grain.MapDataset]:
    """Batches of two kinds, of rows that no training sees."""
    draw = lambda seed: grain.MapDataset.range(records, 2 * records).seed(seed).random_map(record)
    return [draw(config.seed + number).batch(config.train.batch_size) for number in (1, 2)]


def make_config(**changes):
    return configs.load("configs/stage1.py", FIELDS | {k.replace("__", "."): v for k, v in changes.items()})


def before_step(act) -> None:
    """`act(step)` just before the batch of a step is taken."""
    take = loop.next_batch

    def wrapped(iterator, step):
        act(step)
        return take(iterator, step)

    loop.next_batch = wrapped


def die_at(step: int):
    """`kill -9` of this process."""
    before_step(lambda now: os.kill(os.getpid(), signal.SIGKILL) if now == step else None)


def main(workdir: str, flags: dict[str, str]) -> int:
    """As `revision_jax.train` does it: join, agree, train; exit code 75 after SIGTERM."""
    if "die" in flags:
        die_at(int(flags.pop("die")))
    if "slow" in flags:
        seconds = float(flags.pop("slow"))
        before_step(lambda step: print(f"step {step}", flush=True) or time.sleep(seconds))
    settings = configs.finish(make_config(), [f"{key}={value}" for key, value in flags.items()])
    try:
        multihost.initialize()
        multihost.check_equal("config", configs.flatten(settings))
        shard = host_shard(make_mesh(**settings.mesh), settings.train.batch_size)
        multihost.check_shards(shard)
        result = loop.run(settings, workdir, make_task(settings, shard=shard))
    except Preempted as stop:
        print(stop)
        return RESTART_CODE
    except multihost.HungHost as error:
        print(f"error: {error}")
        multihost.leave_at_once(RESTART_CODE)
    except (multihost.JoinError, multihost.Disagreement) as error:
        print(f"error: {error}")
        return 2
    print(result.first_step, result.last_step, result.compilations)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], dict(text.split("=", 1) for text in sys.argv[2:])))
