"""The search program for shapes alone: compiled ahead, without weights, tokenizer or video."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import PromptEncoder
from revision_jax.search.memory import Memory
from revision_jax.search.models import Models
from revision_jax.search.searcher import Searcher
from revision_jax.search.sentences import Sentences
from revision_jax.search.settings import SearchSettings

VIDEO_S, QUERIES, QUESTION_TOKENS = 7200.0, 64, 48  # a film; a long question behind the words that all share


def abstract_search(
    config: ConfigDict, models: Models, prompts: PromptEncoder, mesh: Mesh, depth: int, memory_gib: float
) -> tuple[Callable[[], jax.stages.Traced], Any]:
    """(function that traces the program, parameters in their places): 64 queries on two hours of video.

    Args:
      models: their parameters as shapes.
      memory_gib: of a device, which the search's blocks are made to fit.
    """
    settings = SearchSettings.of(config.search, question_tokens=config.search.question_tokens or QUESTION_TOKENS)
    searcher = Searcher(models, prompts, Hierarchy(**config.hierarchy), settings, mesh, Memory(memory_gib))
    width, fps = models.dense.visual_width, config.data.fps
    video = VideoFeatures(np.zeros((round(VIDEO_S * fps), width), np.float16), VIDEO_S, fps)
    words = (QUERIES, config.prompt.query_tokens)
    features = np.zeros((*words, width), np.float32)
    sentences = Sentences(["a dog"] * QUERIES, features, np.ones(words, bool), features[:, 0])
    trace = functools.partial(searcher.trace, video, sentences, depth=depth, policy="top_down")
    return lambda: trace()[0], searcher.parameters
