"""CLIP's token features of a run's sentences, which the sparse adapter reads beside the frames.

Letters: Q query tokens kept of a sentence, D feature width.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video.extraction import Extractor

CHUNK = 1024  # sentences encoded at a time: bounds the float32 features of padding


class QueryTokens:
    """Sentence -> its token features; computed for all sentences at once and kept in memory as float16, not padded.

    Args:
      extractor: the encoder of the run's frames.
      sentences: all that will be needed.
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


class StoredQueryTokens:
    """As `QueryTokens`, but read from a split's `query_tokens/` when they are needed, so that memory does not grow.

    Args:
      store: token features `[Lq, D]` under query ids.
      ids: sentence -> the id of a query with it.
      length: `Q`; of a longer sentence the first tokens are kept.
    """

    def __init__(self, store: FeatureStore, ids: Mapping[str, str], length: int):
        self.store, self.length = store, length
        there = store.manifest.videos
        self._ids = {sentence: query_id for sentence, query_id in ids.items() if query_id in there}
        if lacking := len(ids) - len(self._ids):
            raise ValueError(
                f"{store.path}: {lacking} of {len(ids)} sentences have no token features. Prepare it again with all "
                "of them, or delete it: they are then computed"
            )

    @property
    def width(self) -> int:
        """`D`."""
        return self.store.manifest.width

    def __call__(self, sentence: str) -> dict[str, np.ndarray]:
        query_id = self._ids[sentence]
        count = min(self.length, self.store.manifest.videos[query_id].num_frames)
        padded = np.zeros((self.length, self.width), np.float16)
        padded[:count] = self.store.read(query_id, np.arange(count))
        return {"query": padded, "query_mask": np.arange(self.length) < count}


def query_tokens(extractor: Extractor, sentences: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """What the sparse adapter sees of sentences: features `[Q, length, D]` float16, and their mask `[Q, length]`."""
    tokens = QueryTokens(extractor, sentences, length)
    rows = [tokens(sentence) for sentence in sentences]
    return np.stack([row["query"] for row in rows]), np.stack([row["query_mask"] for row in rows])
