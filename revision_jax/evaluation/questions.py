"""A stage's own questions, asked on held-out windows and groups: is the event there, and in which windows?

The rows are drawn once from (seed, row), at most `eval.max_rows` of a question, so that every model is asked the same.
What was answered before a kill is not asked again.

Letters: B batch, P prefix tokens, S tokens before the text, T text tokens, N rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches.clips import ClipDrawer
from revision_jax.data.batches.groups import GroupKind, make_group_drawer
from revision_jax.data.batches.load_group import LoadGroup
from revision_jax.data.batches.presence import PresenceDrawer
from revision_jax.data.batches.sampling import Group
from revision_jax.evaluation.evaluator import Evaluation, Scored
from revision_jax.evaluation.identity import digest, file_digest, parameters
from revision_jax.evaluation.row_log import Answers, RowLog
from revision_jax.evaluation.telling import told
from revision_jax.metrics.answers import interval_scores, presence_scores
from revision_jax.models.grounder import Grounder
from revision_jax.parallel import multihost
from revision_jax.parallel.mesh import batch_sharding
from revision_jax.parallel.programs import Program
from revision_jax.prompts import AnswerGrammar, group_answers, presence_answers, video_answers
from revision_jax.runs.batches import clip_kind, group_rows, make_loader
from revision_jax.runs.run import Run
from revision_jax.runs.splits import Split
from revision_jax.search.answers import asking
from revision_jax.search.answers.decoding import Grammar
from revision_jax.training.state import Arrays, Module, take_apart

HONOURS = frozenset(("split", "data", "out"))  # options that mean something where nothing is searched


@dataclasses.dataclass(frozen=True)
class Question:
    """One question about many held-out rows.

    Attributes:
      name: "presence", "groups of 48", "captions".
      rows: what it is asked about.
      ask: (grounder, some of the rows) -> their answers, `[n, k]` numbers.
      score: answers of all rows -> scores in percent.
    """

    name: str
    rows: Sequence[Any]
    ask: Callable[[Grounder, Sequence[Any]], np.ndarray]
    score: Callable[[np.ndarray], dict[str, Any]]


def ask_all(evaluation: Evaluation, questions: Sequence[Question], data: str) -> Scored:
    """Asks the trained model, and with `eval.before` the one before training; the first host asks, the others wait.

    Args:
      data: hash of the rows' data.
    """
    config, run, found = evaluation.run.config, evaluation.run, {}
    if multihost.is_first():
        models = {"trained": run.grounder("trained")}
        models |= {"before": run.grounder("fresh")} if config.eval.before else {}
        trained = [parameters(model, config.trainable) for model in models.values()]
        identity = digest(config.seed, config.eval.max_rows, config.hierarchy, config.prompt, data, trained)
        log = RowLog(evaluation.path("questions.jsonl"), identity)
        for question in questions:
            found[question.name] = {
                name: question.score(np.array(_answers(question, model, name, log, group_rows(config))))
                for name, model in models.items()
            }
    multihost.meet_patiently(f"asked {evaluation.path('questions.jsonl').name}")
    data_of = {evaluation.split: data}
    return Scored({"data": data_of, "questions": found, "trained_parameters": run.trained_parameters})


def _answers(question: Question, grounder: Grounder, model: str, log: RowLog, batch: int) -> Answers:
    """The answers of all rows, those in the log first."""
    done, total = len(log.get(question.name, model)), len(question.rows)
    label = f"{question.name}, {model}"
    for start in told(range(done, total, batch), label, lambda start: f"row {start} of {total}"):
        rows = question.rows[start : start + batch]
        log.append(question.name, model, question.ask(grounder, rows))
        multihost.advance(f"{label}: row {start + len(rows)} of {total}")
    return log.get(question.name, model)


def some_of(total: int, most: int, seed: int) -> list[int]:
    """At most so many of the numbers below `total`, drawn by seed, in order."""
    if total <= most:
        return list(range(total))
    return sorted(np.random.default_rng(seed).choice(total, most, replace=False).tolist())


# -------------------------------------------------------------------------------------------- the questions
class PresenceQuestions:
    """The evaluator `presence`: does the event happen in a window? Near misses apart."""

    honours, chooses_on_val = HONOURS, False

    def __call__(self, evaluation: Evaluation) -> Scored:
        run, split = evaluation.run, evaluation.run.split(evaluation.split, evaluation.directories[evaluation.split])
        loader, queries = _loader(run, split), split.all_queries
        by_id = {query.query_id: query for query in queries}
        drawer = PresenceDrawer(ClipDrawer(queries, run.hierarchy, loader.store.durations, clip_kind(run.config)))
        clips = _draw(drawer, run)
        kinds = [_kind(clip, by_id[clip.query_id]) for clip in clips]
        answerer = Answerer(loader, AnswerGrammar.compile(run.prompts, presence_answers()), run)
        score = lambda answers: presence_scores(answers[:, 0] >= 0, kinds)
        return ask_all(evaluation, [Question("presence", clips, answerer, score)], file_digest(split))


class GroupQuestions:
    """The evaluator `groups`: which windows of a group show the event, or which of several videos?"""

    honours, chooses_on_val = HONOURS, False

    def __call__(self, evaluation: Evaluation) -> Scored:
        run, split = evaluation.run, evaluation.run.split(evaluation.split, evaluation.directories[evaluation.split])
        data, loader = run.config.data, _loader(run, split)
        kind = GroupKind(data.groups, data.group_copies, data.group_near_misses)
        answers = group_answers if kind.of == "windows" else video_answers
        questions = []
        for size in run.config.hierarchy.levels:
            drawer = make_group_drawer(loader, split.all_queries, size, kind)
            clips = _draw(drawer, run)
            answerer = Answerer(loader, AnswerGrammar.compile(run.prompts, answers(size)), run)
            truth = [clip.answer for clip in clips]
            score = functools.partial(lambda truth, found: interval_scores(found.astype(int), truth), truth)
            questions.append(Question(f"groups of {size}", clips, answerer, score))
        return ask_all(evaluation, questions, file_digest(split))


def _loader(run: Run, split: Split) -> LoadGroup:
    return make_loader(run.config, split.store, split.all_queries, run.prompts)


class Drawer(Protocol):
    """What draws rows of held-out groups."""

    def __len__(self) -> int: ...

    def draw(self, row: int, rng: np.random.Generator) -> Group: ...


def _draw(drawer: Drawer, run: Run) -> list[Group]:
    seed = run.config.seed
    rows = some_of(len(drawer), run.config.eval.max_rows, seed)
    return [drawer.draw(row, np.random.default_rng([seed, row])) for row in rows]


def _kind(clip: Group, query: Query) -> str:
    """`present`, `near miss` (one lies whole inside the window) or `absent`."""
    _, start, end = clip.windows[0]
    near = any(start <= a and b <= end for a, b in query.distractors)
    return "present" if clip.answer else "near miss" if near else "absent"


# --------------------------------------------------------------------------------------------- answering
@dataclasses.dataclass(frozen=True, eq=False)
class Answerer:
    """Greedy answers under a grammar to the questions of groups, a batch at a time."""

    loader: LoadGroup
    grammar: AnswerGrammar
    run: Run

    def __call__(self, grounder: Grounder, clips: Sequence[Group]) -> np.ndarray:
        """`[N, 2]` int: what each answer stands for, see `AnswerGrammar.answer`."""
        module, arrays = take_apart(grounder)
        answer = Program(answer_greedily, module, self.grammar.max_length)
        grammar, prefix = Grammar.of(self.grammar), self.loader.prompts.prefix
        rows = map(self._row, clips)
        answers = [
            np.asarray(answer(grammar, prefix, arrays, batch))[:count]
            for batch, count in batches_of(rows, group_rows(self.run.config), self.run.mesh)
        ]
        return np.concatenate(answers) if answers else np.empty((0, 2), np.int32)

    def _row(self, clip: Group) -> dict[str, np.ndarray]:
        """The record of a clip with its answer taken out: `tokens [T]`, of which `length []` are the question."""
        record = self.loader((0, clip))
        length = int(np.argmax(record.pop("loss_mask")))
        asked = np.arange(len(record["tokens"])) < length
        pad = self.loader.prompts.pad_id
        return record | {"tokens": np.where(asked, record["tokens"], pad), "length": np.int32(length)}


def answer_greedily(
    module: Module, max_length: int, grammar: Grammar, prefix: jax.Array, arrays: Arrays,
    batch: Mapping[str, jax.Array],
) -> jax.Array:  # fmt: skip
    """Answers `[B, 2]` int32 to a batch of questions, each behind the cache of its group.

    Args:
      max_length: tokens of the longest answer.
      prefix: `[P]` int32, tokens before the video.
      batch: `video [B, n, F, D]`, `query`, `query_mask`, `tokens [B, T]` with room for the answer, `length [B]`.
    """
    model = module.merge(arrays)
    group = model.group_tokens(batch["video"], batch["query"], batch["query_mask"])
    context = model.embed_group(prefix, group)  # [B, S, H]
    tokens, lengths = batch["tokens"][:, None], batch["length"][:, None]
    pairs = asking.Pairs(tokens, lengths, jnp.ones(lengths.shape, bool))
    answerer = asking.Answerer(model.llm, grammar, asking.Asking(max_length, 1, len(tokens)))
    return grammar.answer[asking.answer_in_lockstep(answerer, model.llm.prefill(context)[1], pairs).state]


def batches_of(
    rows: Iterable[Mapping[str, np.ndarray]], size: int, mesh: jax.sharding.Mesh
) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Batches of equal shape on the mesh, the last filled up with its last row; with the number of its own rows."""
    waiting: list[Mapping[str, np.ndarray]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == size:
            yield _stack(waiting, mesh), size
            waiting = []
    if waiting:
        yield _stack(waiting + waiting[-1:] * (size - len(waiting)), mesh), len(waiting)


def _stack(rows: Sequence[Mapping[str, np.ndarray]], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0] if key != "record_id"}
    return jax.device_put(stacked, batch_sharding(mesh))
