"""A prepared split as the streams of training batches draw from it."""

import dataclasses
from collections.abc import Sequence

from revision_jax.data.annotations.queries import Query, check_queries
from revision_jax.data.batches.strategy import Negatives
from revision_jax.data.store.features import FeatureStore
from revision_jax.prompts import PromptEncoder


@dataclasses.dataclass(frozen=True)
class TrainSplit:
    """The features and queries of one split.

    negatives: where its contrastive windows come from; None = at random.
    weight: its share of a mixture of several splits.
    """

    store: FeatureStore
    queries: Sequence[Query]
    negatives: Negatives | None = None
    weight: float = 1.0

    def check(self, prompts: PromptEncoder, longest: str, level: str) -> None:
        """Raises ValueError now, not in mid-run, if a query does not fit its video or the prompt.

        longest: the longest answer to a question. level: what is asked, a key of `prompts.QUESTIONS`.
        """
        for query in check_queries(self.queries, self.store.durations):
            try:
                prompts.encode_example(query.sentence, longest, level)
            except ValueError as error:
                raise ValueError(f"query {query.query_id!r}: {error}") from error
