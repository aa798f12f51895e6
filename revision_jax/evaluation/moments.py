"""The search of long videos, scored: all methods that a run has answer the queries of a split.

What counts as absent, the temperature of confidences and the variant of CLIP retrieval are chosen on val.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from revision_jax.data.annotations.gaps import GAPS, load_gaps
from revision_jax.data.annotations.queries import Query
from revision_jax.data.builders.datasets import DATA_SETS
from revision_jax.evaluation import methods as m
from revision_jax.evaluation.budget import ask_ways, choose, score_ways, ways_to_spend
from revision_jax.evaluation.diagnosis import FEW, Asked, diagnose
from revision_jax.evaluation.evaluator import Evaluation, Scored
from revision_jax.evaluation.identity import answers_digest, file_digest, trained_parameters
from revision_jax.evaluation.others import read_others
from revision_jax.evaluation.predictions import Prediction
from revision_jax.evaluation.protocols import PROTOCOLS
from revision_jax.evaluation.scores import PAIRS, UNCALIBRATED, calibrate, compare, score
from revision_jax.evaluation.submissions import FORMS
from revision_jax.files import write_json, write_text
from revision_jax.parallel import multihost
from revision_jax.report.plots import Timeline
from revision_jax.report.table import shown
from revision_jax.runs.budgets import place
from revision_jax.runs.calibration import FILE
from revision_jax.runs.splits import Split
from revision_jax.search.answers.confidence import COSINE
from revision_jax.search.clip_baseline import table_bytes
from revision_jax.search.method import method_name, uses_upper
from revision_jax.search.models import Models
from revision_jax.search.searcher import Searcher

log = logging.getLogger(__name__)
DEPTHS = ("depth0", "depth1", "depth2", "depth3")  # what the report shows beside the method that is served
ALONE = ("depth1", "depth0")  # methods that are asked of the model before training, too


class MomentSearch:
    """The evaluator `search`: see the module."""

    honours = frozenset(
        ("split", "data", "out", "protocol", "search.*", "methods", "memory_gib", "wide", "submission", "score")
        + ("diagnose", "queries", "budget")
    )
    chooses_on_val = True

    def __call__(self, evaluation: Evaluation) -> Scored:
        session = _Session(evaluation)
        if evaluation.options.budget is not None:
            session.spend(evaluation.options.budget)
        answers = session.answer(session.names, session.searcher)
        earlier = session.answer_before()
        return _score(session, answers, earlier)


class _Session:
    """The searcher, splits and methods of one evaluation."""

    def __init__(self, evaluation: Evaluation):
        self.evaluation, run, options = evaluation, evaluation.run, evaluation.options
        self.protocol = PROTOCOLS[options.protocol]
        self.models = run.models()
        names = sorted({"val", evaluation.split})
        splits = {name: run.split(name, evaluation.directories[name]) for name in names}
        splits[evaluation.split] = splits[evaluation.split].thinned(options.queries)
        self.splits: Mapping[str, Split] = splits
        # Before the search, so that a file that cannot be read or written costs nothing.
        asked = self.splits[evaluation.split].all_queries
        if options.submission:
            FORMS[options.submission].check(asked, f"--submission {options.submission}")
        if not any(query.present for query in asked):
            log.warning("no query of %s has a moment: nothing can be found, only submitted", evaluation.split)
        self.others = read_others(options.score, asked)
        changes = {**self.protocol.search, **options.search}
        searcher = run.searcher(self.models, changes=changes, memory_gib=options.memory_gib)
        every_query = [query for split in self.splits.values() for query in split.all_queries]
        self.searcher = m.with_fitted_questions(searcher, every_query)
        settings = self.searcher.settings
        self.served = method_name(settings.depth, settings.policy)
        self.names = m.chosen_methods(options.methods, self.searcher.max_depth, self.served)
        self.main = self.served if self.served in self.names else self.names[0]
        self.retrieval, self.budget = None, None
        if options.budget is None and "clip" in self.names:
            stores = [split.store for split in self.splits.values()]
            frames = max(info.num_frames for store in stores for info in store.manifest.videos.values())
            self.searcher.check_room(table_bytes(frames, run.extractor.width), "the method clip")
            self.retrieval = m.choose_retrieval(
                self.splits["val"], run.extractor, top_k=settings.top_k, nms_iou=settings.nms_iou
            )

    def spend(self, budget: float) -> None:
        """Chooses on val how to search within a budget; the search is then the chosen one, by its method alone."""
        run, val = self.evaluation.run, self.splits["val"]
        asking = m.Asking(run, self.searcher, None)
        path = self.evaluation.path("predictions_tried.jsonl", "val")
        answers = ask_ways(ways_to_spend(budget, self.searcher), asking, val, self.models, path)
        tried = score_ways(answers, val.all_queries, self.protocol)
        chosen = choose(tried)
        self.searcher = chosen.way.searcher(self.searcher)
        self.served = self.main = chosen.way.method
        self.names = [self.main]
        self.budget = {"share": budget, "chosen": chosen.as_dict(), "tried": [one.as_dict() for one in tried]}

    def answer(
        self, names: Sequence[str], searcher: Searcher, tag: str = "", models: Models | None = None
    ) -> dict[str, dict[str, m.Answers]]:
        """Split -> method -> answers. What the logs hold is not asked again; a log belongs to what was trained."""
        models = models or self.models
        # Those that the user named, and the one that is served, are measured.
        measured = frozenset((*self.evaluation.options.methods, self.served))
        several = sum(name not in (m.CLIP, "depth0") for name in names) > 1
        shared = m.SharedWork(searcher) if several else None
        asking = m.Asking(self.evaluation.run, searcher, self.retrieval, shared, measured)
        asks = {name: asking.method(name) for name in names}
        alone = {name: ask for name, ask in asks.items() if not uses_upper(name, searcher.max_depth)}
        deeper = {name: ask for name, ask in asks.items() if name not in alone}
        groups = [(tag, alone, [models.dense])]
        if deeper:
            groups.append((f"{tag}_upper", deeper, [models.dense, models.upper]))
        answers: dict[str, dict[str, m.Answers]] = {}
        for name, split in self.splits.items():
            logged = []
            for log_tag, some, which in groups:
                # Of this split alone: scoring another one between does not throw its answers away.
                identity = answers_digest(self.evaluation.run, searcher.settings.results(), split, which)
                path = self.evaluation.path(f"predictions{log_tag}.jsonl", name)
                logged.append(m.Logged(some, path, identity))
            answers[name] = m.answer(split, logged)
        return {name: {method: found[method] for method in names} for name, found in answers.items()}

    def answer_before(self) -> dict[str, dict[str, m.Answers]] | None:
        """The answers of the dense level's model as it was before training, where that was another one."""
        run, names = self.evaluation.run, [name for name in self.names if name in ALONE]
        if not (run.config.eval.before and names and "dense" in run.stage.answers):
            return None
        models = run.models("fresh")
        return self.answer(names, self.searcher.with_model(models.dense), "_before", models)


def _score(session: _Session, answers: Mapping, earlier: Mapping | None) -> Scored:
    """From answers to the metrics; writes calibration.json."""
    evaluation, settings, protocol = session.evaluation, session.searcher.settings, session.protocol
    split, val = session.splits[evaluation.split], session.splits["val"]
    queries, kinds = split.all_queries, {}
    for name in session.names:
        kinds[name] = COSINE if name == "clip" else settings.confidence
    calibration = calibrate(val.all_queries, answers["val"], kinds)
    if session.retrieval is not None:
        calibration["clip"] |= {"variant": session.retrieval.variant, "length_s": session.retrieval.length_s}
    own, theirs = answers[evaluation.split], session.others
    known = {**own, **{name: (found.predictions, None) for name, found in theirs.items()}}
    pairs = [*PAIRS, *((session.main, name) for name in theirs)]
    metrics = {
        "protocol": {"name": protocol.name, "says": protocol.says, "search": settings.results()},
        "videos": len(split.queries),
        "queries": len(queries),
        "present": sum(query.present for query in queries),
        "absent": sum(not query.present for query in queries),
        "data": {name: file_digest(session.splits[name]) for name in session.splits},
        "served": session.served,
        "budget": session.budget,
        "table": _table(split, evaluation.options.wide),
        "trained_parameters": trained_parameters([model for model in session.models.both if model is not None]),
        "methods": score(queries, known, calibration | dict.fromkeys(theirs, UNCALIBRATED), protocol),
        "compared": compare(queries, known, protocol, pairs),
        "calibration": calibration,
        "others": {name: found.counts() for name, found in theirs.items()},
        "compilations": {
            "search": {"programs": session.searcher.compile_count, "shapes": len(session.searcher.shapes)},
            "encoder": evaluation.run.extractor.compile_count,
        },
        "before": evaluation.old.get("before") or {},
    }
    if evaluation.options.diagnose:
        durations = [split.store.manifest.videos[query.video_id].duration_s for query in queries]
        asked = Asked(queries, own[session.main][0], durations, calibration[session.main]["threshold"])
        signs = [dataclasses.asdict(sign) for sign in diagnose(asked)]
        few = len(asked.present) < FEW
        metrics["diagnosis"] = {"method": session.main, "too_few": few, "signs": signs}
    if earlier is not None:
        chosen = calibrate(val.all_queries, earlier["val"], dict.fromkeys(earlier["val"], settings.confidence))
        metrics["before"] = score(queries, earlier[evaluation.split], chosen, protocol)
    if multihost.is_first():
        # What `ground` uses of it: the thresholds, and the search that they were chosen with.
        chosen = {"search": settings.results(), "methods": calibration}
        write_json(evaluation.folder / FILE.name, chosen)
        if session.budget is not None:
            write_json(evaluation.run.workdir / place(session.budget["share"]), chosen | {"budget": session.budget})
        _submit(session, split, own[session.main][0])
    return Scored(metrics, _timelines(split, own, session.main, calibration[session.main]["threshold"]))


def _submit(session: _Session, split: Split, predictions: Sequence[Prediction]) -> None:
    """Writes the answers of the main method for a benchmark, where that was asked."""
    name = session.evaluation.options.submission
    if not name:
        return
    path = session.evaluation.path(f"submission_{name}{FORMS[name].suffix}")
    write_text(path, FORMS[name].text(split.all_queries, predictions))
    log.info("submission of %s: %s", session.main, path)
    left_out = {gap.query_id for gap in load_gaps(split.store.path / GAPS)} - {""}
    if left_out:
        log.warning("%d annotated queries are not in it: see %s", len(left_out), split.store.path / GAPS)


def _table(split: Split, wide: bool) -> dict[str, Any]:
    """What the tables show: the scores that papers on this data report."""
    data_set = DATA_SETS.get(split.store.manifest.source.get("name"))
    return shown(data_set.scores, data_set.hit, wide) if data_set else shown((), "mad", wide)


def _timelines(split: Split, answers: Mapping[str, m.Answers], main: str, threshold: float) -> list[Timeline]:
    """Truth and answers of every query: those of `main`, and the first ones of every depth's plain search."""
    duration: Any = lambda query: split.store.manifest.videos[query.video_id].duration_s
    moments = lambda found, count=None: np.asarray(found.moments)[:count].tolist()
    depths = [name for name in answers if name != main and name in DEPTHS]
    pairs: Sequence[tuple[Query, Prediction]] = list(zip(split.all_queries, answers[main][0], strict=True))
    return [
        Timeline(
            query.sentence, duration(query), query.moments, moments(found), threshold, query.video_id, found.held,
            {name: moments(answers[name][0][i], 1) for name in depths}, found.error or "",
        )
        for i, (query, found) in enumerate(pairs)
    ]  # fmt: skip
