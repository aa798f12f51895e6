"""The one place that makes a grounder from a config: fresh, trained, or as shapes.

Fresh: as its stage starts, from pretrained parts, from what stages before it trained, and the rest drawn from `seed`.
Trained: as a checkpoint of its run has it. Abstract: every parameter a shape and a type.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.checkpoint import Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.config import ConfigError, resolve_path
from revision_jax.interop.adapter import load_dense_adapter
from revision_jax.interop.llama import check_llama, load_llama
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.layers import LayerNorm, shapes_of
from revision_jax.models.llama import Compute, Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.models.quantize import quantize, with_scales
from revision_jax.models.visual import Visual
from revision_jax.parallel.mesh import put, replicated
from revision_jax.parallel.rules import sharding_for
from revision_jax.runs.base import (
    base_fingerprints,
    encoder_of,
    llama_config,
    make_prompts,
    missing_base,
    report_missing,
)
from revision_jax.runs.batches import frames_see_query
from revision_jax.runs.predecessors import missing_predecessors, predecessor_prints, predecessors, trained_before
from revision_jax.runs.stage import stage_of
from revision_jax.training.state import Arrays, place, take_apart
from revision_jax.training.workdir import READ_FREE


# ------------------------------------------------------------------------------------------------- fresh
def fresh_grounder(config: ConfigDict, mesh: Mesh) -> Grounder:
    """The grounder as its stage starts, each parameter in its place on the mesh.

    Raises:
      ConfigError: missing parts, predecessors that do not fit, or a prompt and video that exceed the LLM's positions.
      CheckpointError: a predecessor that was trained on other files.
    """
    check_files(config)
    llm = _load_llm(config, mesh)
    check_length(config, llm.config)
    # Placed as the train step leaves them, so that one compiled search serves the model before and after.
    module, arrays = take_apart(_join(config, llm))
    arrays = place(arrays, module.shardings(mesh))
    return module.merge(arrays | trained_by_predecessors(config, arrays))


def _load_llm(config: ConfigDict, mesh: Mesh) -> Llama:
    """`base.llm` with a fresh LoRA, read straight into its shards; in 8 bits if `model.param_dtype` says so."""
    narrow, scales = config.model.param_dtype == "int8", {}

    def put_parameter(path: str, param: nnx.Param, array: jax.Array) -> jax.Array:
        if narrow and path.startswith("layers/") and path.endswith("/kernel"):
            # As it is read: the weights are never whole in more than 8 bits.
            array, scale = quantize(array)
            scales[f"{path}_scale"] = put(scale, replicated(mesh))
        return put(array, sharding_for(path, param, mesh))

    llm = load_llama(
        resolve_path(config.base.llm),
        lora=LoRAConfig(**config.lora),
        compute=Compute(
            dtype=jnp.dtype(config.model.dtype),
            param_dtype=jnp.dtype(config.model.dtype if narrow else config.model.param_dtype),
            remat=config.model.remat,
            attention=config.model.attention,
            unroll=config.model.unroll,
        ),
        rngs=nnx.Rngs(config.seed),
        place=put_parameter,
    )
    return with_scales(llm, scales) if narrow else llm


def _join(config: ConfigDict, llm: Llama) -> Grounder:
    """The LLM and the stage's adapters."""
    visual = make_visual(config, llm.config.hidden_size)
    return Grounder(llm, visual.adapter, visual.sparse, norm=visual.norm, window_chunk=config.model.window_chunk)


# ------------------------------------------------------------------------------------------------- trained
def restore_trained(config: ConfigDict, workdir: Path, trainable: Arrays) -> tuple[int, Arrays]:
    """(steps, trained parameters) of a run, laid out as `trainable` (or its abstract shapes).

    The newest checkpoint, or with `train.keep_best` the one with the lowest validation loss.

    Raises:
      CheckpointError: no checkpoint, or one that was trained on other files.
    """
    meta = Meta(config.to_dict(), fingerprints(config))
    with Checkpoints(workdir / "checkpoints", meta, free=READ_FREE, read_only=True) as checkpoints:
        return checkpoints.restore_params(trainable, best=config.train.keep_best)


# ------------------------------------------------------------------------------------------------- abstract
def abstract_grounder(config: ConfigDict, sizes: LlamaConfig | None = None) -> Grounder:
    """The stage's grounder, every parameter a shape and a type; no weights are read.

    Args:
      sizes: of the LLM, instead of those of `base.llm`.
    """
    sizes = sizes or llama_config(config)
    model = config.model
    dtypes = jnp.dtype(model.dtype), jnp.dtype(model.param_dtype)
    compute = Compute(*dtypes, model.remat, model.attention, model.unroll)

    def build(rngs: nnx.Rngs) -> Grounder:
        return _join(config, Llama(sizes, lora=LoRAConfig(**config.lora), rngs=rngs, compute=compute))

    return shapes_of(build)


# ------------------------------------------------------------------------------------------------- adapters
def make_visual(config: ConfigDict, hidden_size: int) -> Visual:
    """The dense adapter, and what else the stage's model has, fresh: a sparse one, a norm."""
    adapter, sparse, norm = None, None, None
    if not frames_see_query(config):
        adapter = make_dense_adapter(config, hidden_size)
    if "sparse" in stage_of(config).adapters:
        _check_token_width(config)
        width, projected = encoder_of(config)[1].feature_width, config.model.layout == "llm_width"
        sparse = SparseAdapter(width, hidden_size, rngs=_rngs(config, 1), projected=projected, **config.sparse)
    if config.model.visual_norm:
        norm = LayerNorm(hidden_size, axis="norm", rngs=_rngs(config, 3))
    return Visual(adapter, sparse, norm)


def make_dense_adapter(config: ConfigDict, hidden_size: int) -> DenseAdapter:
    """The dense adapter, of `base.projector`, or fresh where there is no file.

    Raises:
      ConfigError: a projector between other widths than `base.encoder` and the LLM have.
    """
    width = encoder_of(config)[1].feature_width
    if not config.base.projector:
        return DenseAdapter(width, hidden_size, rngs=_rngs(config, 2))
    adapter = load_dense_adapter(resolve_path(config.base.projector))
    _check_width(config, adapter, width, hidden_size)
    return adapter


def _check_token_width(config: ConfigDict) -> None:
    _, encoder = encoder_of(config)
    if encoder.token_width != encoder.feature_width:
        raise ConfigError(
            f"base.encoder: {resolve_path(config.base.encoder)}/config.json tells of text tokens of width "
            f"{encoder.token_width} and features of width {encoder.feature_width}; the sparse adapter compares them, "
            "expected the same width. Give another encoder, or search with the dense stage alone (search.depth 1)."
        )


def _check_width(config: ConfigDict, adapter: DenseAdapter, width: int, hidden_size: int) -> None:
    takes, gives = adapter.kernel.shape
    if gives != hidden_size:
        raise ConfigError(
            f"base.projector: {resolve_path(config.base.projector)} gives width {gives}; base.llm, "
            f"{resolve_path(config.base.llm)}, has hidden_size {hidden_size}. Give the projector made for this LLM."
        )
    if takes != width:
        known = {512: "as CLIP ViT-B/32 or B/16", 768: "as CLIP ViT-L/14"}
        name = lambda width: f"{width} ({known[width]})" if width in known else str(width)
        encoder, projector = resolve_path(config.base.encoder), resolve_path(config.base.projector)
        raise ConfigError(
            f"base.encoder: {encoder}/config.json tells of features of width {name(width)}, but the weight of "
            f"base.projector, {projector}, is {adapter.kernel.shape[::-1]}: "
            f"its features have width {name(takes)}. Give the encoder that the projector was trained with."
        )


def _rngs(config: ConfigDict, part: int) -> nnx.Rngs:
    """The random numbers of a part other than LoRA, which has those of `seed` itself."""
    return nnx.Rngs(jax.random.fold_in(jax.random.key(config.seed), part))


# ------------------------------------------------------------------------------------------------- checks
def check_files(config: ConfigDict) -> None:
    """Raises ConfigError that lists each pretrained part and predecessor that is missing, and how it is made."""
    report_missing(missing_base(config, stage_of(config).draws) + missing_predecessors(config))


def check_weights(config: ConfigDict) -> None:
    """Whether the pretrained parts are whole and fit each other, before data is prepared for hours.

    Raises:
      ValueError: damaged files, tensors that do not fit, another encoder than the projector's.
      FileNotFoundError: a missing shard.
    """
    make_dense_adapter(config, check_llama(resolve_path(config.base.llm)).hidden_size)


def check_length(config: ConfigDict, sizes: LlamaConfig) -> None:
    """Raises ConfigError when a video with its prompt is longer than the LLM was made for, or is computed for."""
    positions, key = min((sizes.max_position_embeddings, "max_position_embeddings"), sizes.reach or (math.inf, ""))
    prefix, text = len(make_prompts(config).prefix), config.prompt.max_text_tokens
    video = stage_of(config).video_tokens(config)
    if prefix + video + text > positions:
        longest = "hierarchy.num_frames" if video == config.hierarchy.num_frames else "hierarchy.levels"
        raise ConfigError(
            f"a window takes {prefix} (prompt.system) + {video} ({longest}) + {text} "
            f"(prompt.max_text_tokens) positions; {config.base.llm} has {positions} ({key}). Lower one of them."
        )


def fingerprints(config: ConfigDict) -> dict[str, dict[str, str]]:
    """Role -> path and content hash of each part that was made before this run, for checkpoints."""
    return base_fingerprints(config) | predecessor_prints(config)


def trained_by_predecessors(config: ConfigDict, arrays: Mapping[str, jax.Array]) -> Arrays:
    """What the stages before this one trained, path -> array, laid out as `arrays` (or their abstract shapes)."""
    trained = {}
    for before in predecessors(config):
        trained |= trained_before(config, before, arrays, base_fingerprints(config))
    return trained
