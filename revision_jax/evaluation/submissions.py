"""Files of answers as benchmarks exchange them, written for their own evaluators; `others.py` reads them.

moment_detr: a line `{"qid", "query", "vid", "pred_relevant_windows": [[start_s, end_s, score], ...]}` a query
(QVHighlights, and VidChapters' code).
cone: a line `{"query_id", "query", "video_id", "predicted_times": [[start_s, end_s, score], ...]}` (CONE's MAD).
ego4d_nlq: `{"version": "1.0", "challenge": "ego4d_nlq_challenge", "results": [{"clip_uid", "annotation_uid",
"query_idx", "predicted_times": [[start_s, end_s], five]}]}`.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np

from revision_jax.config import ConfigError
from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation.predictions import Prediction

EGO4D_IDS = ("clip_uid", "annotation_uid", "query_idx")
EGO4D_MOMENTS = 5
EGO4D_HEAD = {"version": "1.0", "challenge": "ego4d_nlq_challenge"}
WINDOWS, RESULTS, TIMES = "pred_relevant_windows", "results", "predicted_times"


@dataclasses.dataclass(frozen=True)
class Form:
    """One kind of file.

    Attributes:
      suffix: of its name.
      text: (queries, their predictions) -> the file.
      key: a query -> the id that a row of the file names it by, as text.
      ids: what a query must have among `Query.ids`.
    """

    suffix: str
    text: Callable[[Sequence[Query], Sequence[Prediction]], str]
    key: Callable[[Query], str]
    ids: tuple[str, ...] = ()

    def check(self, queries: Sequence[Query], flag: str) -> None:
        """Raises ConfigError for a query without the ids that the file needs."""
        lacking = [query for query in queries if not {name for name, _ in query.ids} >= {*self.ids}]
        if lacking:
            raise ConfigError(
                f"{flag} needs {', '.join(self.ids)} of every query; {len(lacking)} have none, first "
                f"{lacking[0].query_id!r}. Prepare annotations that have them: `prepare ego4d`, `prepare cone`."
            )


def _moment_detr_text(queries: Sequence[Query], predictions: Sequence[Prediction]) -> str:
    lines = []
    for query, found in zip(queries, predictions, strict=True):
        ids = {"qid": query.query_id, "vid": query.video_id} | dict(query.ids)
        row = {"qid": ids["qid"], "query": query.sentence, "vid": ids["vid"], WINDOWS: scored(found.moments)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def _cone_text(queries: Sequence[Query], predictions: Sequence[Prediction]) -> str:
    lines = []
    for query, found in zip(queries, predictions, strict=True):
        query_id = dict(query.ids).get("query_id", query.query_id)
        row = {"query_id": query_id, "query": query.sentence, "video_id": query.video_id, TIMES: scored(found.moments)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def scored(moments: np.ndarray) -> list[list[float]]:
    """`[start_s, end_s, score]` of each moment, best first; no moment is one of no length, for evaluators want one.

    They sort by score: where confidences do not follow the ranks (a ranking by cosine), a score is 1 / rank.
    """
    if not len(moments):
        return [[0.0, 0.0, 0.0]]
    sure = moments[:, 2]
    fit = np.all(np.isfinite(sure)) and np.all(np.diff(sure) <= 0)
    scores = sure if fit else 1.0 / np.arange(1, len(moments) + 1)
    return [[float(start), float(end), float(score)] for (start, end), score in zip(moments[:, :2], scores)]


def _ego4d_text(queries: Sequence[Query], predictions: Sequence[Prediction]) -> str:
    results = []
    for query, found in zip(queries, predictions, strict=True):
        times = [[float(start), float(end)] for start, end in found.moments[:EGO4D_MOMENTS, :2]]
        times += [[0.0, 0.0]] * (EGO4D_MOMENTS - len(times))  # of no length: no hit
        ids = dict(query.ids)
        results.append({name: ids[name] for name in EGO4D_IDS} | {TIMES: times})
    return json.dumps(EGO4D_HEAD | {RESULTS: results}) + "\n"


def _qid(query: Query) -> str:
    return str(dict(query.ids).get("qid", query.query_id))


def _ego4d_key(query: Query) -> str:
    ids = dict(query.ids)
    return f"{ids['annotation_uid']}_{ids['query_idx']}" if {*EGO4D_IDS} <= set(ids) else query.query_id


FORMS = {
    "moment_detr": Form(".jsonl", _moment_detr_text, _qid),
    "cone": Form(".jsonl", _cone_text, lambda query: query.query_id),
    "ego4d_nlq": Form(".json", _ego4d_text, _ego4d_key, EGO4D_IDS),
}
