"""From a config to the parts it names: hierarchy, prompts, and the grounder with its frozen files."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.checkpoint import Checkpoints, Meta, fingerprint
from revision_jax.config import ConfigError, resolve_path
from revision_jax.hierarchy import Hierarchy
from revision_jax.interop.adapter import load_dense_adapter
from revision_jax.interop.clip import read_clip_config
from revision_jax.interop.llama import check_llama, load_llama
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Compute
from revision_jax.models.lora import LoRAConfig
from revision_jax.models.quantize import quantize, with_scales
from revision_jax.parallel.mesh import put, replicated
from revision_jax.parallel.rules import sharding_for
from revision_jax.prompts import PromptEncoder, PromptTemplate, load_tokenizer
from revision_jax.runs.predecessors import (
    missing_predecessors,
    predecessor_prints,
    predecessors,
    trained_before,
)
from revision_jax.training.state import Arrays, place, split_by_table, take_apart

HOW_TO_MAKE = {
    "llm": "a Hugging Face directory of Vicuna-7B v1.5 (config.json, tokenizer, *.safetensors or *.bin): download "
    "lmsys/vicuna-7b-v1.5",
    "clip": "a Hugging Face directory of CLIP ViT-L/14 (config.json, tokenizer, *.safetensors or *.bin): download "
    "openai/clip-vit-large-patch14, or convert OpenAI's ViT-L-14.pt (docs/recipes.md)",
    "projector": "the dense projector, `weight [4096, 768]` and `bias [4096]` in a .safetensors or .bin: "
    "VTimeLLM's mm_projector.bin of its first stage",
}


def make_hierarchy(config: ConfigDict) -> Hierarchy:
    return Hierarchy(**config.hierarchy)


def make_prompt_encoder(config: ConfigDict) -> PromptEncoder:
    """The prompt in the tokens of `base.llm`'s tokenizer."""
    check_base(config)
    tokenizer = load_tokenizer(str(resolve_path(config.base.llm)))
    return PromptEncoder(tokenizer, PromptTemplate(config.prompt.system), config.prompt.max_text_tokens)


def missing_base(config: ConfigDict) -> list[str]:
    """A line for every pretrained part that is missing, with how it is made."""
    missing = []
    for role, path in config.base.items():
        if not path and _drawn(config, role):
            continue
        if not path or not resolve_path(path).exists():
            found = f"no file at {resolve_path(path)}" if path else "not given"
            missing.append(f"base.{role}: {found}; expected {HOW_TO_MAKE[role]}")
    return missing


def _drawn(config: ConfigDict, role: str) -> bool:
    """Whether a part without a file starts at random: only the projector, where it is what is trained."""
    return role == "projector" and config.stage == "align"


def check_base(config: ConfigDict) -> None:
    """Raises ConfigError that lists every part that is missing, and how it is made."""
    report_missing(missing_base(config))


def report_missing(missing: list[str]) -> None:
    if missing:
        listed = "\n".join(f"  {line}" for line in missing)
        raise ConfigError(f"files are missing; make them, or give each as --config.KEY=PATH:\n{listed}")


def check_weights(config: ConfigDict) -> None:
    """Whether the pretrained parts are whole and fit each other, before data is prepared for hours.

    Raises:
      ValueError: damaged files, tensors that do not fit, another CLIP than the projector's.
      FileNotFoundError: a missing shard.
    """
    make_dense_adapter(config, check_llama(resolve_path(config.base.llm)).hidden_size)


def fingerprints(config: ConfigDict) -> dict[str, dict[str, str]]:
    """Role -> path and content hash of each part that was made before this run, for checkpoints."""
    sha256 = lambda path: fingerprint(resolve_path(path))
    given = {role: path for role, path in config.base.items() if path}
    return {role: {"path": path, "sha256": sha256(path)} for role, path in given.items()} | predecessor_prints(config)


def load_grounder(config: ConfigDict, mesh: Mesh) -> Grounder:
    """The grounder as its stage starts: pretrained parts, what stages before it trained, the rest drawn from `seed`.

    Each parameter is in its place on the mesh.

    Raises:
      ConfigError: missing parts, predecessors that do not fit, or a prompt and video that exceed the LLM's positions.
      CheckpointError: a predecessor that stands on other files.
    """
    report_missing(missing_base(config) + missing_predecessors(config))
    narrow, scales = config.model.param_dtype == "int8", {}

    def put_parameter(path, param, array):
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
        ),
        rngs=nnx.Rngs(config.seed),
        place=put_parameter,
    )
    llm = with_scales(llm, scales) if narrow else llm
    check_length(config, llm.config.max_position_embeddings)
    adapter, sparse = make_adapters(config, llm.config.hidden_size)
    # Placed as the train step leaves them, so that one compiled search serves the model before and after.
    module, arrays = take_apart(Grounder(llm, adapter, sparse, window_chunk=config.model.window_chunk))
    arrays = place(arrays, module.shardings(mesh))
    return module.merge(arrays | trained_by_predecessors(config, arrays))


def sees_groups(config: ConfigDict) -> bool:
    """Whether the stage's model has the sparse adapter."""
    return config.stage in ("sparse", "long", "unified")


def make_adapters(config: ConfigDict, hidden_size: int) -> tuple[DenseAdapter, SparseAdapter | None]:
    """The dense adapter, and a fresh sparse one if needed."""
    adapter, sparse = make_dense_adapter(config, hidden_size), None
    if sees_groups(config):
        sparse = SparseAdapter(*adapter.kernel.shape, rngs=_rngs(config, 1), **config.sparse)
    return adapter, sparse


def make_dense_adapter(config: ConfigDict, hidden_size: int) -> DenseAdapter:
    """The dense adapter, of `base.projector`, or fresh where that is what is trained.

    Raises:
      ConfigError: a projector between other widths than `base.clip` and the LLM have.
    """
    width = read_clip_config(resolve_path(config.base.clip)).projection_dim
    if not config.base.projector:
        return DenseAdapter(width, hidden_size, rngs=_rngs(config, 2))
    adapter = load_dense_adapter(resolve_path(config.base.projector))
    _check_width(config, adapter, width, hidden_size)
    return adapter


def _check_width(config: ConfigDict, adapter: DenseAdapter, width: int, hidden_size: int) -> None:
    takes, gives = adapter.kernel.shape
    if gives != hidden_size:
        raise ConfigError(
            f"base.projector: {resolve_path(config.base.projector)} gives width {gives}; base.llm, "
            f"{resolve_path(config.base.llm)}, has hidden_size {hidden_size}. Give the projector made for this LLM."
        )
    if takes != width:
        known = {512: "ViT-B/32 or B/16", 768: "ViT-L/14"}
        name = lambda width: f"{width} ({known[width]})" if width in known else str(width)
        raise ConfigError(
            f"base.clip: {resolve_path(config.base.clip)}/config.json has projection_dim {name(width)}, but the weight "
            f"of base.projector, {resolve_path(config.base.projector)}, is {adapter.kernel.shape[::-1]}: it takes "
            f"features of width {name(takes)}. Give the CLIP that the projector was trained with."
        )


def _rngs(config: ConfigDict, part: int) -> nnx.Rngs:
    """The random numbers of a part other than LoRA, which has those of `seed` itself."""
    return nnx.Rngs(jax.random.fold_in(jax.random.key(config.seed), part))


def trained_by_predecessors(config: ConfigDict, arrays: Mapping[str, jax.Array]) -> Arrays:
    """What the stages before this one trained, path -> array, laid out as `arrays` (or their abstract shapes)."""
    trained = {}
    for before in predecessors(config):
        trained |= trained_before(config, before, arrays, fingerprints(config))
    return trained


def check_length(config: ConfigDict, positions: int) -> None:
    """Raises ConfigError when a video with its prompt is longer than the LLM was made for."""
    prefix, video, text = sequence_parts(config)
    if prefix + video + text > positions:
        longest = "hierarchy.num_frames" if video == config.hierarchy.num_frames else "hierarchy.levels"
        raise ConfigError(
            f"a window takes {prefix} (prompt.system) + {video} ({longest}) + {text} "
            f"(prompt.max_text_tokens) positions; {config.base.llm} has {positions}. Lower one of them."
        )


def sequence_parts(config: ConfigDict) -> tuple[int, int, int]:
    """Tokens of the longest sequence of a stage: prefix P, video (a frame or a window each), text T."""
    frames, windows = config.hierarchy.num_frames, max(config.hierarchy.levels)
    video = {"align": 1, "dense": frames, "sparse": 1, "long": windows, "unified": max(frames, windows)}[config.stage]
    return len(make_prompt_encoder(config).prefix), video, config.prompt.max_text_tokens


def restore_grounder(config: ConfigDict, workdir: str | Path, mesh: Mesh) -> tuple[Grounder, int]:
    """The grounder as a run's newest checkpoint has it, and the steps it was trained.

    Raises:
      CheckpointError: no checkpoint, or one that stands on other files.
    """
    module, arrays = take_apart(load_grounder(config, mesh))
    trainable, frozen, _ = split_by_table(arrays, config.trainable)
    step, trainable = restore_trained(config, workdir, trainable)
    return module.merge(trainable, frozen), step


def restore_trained(config: ConfigDict, workdir: str | Path, trainable: Arrays) -> tuple[int, Arrays]:
    """(steps, trained parameters) of a run's newest checkpoint, laid out as `trainable` (or its abstract shapes)."""
    meta = Meta(config.to_dict(), fingerprints(config))
    with Checkpoints(Path(workdir) / "checkpoints", meta, read_only=True) as checkpoints:
        return checkpoints.restore_params(trainable)
