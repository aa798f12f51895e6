"""A prepared split as the streams of training batches draw from it."""

import dataclasses
import logging
from collections.abc import Iterable, Sequence

from revision_jax.data.annotations.queries import Query, check_queries
from revision_jax.data.annotations.table import QueryTable
from revision_jax.data.batches.strategy import Negatives
from revision_jax.data.store.features import FeatureStore
from revision_jax.prompts import PromptEncoder

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainSplit:
    """The features and queries of one split.

    negatives: where its contrastive windows come from; None = at random.
    weight: its share of a mixture of several splits.
    drop_long: whether queries that are too long for the prompt are left out (`data.faults`), not refused.
    """

    store: FeatureStore
    queries: Sequence[Query]
    negatives: Negatives | None = None
    weight: float = 1.0
    drop_long: bool = False

    def fitting(self, prompts: PromptEncoder, longest: str, level: str) -> "TrainSplit":
        """The split with the queries that fit their videos and the prompt; now, not in mid-run.

        longest: the longest answer to a question. level: what is asked, a key of `prompts.QUESTIONS`.

        Raises ValueError if a query does not fit its video, or, listed, some do not fit the prompt and are not to be
        left out.
        """
        queries = check_queries(self.queries, self.store.durations)
        long = too_long(queries, prompts, longest, level)
        if long and not self.drop_long:
            listed = "\n  ".join(list(long.values())[:10] + ([f"and {len(long) - 10} more"] if len(long) > 10 else []))
            raise ValueError(
                f"{self.store.path}: {len(long)} queries are too long:\n  {listed}\n"
                "--config.data.faults=drop leaves them out; `python -m revision_jax.prepare check "
                f"{self.store.path} --llm DIR` lists all."
            )
        if long:
            log.warning("%s: leaves out %d queries that are too long for the prompt", self.store.path, len(long))
        return dataclasses.replace(self, queries=QueryTable.of(queries).without(long))


def too_long(queries: Iterable[Query], prompts: PromptEncoder, longest: str, level: str) -> dict[str, str]:
    """Query id -> what is wrong with it, for those that the prompt has no room for; see `TrainSplit.fitting`."""
    queries = queries if isinstance(queries, Sequence) else list(queries)
    found = {}
    for number in prompts.unsure((query.sentence for query in queries), longest, level):
        query = queries[number]
        try:
            prompts.encode_example(query.sentence, longest, level)
        except ValueError as error:
            found[query.query_id] = f"query {query.query_id!r}: {error}"
    return found
