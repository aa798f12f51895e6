"""Speed of a train step with random weights: Python's share, tokens a second, MFU; PyTorch + PEFT beside it on a GPU.

    python -m revision_jax.benchmarks.train_step                            # many layers, toy widths: Python's share
    python -m revision_jax.benchmarks.train_step --shape 7b --batch 16 --remat names,full --torch    # on one GPU

One JSON line. MFU counts model FLOPs as `training/flops.py` says. Every variant must compile once; the benchmark fails
otherwise. `--dtype bfloat16,float32` shows both first losses.
"""

import argparse
import itertools
import json
import multiprocessing
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax.ahead.abstract import PREFIX_TOKENS, abstract_step
from revision_jax.benchmarks.torch_step import measure_torch
from revision_jax.models.llama import LlamaConfig
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs.base import VICUNA_7B, encoder_of
from revision_jax.runs.batches import WINDOWS
from revision_jax.training.flops import FlopCount, peak_flops
from revision_jax.training.progress import device_memory

# As many calls as 7B makes, in widths that cost nothing: what is left is Python and dispatch.
TOY = LlamaConfig(64, 16, 16, num_layers=32, num_heads=2, num_kv_heads=2, head_dim=8)
SHAPES = {"toy": TOY, "7b": VICUNA_7B}
WARM_UP = 2  # steps before the clock: the first compiles
ANSWER = 8  # tokens under the loss a window


def make_config(shape: str, batch: int, frames: int, text: int, *, dropout: float = 0.05, **model: str) -> ConfigDict:
    """Stage 1 of the `mad` preset; the toy shape keeps its 7 LoRA matrices a layer."""
    changes = {
        "train.batch_size": batch,
        "train.epochs": 0,
        "train.steps": 1000,
        "hierarchy.num_frames": frames,
        "prompt.max_text_tokens": text,
        "lora.dropout": dropout,
        "lora.rank": 64 if shape == "7b" else 2,
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
    tokens += config.train.batch_size * config.prompt.max_text_tokens
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


def beside_torch(arguments: argparse.Namespace, sizes: LlamaConfig, length: int) -> dict[str, Any] | str:
    """The plain PyTorch + PEFT step of the same shapes, or why there is none.

    It runs in a process of its own, before JAX takes the GPU's memory: each framework has the whole card.
    """
    if shutil.which("nvidia-smi") is None:
        return "not measured: no NVIDIA GPU"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        call = pool.submit(measure_torch, sizes, arguments.batch, length, arguments.steps, answer=ANSWER)
        found = call.result()
    print(json.dumps(found), file=sys.stderr)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="toy")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--text", type=int, default=34, help="text tokens a window; 36 of the prompt come before")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--remat", default="names", help="policies, with commas")
    parser.add_argument("--attention", default="auto", help="backends, with commas: auto,xla,cudnn")
    parser.add_argument("--dtype", default="bfloat16", help="with commas: bfloat16,float32 compares the losses")
    parser.add_argument("--dropout", default="0.05", help="with commas: 0.05,0 shows the cost of random bits")
    parser.add_argument("--torch", action="store_true", help="PyTorch + PEFT in the same call, on a GPU")
    arguments = parser.parse_args(argv)
    frames, text = (4, 12) if arguments.shape == "toy" else (arguments.frames, arguments.text)
    sizes, variants = SHAPES[arguments.shape], []
    torch_step = beside_torch(arguments, sizes, PREFIX_TOKENS + frames + text) if arguments.torch else None
    flags = (arguments.dtype, arguments.remat, arguments.attention, arguments.dropout)
    for dtype, remat, attention, dropout in itertools.product(*(flag.split(",") for flag in flags)):
        model = {"dtype": dtype, "param_dtype": dtype, "remat": remat, "attention": attention}
        config = make_config(arguments.shape, arguments.batch, frames, text, dropout=float(dropout), **model)
        variants.append(model | {"dropout": float(dropout)} | measure_if_it_fits(config, sizes, arguments.steps))
        print(json.dumps(variants[-1]), file=sys.stderr)  # what was measured is not lost if the rest is stopped
    report = {
        "benchmark": "train_step",
        "shape": arguments.shape,
        "batch": arguments.batch,
        "tokens_a_window": PREFIX_TOKENS + frames + text,
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
