"""CLIP's token features of a run's sentences, which the sparse adapter reads beside the frames.

Letters: Q query tokens kept of a sentence, D feature width.
"""

import functools
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from revision_jax.data.annotations.table import QueryTable
from revision_jax.data.batches.sentence_features import SentenceFeatures
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video.extraction import Extractor
from revision_jax.quoting import quoted

CHUNK = 1024  # sentences encoded at a time: bounds the float32 features of padding
SAMPLED = 64  # stored sentences that are compared with the encoder: a call of it
SAME = 0.98  # cosine of features that two programs made with one encoder, in half precision


class QueryTokens:
    """Sentence -> its token features, float16, not padded in memory; encoded as `SentenceFeatures` says.

    Args:
      extractor: the encoder of the run's frames.
      sentences: all that will be needed.
      length: `Q`; of a longer sentence the first tokens are kept.
    """

    def __init__(self, extractor: Extractor, sentences: Iterable[str], length: int):
        self.length = length
        self._features = SentenceFeatures(functools.partial(_encode, extractor, length), sentences)

    def prepare(self, sentences: Iterable[str]) -> None:
        """Encodes sentences that are needed soon, in one call."""
        self._features.prepare(sentences)

    def __call__(self, query_id: str, sentence: str) -> dict[str, np.ndarray]:
        """`query [Q, D]` float16, zero where there is no token, and `query_mask [Q]` bool."""
        del query_id
        features = self._features[sentence]
        padded = np.zeros((self.length, features.shape[1]), np.float16)
        padded[: len(features)] = features
        return {"query": padded, "query_mask": np.arange(self.length) < len(features)}


def _encode(extractor: Extractor, length: int, sentences: Sequence[str]) -> list[np.ndarray]:
    """The first `length` tokens of each sentence, `[n, D]` float16."""
    found = []
    for start in range(0, len(sentences), CHUNK):
        features, mask = extractor.encode_query_tokens(sentences[start : start + CHUNK])
        found += [own[inside][:length].astype(np.float16) for own, inside in zip(features, mask, strict=True)]
    return found


class StoredQueryTokens:
    """As `QueryTokens`, but read from a split's `query_tokens/` when they are needed, so that memory does not grow.

    Args:
      store: token features `[Lq, D]` under query ids.
      query_ids: all that will be needed.
      length: `Q`; of a longer sentence the first tokens are kept.
    """

    def __init__(self, store: FeatureStore, query_ids: Collection[str], length: int):
        self.store, self.length = store, length
        there = store.manifest.videos
        if lacking := [query_id for query_id in query_ids if query_id not in there]:
            raise ValueError(
                f"{store.path}: {len(lacking)} of {len(query_ids)} queries have no token features, first "
                f"{quoted(lacking[0])}. Prepare it again with all "
                "of them, or delete it: they are then computed"
            )

    @property
    def width(self) -> int:
        """`D`."""
        return self.store.manifest.width

    def prepare(self, sentences: Iterable[str]) -> None:
        """Nothing: they are read one by one."""

    def __call__(self, query_id: str, sentence: str) -> dict[str, np.ndarray]:
        """As of `QueryTokens`."""
        del sentence
        count = min(self.length, self.store.manifest.videos[query_id].num_frames)
        padded = np.zeros((self.length, self.width), np.float16)
        padded[:count] = self.store.read(query_id, np.arange(count))
        return {"query": padded, "query_mask": np.arange(self.length) < count}


def check_same_source(stored: StoredQueryTokens, extractor: Extractor, queries: QueryTable) -> None:
    """Whether stored features are what the encoder makes of the sentences, by some of them.

    The search encodes sentences itself: a model that was trained on other features would be asked with what it has
    never seen.

    Raises:
      ValueError: they are not, with how far they are apart.
    """
    asked = [queries[number] for number in range(0, len(queries), -(-len(queries) // SAMPLED) or 1)]
    made = _encode(extractor, stored.length, [query.sentence for query in asked])
    found = [stored(query.query_id, query.sentence) for query in asked]
    found = [own["query"][own["query_mask"]] for own in found]
    wrong = [query for query, a, b in zip(asked, found, made) if a.shape != b.shape or _cosine(a, b) < SAME]
    if wrong:
        number = asked.index(wrong[0])
        a, b = found[number], made[number]
        apart = f"cosine {_cosine(a, b):.2f}" if a.shape == b.shape else f"{list(a.shape)} against {list(b.shape)}"
        raise ValueError(
            f"{stored.store.path}: of {len(asked)} sentences {len(wrong)} have other token features than base.encoder "
            f"({extractor.name}) gives them, first {quoted(wrong[0].sentence)} ({apart}). The search encodes sentences "
            "with base.encoder, so training must see the same: delete that folder, and they are encoded as they are "
            "needed, or name the encoder that made it"
        )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two arrays of one shape as vectors."""
    a, b = a.astype(np.float32).ravel(), b.astype(np.float32).ravel()
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def query_tokens(extractor: Extractor, sentences: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """What the sparse adapter sees of sentences: features `[Q, length, D]` float16, and their mask `[Q, length]`."""
    found = _encode(extractor, length, sentences)
    features = np.zeros((len(found), length, found[0].shape[1]), np.float16)
    for row, own in zip(features, found):
        row[: len(own)] = own
    return features, np.arange(length) < np.array([len(own) for own in found])[:, None]
