"""The search program for shapes alone: compiled ahead, without weights, tokenizer or video."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import AnswerGrammar, PromptEncoder, dense_answers
from revision_jax.search.searcher import Searcher
from revision_jax.search.settings import SearchSettings

VIDEO_S, QUERIES, QUESTION_TOKENS = 7200.0, 64, 48  # a film; a long question behind the words that all share


def abstract_search(
    config: ConfigDict, grounders: tuple, prompts: PromptEncoder, mesh: Mesh, depth: int, memory_gib: float
) -> tuple[Callable[[], jax.stages.Lowered], tuple]:
    """(function that lowers, parameters in their places): 64 queries on two hours of video.

    Args:
      grounders: of the dense level, and of the upper ones or None; their parameters as shapes.
      memory_gib: of a device, which the search's blocks are made to fit.
    """
    settings = SearchSettings(**config.search)
    settings = dataclasses.replace(settings, question_tokens=settings.question_tokens or QUESTION_TOKENS)
    hierarchy, (dense, upper) = Hierarchy(**config.hierarchy), grounders
    grammar = AnswerGrammar.compile(prompts, dense_answers(hierarchy.num_frames))
    searcher = Searcher(dense, prompts, grammar, hierarchy, settings, mesh, upper=upper, memory_gib=memory_gib)
    features = np.zeros((round(VIDEO_S * config.data.fps), dense.visual_width), np.float16)
    words = (QUERIES, config.prompt.query_tokens)
    lower = functools.partial(
        searcher.lower, features, config.data.fps, VIDEO_S, ["a dog"] * QUERIES, depth=depth,
        query_tokens=(np.zeros((*words, dense.visual_width), np.float32), np.ones(words, bool)),
    )  # fmt: skip
    return lambda: lower()[0], searcher.models
