"""Speed of a train step with random weights: Python's share, tokens a second, MFU; PyTorch + PEFT beside it.

    python -m revision_jax.benchmarks.train_step                            # many layers, toy widths: Python's share
    python -m revision_jax.benchmarks.train_step --shape tiny --torch --repeat 7 --steps 2 \\
        --dtype float32 --remat none --dropout 0                                                     # on a CPU
    python -m revision_jax.benchmarks.train_step --shape 7b --batch 16 --remat names,full --torch    # on one GPU

One JSON line. MFU counts model FLOPs as `training/flops.py` says. Every variant must compile once; the benchmark fails
otherwise. `--dtype bfloat16,float32` shows both first losses. `--torch` alone times one framework after the other, each
with the whole device; with `--repeat`, on a CPU, they take turns of `--steps` steps, and `beside` has medians and
spread. PyTorch gets as many rows of as many tokens, each row one causal text, with the loss on its last 8 tokens; on a
CPU it computes in float32 without dropout, so ours should, too.
"""

import argparse
import contextlib
import itertools
import json
import math
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax.ahead.abstract import PREFIX_TOKENS, abstract_step
from revision_jax.benchmarks.random_state import ANSWER, fill, make_batch
from revision_jax.benchmarks.side_by_side import Claim, Program, compare, take_turns
from revision_jax.benchmarks.torch_step import Peer, TorchShape, measure_before, steps_beside
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

    @property
    def torch(self) -> TorchShape:
        """What PyTorch gets: a causal text a row."""
        return TorchShape(self.sizes, self.rank, self.rows, self.length, ANSWER)


# As many calls as 7B makes, in widths that cost nothing: what is left is Python and dispatch.
TOY = LlamaConfig(64, 16, 16, num_layers=32, num_heads=2, num_kv_heads=2, head_dim=8)
SHAPES = {
    "toy": Shape(TOY, 2, frames=4, text=12),
    "tiny": Shape(LlamaConfig(546, 128, 352, 5, 4, 4, 32), 16, rows=16, frames=64, text=28, texts=4),  # the default run
    "135m": Shape(LlamaConfig(49152, 576, 1536, 30, 9, 3, 64), 64, rows=2),  # SmolLM2-135M
    "1b": Shape(LlamaConfig(128256, 2048, 8192, 2, 32, 8, 64), 64, rows=1),  # two layers of Llama-3.2-1B
    "7b": Shape(VICUNA_7B, 64),
}
OURS = "ours"
WARM_UP = 2  # steps before the clock: the first compiles


def make_config(shape: Shape, *, dropout: float = 0.05, **model: str | int) -> ConfigDict:
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


def measure(config: ConfigDict, sizes: LlamaConfig, steps: int, peer: Peer | None = None) -> dict[str, Any]:
    """One variant: times, speeds, memory, the first loss; rows `beside` a peer.

    Raises:
      RuntimeError: the step was compiled more than once.
    """
    mesh = make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        fixed, state, frozen, step = abstract_step(config, mesh, sizes)
        shapes = {path: array.shape for path, array in (frozen | state.trainable).items()}
        count = FlopCount(shapes, set(state.trainable), len(fixed.prefix))
        width = encoder_of(config)[1].feature_width
        batch = make_batch(WINDOWS.shapes(config, mesh, width)["windows"], sizes.vocab_size)
        state, frozen = fill(state, jax.random.key(0)), fill(frozen, jax.random.key(1))
        losses = []
        for _ in range(WARM_UP):
            state, metrics = step(state, batch, frozen)
            losses.append(float(metrics["loss"]))
        wall, python, state = _time(step, state, batch, frozen, steps)
        beside = {} if peer is None else {"beside": _time_beside(step, state, batch, frozen, peer)}
    if step.compile_count > 1:
        raise RuntimeError(f"the step was compiled {step.compile_count} times; expected once.")
    tokens = config.train.batch_size * (len(fixed.prefix) + config.hierarchy.num_frames)
    tokens += math.prod(batch["tokens"].shape)
    flops, peak = count.step(batch), peak_flops(jax.devices()[0].device_kind)
    return {
        "step_ms": round(wall * 1e3, 3),
        "python_ms": round(python * 1e3, 3),
        "tokens_per_s": round(tokens / wall),
        "model_tflops": round(flops / 1e12, 3),
        "gflop_per_s": round(flops / wall / 1e9, 1),
        "mfu": round(flops / wall / peak / mesh.size, 4) if peak else "not measured: no known peak",
        "first_loss": losses[0],
        **device_memory(),
        **beside,
    }


def measure_if_it_fits(config: ConfigDict, sizes: LlamaConfig, steps: int, peer: Peer | None = None) -> dict[str, Any]:
    """`measure`; a variant that needs more memory than there is says so, and the next one is measured."""
    try:
        return measure(config, sizes, steps, peer)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"step_ms": "does not fit: " + str(error).partition("\n")[0]}


def _time(step, state, batch, frozen, steps: int) -> tuple[float, float, Any]:
    """Seconds a step in a row, seconds until a call returns while the device is idle, and the state after all."""
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
    return wall, float(np.median(called)), state


def _time_beside(step, state, batch, frozen, peer: Peer) -> list[dict[str, Any]]:
    """Rows of a comparison with the peer."""

    def ours():
        nonlocal state
        for _ in range(peer.steps):
            state, metrics = step(state, batch, frozen)
        jax.block_until_ready((state, metrics))

    theirs = Program(lambda: peer.take(peer.steps), peer.steps)
    seconds = take_turns({OURS: Program(ours, peer.steps), "PyTorch + PEFT": theirs}, peer.repeat)
    return compare(Claim("train step", "ms a step", OURS), seconds)


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shape", choices=tuple(SHAPES), default="toy")
    add("--batch", type=int, help="windows a step (default: the shape's)")
    add("--frames", type=int, help="of a window (default: the shape's)")
    add("--text", type=int, help="tokens of a text (default: the shape's); 36 of the prompt come before")
    add("--steps", type=int, default=20)
    add("--remat", default="names", help="policies, with commas")
    add("--attention", default="auto", help="backends, with commas: auto,xla,cudnn")
    add("--dtype", default="bfloat16", help="with commas: bfloat16,float32 compares the losses")
    add("--unroll", default="1", help="layers of one turn of the loop over them, with commas (`model.unroll`)")
    add("--dropout", default="0.05", help="with commas: 0.05,0 shows the cost of random bits")
    add("--torch", action="store_true", help="PyTorch + PEFT in the same call")
    add("--repeat", type=int, help="with --torch, on a CPU: rounds in which the two take turns")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.repeat is not None and not arguments.torch:
        parser.error("--repeat repeats a comparison; give --torch, too")
    keep_freed_memory()
    given = {"rows": arguments.batch, "frames": arguments.frames, "text": arguments.text}
    shape = SHAPES[arguments.shape]._replace(**{name: value for name, value in given.items() if value is not None})
    alone = arguments.torch and arguments.repeat is None
    torch_step = measure_before(shape.torch, arguments.steps) if alone else None
    turns = contextlib.nullcontext()
    if arguments.repeat is not None:
        turns = steps_beside(shape.torch, arguments.steps, arguments.repeat)
    with turns as peer:
        variants = measure_variants(arguments, shape, peer)
    work = {"work": f"train step, `{arguments.shape}`: {shape.rows} rows of {shape.length} tokens"}
    beside = [row | work for variant in variants for row in variant.get("beside", ())]
    report = {
        "benchmark": "train_step",
        "shape": arguments.shape,
        "batch": shape.rows,
        "tokens_a_window": shape.length,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "product_gflop_per_s": round(product_rate(shape), 1),
        "variants": variants,
    }
    if arguments.torch:
        report |= {"torch": torch_step} if alone else {"beside": beside}
    print(json.dumps(report))
    return 0


def product_rate(shape: Shape, seconds: float = 1.0) -> float:
    """GFLOP/s of a float32 product as the step has them: all tokens of a batch through a layer's widest matrix."""
    tokens, sizes = shape.rows * shape.length, shape.sizes
    x, w = jnp.ones((tokens, sizes.hidden_size)), jnp.ones((sizes.hidden_size, sizes.intermediate_size))
    product, best, begun = jax.jit(jnp.matmul), math.inf, time.perf_counter()
    product(x, w).block_until_ready()
    while time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        product(x, w).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * x.size * sizes.intermediate_size / best / 1e9


def measure_variants(arguments: argparse.Namespace, shape: Shape, peer: Peer | None) -> list[dict[str, Any]]:
    """Each combination of what was given with commas."""
    flags, variants = ("dtype", "remat", "attention", "unroll", "dropout"), []
    given = (getattr(arguments, flag).split(",") for flag in flags)
    for dtype, remat, attention, unroll, dropout in itertools.product(*given):
        model = {"dtype": dtype, "param_dtype": dtype, "remat": remat, "attention": attention, "unroll": int(unroll)}
        config = make_config(shape, dropout=float(dropout), **model)
        found = measure_if_it_fits(config, shape.sizes, arguments.steps, peer)
        variants.append(model | {"dropout": float(dropout)} | found)
        print(json.dumps(variants[-1]), file=sys.stderr)  # what was measured is not lost if the rest is stopped
    return variants


if __name__ == "__main__":
    sys.exit(main())
