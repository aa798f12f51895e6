"""Strategy `semi_hard`: windows around frames that are similar to the sentence, but not the most similar ones."""

import numpy as np

from revision_jax.data.batches.similarity import SimilarityStrategy

BAND = (0.7, 0.95)  # quantiles of a video's similarities to a sentence


class SemiHard(SimilarityStrategy):
    """Chooses all times of a video whose similarity lies within `BAND`."""

    name = "semi_hard"

    def choose(self, times: np.ndarray, scores: np.ndarray) -> np.ndarray:
        low, high = np.quantile(scores, BAND)
        return times[(scores >= low) & (scores <= high)]
