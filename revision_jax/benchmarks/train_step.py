"""Speed of a train step with random weights: Python's share, tokens a second, MFU; PyTorch + PEFT beside it.

    python -m revision_jax.benchmarks.train_step                            # many layers, toy widths: Python's share
    python -m revision_jax.benchmarks.train_step --shape tiny --dtype float32 --remat none --dropout 0 --torch  # CPU
    python -m revision_jax.benchmarks.train_step --shape 7b --batch 16 --remat names,full --torch    # on one GPU

One JSON line. MFU counts model FLOPs as `training/flops.py` says. Every variant must compile once; the benchmark fails
otherwise. `--dtype bfloat16,float32` shows both first losses.
"""

import argparse
import importlib.util
import itertools
import json
import math
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax.ahead.abstract import PREFIX_TOKENS, abstract_step
from revision_jax.benchmarks.torch_step import Rows, measure_torch
from revision_jax.models.llama import LlamaConfig
from revision_jax.parallel.memory import keep_freed_memory
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs.base import VICUNA_7B, encoder_of
from revision_jax.runs.batches import WINDOWS
from revision_jax.training.flops import FlopCount, peak_flops
from revision_jax.training.progress import device_memory


class Shape(NamedTuple):
    """What is measured: a model's sizes, and a batch of the size that its users take.

    Attributes:
      rows, frames, text: windows a step, frames of one, tokens of one of its texts.
      texts: that share a window's frames.
    """

    sizes: LlamaConfig
    rank: int
    rows: int = 4
    frames: int = 250
    text: int = 34
    texts: int = 1

    @property
    def length(self) -> int:
        """Tokens of a row; the last of a text is never read."""
        return PREFIX_TOKENS + self.frames + self.texts * (self.text - 1)


# As many calls as 7B makes, in widths that cost nothing: what is left is Python and dispatch.
TOY = LlamaConfig(64, 16, 16, num_layers=32, num_heads=2, num_kv_heads=2, head_dim=8)
SHAPES = {
    "toy": Shape(TOY, 2, frames=4, text=12),
    "tiny": Shape(LlamaConfig(546, 128, 352, 5, 4, 4, 32), 16, rows=16, frames=64, text=28, texts=4),  # the default run
    "135m": Shape(LlamaConfig(49152, 576, 1536, 30, 9, 3, 64), 64, rows=2),  # SmolLM2-135M
    "1b": Shape(LlamaConfig(128256, 2048, 8192, 2, 32, 8, 64), 64, rows=1),  # two layers of Llama-3.2-1B
    "7b": Shape(VICUNA_7B, 64),
}
WARM_UP = 2  # steps before the clock: the first compiles
ANSWER = 8  # tokens under the loss a window


def make_config(shape: Shape, *, dropout: float = 0.05, **model: str) -> ConfigDict:
    """Stage 1 of the `mad` preset with a shape's batch; the toy shape keeps its 7 LoRA matrices a layer."""
    changes = {
        "train.batch_size": shape.rows,
        "train.epochs": 0,
        "train.steps": 1000,
        "hierarchy.num_frames": shape.frames,
        "prompt.max_text_tokens": shape.text,
        "data.questions_per_window": shape.texts,
        "lora.dropout": dropout,
        "lora.rank": shape.rank,
    }
    return configs.load("configs/stage1.py:mad", changes | {f"model.{key}": value for key, value in model.items()})


def fill(tree: Any, key: jax.Array) -> Any:
    """Random arrays for shapes in their places: N(0, 0.02), ones for norms, zeros where LoRA's B and counters start."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)

    def make():
        return [_draw(jax.tree_util.keystr(path), leaf, jax.random.fold_in(key, i)) for i, (path, leaf) in
                enumerate(leaves)]  # fmt: skip

    arrays = jax.jit(make, out_shardings=[leaf.sharding for _, leaf in leaves])()
    return jax.tree.unflatten(structure, arrays)


def _draw(path: str, leaf, key: jax.Array) -> jax.Array:
    if "scale" in path:
        return jnp.ones(leaf.shape, leaf.dtype)
    if "opt_state" in path or "lora_b" in path or "bias" in path or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros(leaf.shape, leaf.dtype)
    return 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)


def make_batch(shapes: dict, vocabulary: int) -> dict[str, jax.Array]:
    """Random features and tokens; the loss is on the last `ANSWER` tokens."""
    rng = np.random.default_rng(0)
    values = {
        "video": rng.normal(size=shapes["video"].shape).astype(np.float16),
        "tokens": rng.integers(0, vocabulary, shapes["tokens"].shape, dtype=np.int32),
        "loss_mask": np.broadcast_to(np.arange(shapes["tokens"].shape[-1]) >= shapes["tokens"].shape[-1] - ANSWER,
                                     shapes["tokens"].shape),
    }  # fmt: skip
    return {name: jax.device_put(value, shapes[name].sharding) for name, value in values.items()}


def measure(config: ConfigDict, sizes: LlamaConfig, steps: int) -> dict[str, Any]:
    """One variant: times, speeds, memory, the first loss.

    Raises:
      RuntimeError: the step was compiled more than once.
    """
    mesh = make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        program, state, frozen, step = abstract_step(config, mesh, sizes)
        shapes = {path: array.shape for path, array in (frozen | state.trainable).items()}
        count = FlopCount(shapes, set(state.trainable), len(program.prefix))
        width = encoder_of(config)[1].feature_width
        batch = make_batch(WINDOWS.shapes(config, mesh, width)["windows"], sizes.vocab_size)
        state, frozen = fill(state, jax.random.key(0)), fill(frozen, jax.random.key(1))
        losses = []
        for _ in range(WARM_UP):
            state, metrics = step(state, batch, frozen)
            losses.append(float(metrics["loss"]))
        wall, python = _time(step, state, batch, frozen, steps)
    if step._cache_size() != 1:
        raise RuntimeError(f"the step was compiled {step._cache_size()} times; expected once.")
    tokens = config.train.batch_size * (len(program.prefix) + config.hierarchy.num_frames)
    tokens += math.prod(batch["tokens"].shape)
    flops, peak = count.step(batch), peak_flops(jax.devices()[0].device_kind)
    return {
        "step_ms": round(wall * 1e3, 3),
        "python_ms": round(python * 1e3, 3),
        "tokens_per_s": round(tokens / wall),
        "model_tflops": round(flops / 1e12, 3),
        "mfu": round(flops / wall / peak / mesh.size, 4) if peak else "not measured: no known peak",
        "first_loss": losses[0],
        **device_memory(),
    }


def measure_if_it_fits(config: ConfigDict, sizes: LlamaConfig, steps: int) -> dict[str, Any]:
    """`measure`; a variant that needs more memory than there is says so, and the next one is measured."""
    try:
        return measure(config, sizes, steps)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"step_ms": "does not fit: " + str(error).partition("\n")[0]}


def _time(step, state, batch, frozen, steps: int) -> tuple[float, float]:
    """Seconds a step in a row, and seconds until a call returns while the device is idle."""
    started = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, batch, frozen)
    jax.block_until_ready(metrics)
    wall = (time.perf_counter() - started) / steps
    called = []
    for _ in range(steps):
        started = time.perf_counter()
        state, metrics = step(state, batch, frozen)
        called.append(time.perf_counter() - started)
        jax.block_until_ready((state, metrics))
    return wall, float(np.median(called))


def beside_torch(arguments: argparse.Namespace, shape: Shape) -> dict[str, Any] | str:
    """The plain PyTorch + PEFT step of the same shapes, on the GPU or else the CPU; or why there is none.

    It runs in a process of its own, before JAX takes the GPU's memory: each framework has the whole card.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("peft") is None:
        return "not measured: no PyTorch and PEFT; pip install torch peft"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        rows = Rows(shape.rows, shape.length, ANSWER)
        call = pool.submit(measure_torch, shape.sizes, rows, shape.rank, arguments.steps)
        found = call.result()
    print(json.dumps(found), file=sys.stderr)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="toy")
    parser.add_argument("--batch", type=int, help="windows a step (default: the shape's)")
    parser.add_argument("--frames", type=int, help="of a window (default: the shape's)")
    parser.add_argument(
        "--text", type=int, help="tokens of a text (default: the shape's); 36 of the prompt come before"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--remat", default="names", help="policies, with commas")
    parser.add_argument("--attention", default="auto", help="backends, with commas: auto,xla,cudnn")
    parser.add_argument("--dtype", default="bfloat16", help="with commas: bfloat16,float32 compares the losses")
    parser.add_argument("--dropout", default="0.05", help="with commas: 0.05,0 shows the cost of random bits")
    parser.add_argument("--torch", action="store_true", help="PyTorch + PEFT in the same call")
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    given = {"rows": arguments.batch, "frames": arguments.frames, "text": arguments.text}
    shape = SHAPES[arguments.shape]._replace(**{name: value for name, value in given.items() if value is not None})
    torch_step, variants = beside_torch(arguments, shape) if arguments.torch else None, []
    flags = (arguments.dtype, arguments.remat, arguments.attention, arguments.dropout)
    for dtype, remat, attention, dropout in itertools.product(*(flag.split(",") for flag in flags)):
        model = {"dtype": dtype, "param_dtype": dtype, "remat": remat, "attention": attention}
        config = make_config(shape, dropout=float(dropout), **model)
        variants.append(model | {"dropout": float(dropout)} | measure_if_it_fits(config, shape.sizes, arguments.steps))
        print(json.dumps(variants[-1]), file=sys.stderr)  # what was measured is not lost if the rest is stopped
    report = {
        "benchmark": "train_step",
        "shape": arguments.shape,
        "batch": shape.rows,
        "tokens_a_window": shape.length,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "variants": variants,
    }
    if arguments.torch:
        report["torch"] = torch_step
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
