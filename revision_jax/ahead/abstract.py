"""A run without its files: prompts and the train step as shapes, types and places, for compiling ahead."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.models.llama import LlamaConfig
from revision_jax.parallel.programs import Program
from revision_jax.prompts import PromptEncoder, PromptTemplate
from revision_jax.runs.base import make_prompts
from revision_jax.runs.grounder import abstract_grounder
from revision_jax.training.state import Arrays, TrainState, split_by_table, state_shardings, take_apart
from revision_jax.training.step import Fixed, compile_step, make_fixed

PREFIX_TOKENS = 36  # of Vicuna's system prompt and `USER: ` in Llama's tokens, where there is no tokenizer to ask
_PIECES = re.compile(r"\d| (?=\d)|[^\W\d_]{1,8}|[^\w\s]")  # digits one by one, as Llama's tokenizer writes them
_STEPS = 1000  # the schedule's length does not change the program


class _PieceTokenizer:
    """Stands in for Llama's tokenizer where there is none: about as many tokens, other numbers."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __init__(self):
        self._ids: dict[str, int] = {}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [self._ids.setdefault(piece, 3 + len(self._ids)) for piece in _PIECES.findall(text)]


def prompts_or_stand_in(config: ConfigDict) -> PromptEncoder:
    """The prompt encoder of a config; without a tokenizer one whose texts are about as long."""
    if config.base.llm:
        return make_prompts(config)
    prompts = PromptEncoder(_PieceTokenizer(), PromptTemplate(config.prompt.system), config.prompt.max_text_tokens)
    prompts.prefix = np.zeros(PREFIX_TOKENS, np.int32)
    return prompts


def abstract_step(
    config: ConfigDict, mesh: Mesh, sizes: LlamaConfig | None = None
) -> tuple[Fixed, TrainState, Arrays, Program]:
    """(fixed, state, frozen arrays, jitted step) of a stage, all arrays as shapes in their places."""
    module, shapes = take_apart(abstract_grounder(config, sizes))
    shardings = module.shardings(mesh)
    trainable, frozen, multipliers = split_by_table(shapes, config.trainable)
    fixed = make_fixed(config, module, multipliers, prompts_or_stand_in(config).prefix, _STEPS)
    where = state_shardings(trainable, fixed.optimizer, shardings, mesh)
    fresh = jax.eval_shape(lambda: TrainState(_zeros(trainable), fixed.optimizer.init(_zeros(trainable)), jnp.int32(0)))
    state = jax.tree.map(_placed, fresh, where)
    frozen = {path: _placed(shape, shardings[path]) for path, shape in frozen.items()}
    return fixed, state, frozen, compile_step(fixed, where)


def _placed(shape, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _zeros(shapes):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
