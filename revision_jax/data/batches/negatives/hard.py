"""Strategy `hard`: windows around the frames that CLIP finds most similar to the sentence."""

import numpy as np

from revision_jax.data.batches.similarity import SimilarityStrategy


class Hard(SimilarityStrategy):
    """Chooses the most similar times of a video, at least half a window apart."""

    name = "hard"

    def choose(self, times: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return self.grid.best_apart(times[np.argsort(-scores, kind="stable")])
