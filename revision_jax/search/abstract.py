"""The search program for shapes alone: compiled ahead, without weights, tokenizer or video."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.hierarchy import Hierarchy
from revision_jax.parallel.mesh import replicated
from revision_jax.parallel.rules import sharding_for
from revision_jax.search.decoding import Grammar
from revision_jax.search.evaluator import SearchSettings
from revision_jax.search.layout import QUERY_STEP, VideoWindows, pack_windows, pad_frames
from revision_jax.search.program import Plan, VideoInputs, search_program
from revision_jax.search.recursion import Questions

VIDEO_S, HEAD_TOKENS, QUESTION_TOKENS = 7200.0, 8, 48  # a film; what questions share, and the longest rest
ANSWER_TOKENS, CHOICES = 14, 12  # `From 007 to 113.` where every digit is a token; tokens that may follow one


def abstract_search(
    config: ConfigDict, grounder, prefix: np.ndarray, mesh: Mesh
) -> tuple[Callable[[], jax.stages.Lowered], dict[str, jax.ShapeDtypeStruct]]:
    """(function that lowers, parameters in their places): depth 1, 64 queries, two hours of video.

    Args:
      grounder: its parameters as shapes.
      prefix: `[P]` tokens before the video.
    """
    settings = SearchSettings(**config.search)
    hierarchy = Hierarchy(**config.hierarchy)
    graphdef, state = nnx.split(grounder)
    place = lambda x, sharding=None: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or replicated(mesh))
    flat = {
        path: variable.replace(place(variable.get_value(), sharding_for("/".join(map(str, path)), variable, mesh)))
        for path, variable in nnx.to_flat_state(state)
    }
    frames = round(VIDEO_S * config.data.fps)
    windows = VideoWindows.of(hierarchy, VIDEO_S, config.data.fps, frames, 1)
    shards = mesh.shape["data"]
    table, starts = pack_windows(windows.dense_frames, windows.dense[:, 0], settings.window_block, shards)
    whole = np.zeros(QUERY_STEP, np.int32)
    questions = Questions(
        np.zeros(HEAD_TOKENS, np.int32), np.zeros((QUERY_STEP, QUESTION_TOKENS), np.int32), whole, np.int32(QUERY_STEP)
    )
    features = pad_frames(np.zeros((frames, grounder.visual_width), np.float16))
    video = VideoInputs(features, table, starts, np.float32(0), np.float32(0), questions, None)
    # About a state for each pair of frames; its size hardly matters beside the weights.
    states = hierarchy.num_frames**2
    choices, flags = np.zeros((states, CHOICES), np.int32), np.zeros(states, bool)
    grammar = Grammar(choices, choices, np.zeros((states, 2), np.int32), flags)
    constants = jax.tree.map(lambda x: place(np.asarray(x)), (prefix, grammar, ()))
    program = jax.jit(
        functools.partial(search_program, (graphdef, None), hierarchy.num_frames, settings, ANSWER_TOKENS, mesh),
        static_argnums=0,
    )
    plan = Plan(dense_batch=settings.query_batch, upper_batch=max(settings.query_batch // shards, 1))
    model = nnx.from_flat_state(list(flat.items()))
    video = jax.tree.map(lambda x: place(np.asarray(x)), video)
    lower = functools.partial(program.lower, plan, (model, None), constants, video)
    return lower, {"/".join(map(str, path)): variable.get_value() for path, variable in flat.items()}
