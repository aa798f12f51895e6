"""The programs of a config, to be lowered for devices that are described: train steps, searches, the encoder."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.ahead.abstract import abstract_step, prompts_or_stand_in
from revision_jax.data.video.extraction import encode_images
from revision_jax.interop.encoder import abstract
from revision_jax.interop.pictures import default_pictures
from revision_jax.parallel.memory import held
from revision_jax.parallel.mesh import batch_sharding, replicated
from revision_jax.runs.base import encoder_of
from revision_jax.runs.run import Run
from revision_jax.search.abstract import abstract_search
from revision_jax.training.flops import FlopCount

Facts = Mapping[
    str, Any
]  # `parts`: name -> bytes a chip; `largest_matrix`: bytes; of a step also FLOPs, tokens, windows, weights
Program = tuple[str, Callable[[], jax.stages.Traced], Facts]


def train_programs(run: Run, memory_gib: float) -> Iterator[Program]:
    """The train step for every kind of batch of the stage."""
    config, mesh = run.config, run.mesh
    fixed, state, frozen, step = abstract_step(config, mesh)
    shapes = {path: array.shape for path, array in (frozen | state.trainable).items()}
    count = FlopCount(shapes, set(state.trainable), len(fixed.prefix))
    width = encoder_of(config)[1].feature_width
    batches = [kind.shapes(config, mesh, width) for kind in run.stage.batches]
    for name, batch in [item for kind in batches for item in kind.items()]:
        answers = 8 * math.prod(batch["tokens"].shape[:-1])  # `From 07 to 113.` and `</s>`
        flops = count.step(batch, answers=answers)
        facts = {
            "parts": {
                "frozen weights": held(frozen),
                "trained": held(state.trainable),
                "optimizer": held(state.opt_state),
                "batch": held(batch),
            },
            "flops": flops,
            "executed": flops + recomputed(config.model.remat, count, batch),
            "tokens": step_tokens(count, batch),
            "windows": math.prod(batch["video"].shape[:-2]),
            "weight_bytes": sum(array.size * array.dtype.itemsize for array in frozen.values()) / mesh.shape["tensor"],
            "largest_matrix": largest_matrix(frozen | state.trainable),
        }
        yield f"train, {name}", functools.partial(step.trace, state, batch, frozen), facts


def recomputed(remat: str, count: FlopCount, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
    """FLOPs of the forward pass that a remat policy repeats: of the layer's big products those that are not kept."""
    again = {
        "none": (),
        "mlp": ("o_proj",),
        "names": ("o_proj", "gate_proj", "up_proj"),
        "full": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"),
    }[remat]
    tokens = step_tokens(count, batch)
    sizes = [shape for path, shape in count.shapes.items() if path.split("/")[-2] in again and len(shape) == 3]
    return sum(2.0 * tokens * a * b * c for a, b, c in sizes)


def step_tokens(count: FlopCount, batch: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Tokens of a step that go through the language model, over all chips."""
    rows, length = batch["video"].shape[:2]
    return rows * (count.prefix + length) + batch["tokens"].size


def search_programs(run: Run, memory_gib: float) -> Iterator[Program]:
    """The search of a two-hour video for 64 queries: dense windows; of a stage that answers upper levels, all levels.

    Its blocks are chosen as where it runs: the largest that `memory_gib` a chip allows.
    """
    models, depth = run.models("abstract"), 1
    if models.upper is not None:
        depth += len(run.config.hierarchy.levels)
    trace, weights = abstract_search(run.config, models, prompts_or_stand_in(run.config), run.mesh, depth, memory_gib)
    facts = {"parts": {"weights": held(weights)}, "largest_matrix": largest_matrix(weights)}
    yield f"search, depth {depth}", trace, facts


def extract_programs(run: Run, memory_gib: float) -> Iterator[Program]:
    """The encoder over a batch of frames."""
    config, mesh = run.config, run.mesh
    kind, sizes = encoder_of(config)
    graphdef, weights = nnx.split(abstract(kind, sizes))
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh))
    weights = jax.tree.map(place, weights)
    size = sizes.vision.image_size
    pictures = default_pictures(kind.pictures, size)  # the numbers do not change the program
    rows = 128 * mesh.shape["data"] * mesh.shape["fsdp"]
    frames = jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8, sharding=batch_sharding(mesh))
    encode = jax.jit(functools.partial(encode_images, graphdef, pictures.mean, pictures.std))
    facts = {"parts": {"weights": held(weights), "batch": held(frames)}, "largest_matrix": largest_matrix(weights)}
    yield "extract, 128 frames a chip", functools.partial(encode.trace, weights, frames), facts


def largest_matrix(tree: Any) -> float:
    """Bytes of the largest matrix in a pytree, of stacked ones that of a layer."""
    return max(math.prod(x.shape[-2:]) * x.dtype.itemsize for x in jax.tree.leaves(tree))


PROGRAMS: dict[str, Callable[[Run, float], Iterator[Program]]] = {
    "train": train_programs,
    "search": search_programs,
    "extract": extract_programs,
}
