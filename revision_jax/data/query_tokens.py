"""CLIP's token features of a run's sentences, which the sparse adapter reads beside the frames.

Letters: Q query tokens kept of a sentence, D feature width.
"""

from collections.abc import Iterable

import numpy as np

from revision_jax.data.extraction import Extractor

CHUNK = 1024  # sentences encoded at a time: bounds the float32 features of padding


class QueryTokens:
    """Sentence -> its token features; all are computed at once and kept in memory as float16, without padding.

    Args:
      extractor: the encoder of the run's frames.
      sentences: those that may be asked for.
      length: `Q`; of a longer sentence the first tokens are kept.
    """

    def __init__(self, extractor: Extractor, sentences: Iterable[str], length: int):
        self.length, self._features = length, {}
        sentences = list(dict.fromkeys(sentences))
        for start in range(0, len(sentences), CHUNK):
            chunk = sentences[start : start + CHUNK]
            for sentence, features, mask in zip(chunk, *extractor.encode_query_tokens(chunk), strict=True):
                self._features[sentence] = features[mask][:length].astype(np.float16)

    @property
    def width(self) -> int:
        """`D`."""
        return next(iter(self._features.values())).shape[1]

    def __call__(self, sentence: str) -> dict[str, np.ndarray]:
        """`query [Q, D]` float16, zero where there is no token, and `query_mask [Q]` bool."""
        features = self._features[sentence]
        padded = np.zeros((self.length, features.shape[1]), np.float16)
        padded[: len(features)] = features
        return {"query": padded, "query_mask": np.arange(self.length) < len(features)}
