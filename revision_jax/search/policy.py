"""What a policy is: it says which windows a search looks at, and how the upper levels' scores change a confidence.

Each policy is one class in a file of its own in `policies/`, whose registry finds it by the name of the file. A search
asks a policy five things, in this order: how many windows each level is shown (`counts`), which ones the first level is
shown (`first_shown`), which upper windows go down (`survivors`), by which scores dense windows are chosen
(`dense_scores`), and the confidence of answers (`rescale`).

Letters: Q queries, U upper windows, W dense windows, L upper levels, K answers of a pair.
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.search.levels.selection import keep_best
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class Policy:
    """The base of all policies; static, so that it is hashed and compared by its fields.

    Class attributes:
      name: as `search.policy` has it; the name of the file.
      least_depth, most_depth: the depths at which it can search; None: as deep as there are levels.
      needs_similarity: it compares CLIP's holistic features of sentences with those of frames. Then dense windows are
        chosen so that they cover most (`levels.similarity.keep_covering`), else the best ones.
      shortlists: it chooses the windows that the first upper level is shown, by their similarity to the sentence.
      needs_upper: it uses the scores of upper levels, where a search has some.
      compared: at which depths within its bounds `evaluate` compares it by default.
      counted: fields that only `counts` reads. Programs get its numbers as an array, so that they serve all values.
    """

    name: ClassVar[str]
    least_depth: ClassVar[int] = 2
    most_depth: ClassVar[int | None] = None
    needs_similarity: ClassVar[bool] = False
    shortlists: ClassVar[bool] = False
    needs_upper: ClassVar[bool] = True
    compared: ClassVar[Literal["every", "deepest", "never"]] = "never"
    counted: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def make(cls, settings: SearchSettings, levels: int) -> "Policy":
        """The policy of a search through so many upper levels."""
        raise NotImplementedError

    @classmethod
    def searches_at(cls, depth: int) -> bool:
        """Whether this policy can search at a depth."""
        return cls.least_depth <= depth and (cls.most_depth is None or depth <= cls.most_depth)

    @classmethod
    def check_depth(cls, depth: int) -> None:
        """Raises ValueError for a depth at which this policy cannot search."""
        if not cls.searches_at(depth):
            bounds = f"at least {cls.least_depth}" if cls.most_depth is None else f"{cls.least_depth}"
            if cls.most_depth not in (None, cls.least_depth):
                bounds = f"{cls.least_depth} to {cls.most_depth}"
            raise ValueError(
                f"search.policy {cls.name!r} does not search at depth {depth}; expected depth {bounds}, or another "
                "search.policy."
            )

    def counts(self, upper: int, dense: int) -> np.ndarray:
        """Windows that each level is shown, and dense windows that are asked, of so many: `[L + 1]` int32."""
        raise NotImplementedError

    def of_program(self) -> "Policy":
        """The policy as a compiled program has it: without the fields in `counted`, which are None there."""
        return dataclasses.replace(self, **dict.fromkeys(self.counted))

    def first_shown(self, windows: jax.Array, similarity: jax.Array | None, count: jax.Array) -> jax.Array:
        """The upper windows `[Q, U]` bool that the first upper level is shown; only they get a sparse vector.

        Args:
          windows: `[Q, U]` bool, those that exist, for the queries that are asked.
          similarity: `[Q, U]` float32 of CLIP; None unless the policy `shortlists`.
          count: `[]` int32, windows that the first level is shown.
        """
        return windows

    def survivors(self, scores: jax.Array, shown: jax.Array, count: jax.Array) -> jax.Array:
        """The windows `[Q, U]` bool that the next level is shown.

        Args:
          scores: `[Q, U]`, the sum of the levels' so far; -inf for windows that were not shown.
          shown: `[Q, U]` bool, the windows that this level was shown.
          count: `[]` int32, windows that the next level is shown.
        """
        return keep_best(scores, count)

    def dense_scores(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        """Scores `[Q, W]` by which dense windows are chosen, among those that exist.

        Args:
          scores: `[Q, W]` of the upper levels; None without upper levels.
          similarity: `[Q, W]` of CLIP; None unless `needs_similarity`.
        """
        return scores

    def rescale(self, confidence: jax.Array, scores: jax.Array | None) -> jax.Array:
        """Confidences `[Q, W, K]` of dense answers, given the upper levels' scores `[Q, W]` of their windows."""
        return confidence


def window_counts(policy: Policy, settings: SearchSettings, upper: int, dense: int) -> np.ndarray:
    """`Policy.counts` of so many windows, but no number below `settings.least` of those that there are."""
    counts = policy.counts(upper, dense)
    there = np.array([upper] * (len(counts) - 1) + [dense])
    return np.maximum(counts, np.minimum(settings.least, there)).astype(np.int32)


def kept(keep: float, windows: int) -> int:
    """How many of so many windows are kept: up to 1, `keep` is a share of them; above 1, it is their number."""
    return min(math.ceil(keep * windows) if keep <= 1 else int(keep), windows)


def kept_counts(keep: tuple[float, ...], upper: int, dense: int) -> np.ndarray:
    """`Policy.counts` where each of the L levels keeps its share: all but the last of upper, the last of dense windows.

    So searches of different depths are compared at the same share of dense windows.
    """
    shown = [upper, *(kept(share, upper) for share in keep[:-1])]
    return np.array([*shown, kept(keep[-1], dense)], np.int32)


def rescaled(confidence: jax.Array, scores: jax.Array, power: float) -> jax.Array:
    """Confidences `[Q, W, K]` times the likelihood of their windows to a power; `scores [Q, W]` are its logarithms.

    A window that an upper level was not shown counts as its query's least likely one.
    """
    known = jnp.isfinite(scores)
    least = jnp.min(jnp.where(known, scores, jnp.inf), axis=1, keepdims=True)
    scores = jnp.where(known, scores, jnp.where(jnp.isfinite(least), least, 0.0))
    return confidence * jnp.exp(power * scores)[..., None]
