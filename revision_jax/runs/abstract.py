"""A run without its files: shapes, types and places of everything a config names, for compiling ahead.

Where the config names no files, the published sizes stand in: Vicuna-7B v1.5 and CLIP ViT-L/14 (arXiv 2411.14901).
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.config import resolve_path
from revision_jax.interop.clip import read_clip_config
from revision_jax.interop.llama import read_llama_config
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.clip import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Compute, Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.parallel.mesh import batch_sharding
from revision_jax.prompts import PromptEncoder, PromptTemplate
from revision_jax.runs.grounder import make_prompt_encoder, sees_groups
from revision_jax.training.state import Arrays, TrainState, split_by_table, state_shardings, take_apart
from revision_jax.training.step import Program, compile_step, make_program

VICUNA_7B = LlamaConfig(32000, 4096, 11008, num_layers=32, num_heads=32, num_kv_heads=32, head_dim=128)
CLIP_L14 = CLIPConfig(
    CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_layers=24, num_heads=16, image_size=224, patch_size=14
    ),
    CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_layers=12, num_heads=12, vocab_size=49408),
    projection_dim=768,
)
PREFIX_TOKENS = 36  # of Vicuna's system prompt and `USER: ` in Llama's tokens, where there is no tokenizer to ask
_PIECES = re.compile(r"\d| (?=\d)|[^\W\d_]{1,8}|[^\w\s]")  # digits one by one, as Llama's tokenizer writes them
_STEPS = 1000  # the schedule's length does not change the program


def llama_config(config: ConfigDict) -> LlamaConfig:
    return read_llama_config(resolve_path(config.base.llm)) if config.base.llm else VICUNA_7B


def clip_config(config: ConfigDict) -> CLIPConfig:
    return read_clip_config(resolve_path(config.base.clip)) if config.base.clip else CLIP_L14


class _PieceTokenizer:
    """Stands in for Llama's tokenizer where there is none: about as many tokens, other numbers."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __init__(self):
        self._ids: dict[str, int] = {}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [self._ids.setdefault(piece, 3 + len(self._ids)) for piece in _PIECES.findall(text)]


def abstract_prompts(config: ConfigDict) -> PromptEncoder:
    """The prompt encoder of a config; without a tokenizer one whose texts are about as long."""
    if config.base.llm:
        return make_prompt_encoder(config)
    prompts = PromptEncoder(_PieceTokenizer(), PromptTemplate(config.prompt.system), config.prompt.max_text_tokens)
    prompts.prefix = np.zeros(PREFIX_TOKENS, np.int32)
    return prompts


def abstract_grounder(config: ConfigDict, sizes: LlamaConfig | None = None) -> Grounder:
    """The stage's model, every parameter a shape and a type; `sizes` instead of those of `base.llm`."""
    dtypes = {name: jnp.dtype(config.model[name]) for name in ("dtype", "param_dtype")}
    compute = Compute(**dtypes, remat=config.model.remat, attention=config.model.attention)
    width, sizes = clip_config(config).projection_dim, sizes or llama_config(config)

    def build() -> Grounder:
        llm = Llama(sizes, lora=LoRAConfig(**config.lora), rngs=nnx.Rngs(0), compute=compute)
        sparse = SparseAdapter(width, sizes.hidden_size, rngs=nnx.Rngs(1), **config.sparse)
        adapter = DenseAdapter(width, sizes.hidden_size, rngs=nnx.Rngs(2))
        return Grounder(llm, adapter, sparse if sees_groups(config) else None, window_chunk=config.model.window_chunk)

    return nnx.eval_shape(build)


def abstract_clip(config: ConfigDict) -> CLIP:
    return nnx.eval_shape(lambda: CLIP(clip_config(config), rngs=nnx.Rngs(0)))


def abstract_batches(config: ConfigDict, mesh: Mesh) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Kind of batch of the stage -> what a step gets, over all devices."""
    rows, data, prompt = config.train.batch_size, config.data, config.prompt
    frames, width = config.hierarchy.num_frames, clip_config(config).projection_dim
    texts = (rows, data.questions_per_window) if data.questions_per_window > 1 else (rows,)
    array = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
    text = {
        "tokens": array((*texts, prompt.max_text_tokens), jnp.int32),
        "loss_mask": array((*texts, prompt.max_text_tokens), jnp.bool_),
    }
    window = lambda length: text | {"video": array((rows, length, width), jnp.float16)}

    def group(windows: int) -> dict[str, jax.ShapeDtypeStruct]:
        return text | {
            "video": array((rows, windows, frames, width), jnp.float16),
            "query": array((rows, prompt.query_tokens, width), jnp.float16),
            "query_mask": array((rows, prompt.query_tokens), jnp.bool_),
        }

    groups = {f"groups of {size}": group(size) for size in config.hierarchy.levels}
    return {
        "align": {"frames": window(1)},
        "dense": {"windows": window(frames)},
        "sparse": {"windows": group(1)},
        "long": groups,
        "unified": {"windows": window(frames)} | groups,
    }[config.stage]


def abstract_step(
    config: ConfigDict, mesh: Mesh, sizes: LlamaConfig | None = None
) -> tuple[Program, TrainState, Arrays, jax.stages.Wrapped]:
    """(program, state, frozen arrays, jitted step) of a stage, all arrays as shapes in their places."""
    module, shapes = take_apart(abstract_grounder(config, sizes))
    shardings = module.shardings(mesh)
    trainable, frozen, multipliers = split_by_table(shapes, config.trainable)
    program = make_program(config, module, multipliers, abstract_prompts(config).prefix, _STEPS)
    where = state_shardings(trainable, program.optimizer, shardings, mesh)
    fresh = jax.eval_shape(
        lambda: TrainState(_zeros(trainable), program.optimizer.init(_zeros(trainable)), jnp.int32(0))
    )
    state = jax.tree.map(_placed, fresh, where)
    frozen = {path: _placed(shape, shardings[path]) for path, shape in frozen.items()}
    return program, state, frozen, compile_step(program, where)


def _placed(shape, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _zeros(shapes):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
