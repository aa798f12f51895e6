"""What a stage that is not searched alone has learned: its own questions, asked on held-out windows and groups.

align: words of captions; sparse: present or absent; long and unified: the interval of windows. The questions are drawn
once a row from (seed, row), so that every model is asked the same.

Letters: B batch, P prefix tokens, S tokens before the text, T text tokens.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches.captions import LoadCaption
from revision_jax.data.batches.clips import ClipDrawer, ClipKind
from revision_jax.data.batches.groups import GroupKind, make_group_drawer
from revision_jax.data.batches.load_group import LoadGroup
from revision_jax.data.batches.presence import PresenceDrawer
from revision_jax.data.batches.sampling import Group
from revision_jax.evaluation.predictions import plain, read_json, write_json
from revision_jax.metrics.answers import interval_scores, presence_scores
from revision_jax.parallel.mesh import batch_sharding
from revision_jax.prompts import AnswerGrammar, PromptEncoder, group_answers, presence_answers, video_answers
from revision_jax.runs.grounder import make_prompt_encoder
from revision_jax.runs.splits import open_captions, open_split
from revision_jax.runs.tasks import make_loader
from revision_jax.search.answers.decoding import DecodeState, Grammar, decode_step
from revision_jax.training.state import take_apart
from revision_jax.training.step import answer_loss

log = logging.getLogger(__name__)
SPLITS = ("val", "test")
CAPTIONS = 512  # held-out frames whose captions are asked for


def evaluate_held_out(
    config: ConfigDict, workdir: str | Path, grounder, *, directories: Mapping[str, Path], mesh, before=None,
    steps: int | None = None, compilations: Mapping[str, int] | None = None,
) -> dict:  # fmt: skip
    """Scores a grounder at its stage's own questions, prints the table and writes `workdir/eval/metrics.json`.

    Args:
      directories: split -> data set directory; val and test are asked where they are there.
      before: the grounder as it was before training, for the same table; or None.
      steps: how long it was trained.
      compilations: of the train step, {"programs", "shapes"}.

    Returns:
      what `metrics.json` holds. Every score is a percentage.
    """
    scores = {}
    with jax.set_mesh(mesh):
        for split in [split for split in SPLITS if split in directories]:
            ask = QUESTIONS[config.stage](config, directories[split], split, grounder.visual_width, mesh)
            scores[split] = ask(grounder)
            if before is not None:
                scores[f"{split}, before training"] = ask(before)
    path = Path(workdir) / "eval" / "metrics.json"
    if not (compilations and compilations["programs"]):  # nothing was left to train: the counters of the first time
        compilations = ((read_json(path) or {}).get("compilations") or {}).get("train_step")
    metrics = plain({
        "stage": config.stage,
        "train_steps": steps,
        "scores": scores,
        "compilations": {"train_step": compilations},
        "device": {"kind": mesh.devices.flat[0].device_kind, "count": mesh.devices.size},
    })  # fmt: skip
    write_json(path, metrics)
    print_table(metrics)
    return metrics


# -------------------------------------------------------------------------------------------- the questions
def ask_presence(config: ConfigDict, directory: Path, split: str, width: int, mesh):
    """`ask(grounder)` -> scores of present and absent windows, near misses apart."""
    loader, queries = _open(config, directory, width, mesh)
    by_id = {query.query_id: query for query in queries}
    kind = ClipKind(config.data.neg_factor, config.data.near_miss_fraction)
    drawer = PresenceDrawer(ClipDrawer(queries, loader.hierarchy, loader.store.durations, kind))
    clips = _draw(drawer, config.seed)
    kinds = [_kind(clip, by_id[clip.query_id]) for clip in clips]
    answerer = Answerer(
        loader, AnswerGrammar.compile(loader.prompts, presence_answers()), config.train.batch_size, mesh
    )
    return lambda grounder: presence_scores(answerer(grounder, clips)[:, 0] >= 0, kinds)


def ask_groups(config: ConfigDict, directory: Path, split: str, width: int, mesh):
    """`ask(grounder)` -> size of a group -> scores of the named intervals."""
    loader, queries = _open(config, directory, width, mesh)
    kind = GroupKind(config.data.groups, config.data.group_copies, config.data.group_near_misses)
    answers = group_answers if kind.of == "windows" else video_answers
    asked = {}
    for size in config.hierarchy.levels:
        drawer = make_group_drawer(loader, queries, size, kind)
        grammar = AnswerGrammar.compile(loader.prompts, answers(size))
        asked[size] = Answerer(loader, grammar, config.train.batch_size, mesh), _draw(drawer, config.seed)

    def ask(grounder) -> dict[str, dict]:
        return {
            f"groups of {size}": interval_scores(answerer(grounder, clips), [clip.answer for clip in clips])
            for size, (answerer, clips) in asked.items()
        }

    return ask


def ask_captions(config: ConfigDict, directory: Path, split: str, width: int, mesh):
    """`ask(grounder)` -> share of right tokens of held-out captions, each given those before it."""
    prompts = make_prompt_encoder(config)
    load = LoadCaption(open_captions(config, directory, split, width), prompts)
    numbers = np.random.default_rng(config.seed).permutation(len(load.captions.texts))[:CAPTIONS]

    @functools.partial(jax.jit, static_argnums=0)
    def accuracy(module, arrays, batch):
        logits = module.merge(arrays)(prompts.prefix, batch["video"], batch["tokens"])
        return answer_loss(logits, batch["tokens"], batch["loss_mask"])

    def ask(grounder) -> dict[str, float]:
        module, arrays = take_apart(grounder)
        rows = [load((0, int(number))) for number in numbers]
        found = [accuracy(module, arrays, batch) for batch, _ in _batches(rows, config.train.batch_size, mesh)]
        loss, right = np.mean(jax.device_get(found), axis=0)
        return {"token_accuracy": float(100 * right), "loss": float(loss), "captions": len(rows)}

    return ask


QUESTIONS = {"align": ask_captions, "sparse": ask_presence, "long": ask_groups, "unified": ask_groups}


def _open(config, directory, width, mesh) -> tuple[LoadGroup, list[Query]]:
    store, queries = open_split(config, directory, width)
    return make_loader(config, store, queries, make_prompt_encoder(config), mesh), queries


def _draw(drawer, seed: int) -> list[Group]:
    return [drawer.draw(row, np.random.default_rng([seed, row])) for row in range(len(drawer))]


def _kind(clip: Group, query: Query) -> str:
    """`present`, `near miss` (one lies whole inside the window) or `absent`."""
    _, start, end = clip.windows[0]
    near = any(start <= a and b <= end for a, b in query.distractors)
    return "present" if clip.answer else "near miss" if near else "absent"


# --------------------------------------------------------------------------------------------- answering
@dataclasses.dataclass(frozen=True, eq=False)
class Answerer:
    """Greedy answers under a grammar to the questions of groups, `batch_size` at a time."""

    loader: LoadGroup
    grammar: AnswerGrammar
    batch_size: int
    mesh: jax.sharding.Mesh

    def __call__(self, grounder, clips: Sequence[Group]) -> np.ndarray:
        """`[N, 2]` int: what each answer stands for, see `AnswerGrammar.answer`."""
        module, arrays = take_apart(grounder)
        rows = (self._row(clip) for clip in clips)
        answers = [
            np.asarray(self._answer(module, arrays, batch))[:count]
            for batch, count in _batches(rows, self.batch_size, self.mesh)
        ]
        return np.concatenate(answers) if answers else np.empty((0, 2), np.int32)

    def _row(self, clip: Group) -> dict[str, np.ndarray]:
        """The record of a clip with its answer taken out: `tokens [T]`, of which `length []` are the question."""
        record = self.loader((0, clip))
        length = int(np.argmax(record.pop("loss_mask")))
        asked = np.arange(len(record["tokens"])) < length
        pad = self.loader.prompts.pad_id
        return record | {"tokens": np.where(asked, record["tokens"], pad), "length": np.int32(length)}

    @functools.cached_property
    def _answer(self):
        return jax.jit(
            functools.partial(answer_greedily, Grammar.of(self.grammar), self.loader.prompts, self.grammar.max_length),
            static_argnums=0,
        )


def answer_greedily(grammar: Grammar, prompts: PromptEncoder, max_length: int, module, arrays, batch) -> jax.Array:
    """Answers `[B, 2]` int32 to a batch of questions, the whole text read again for each token.

    Args:
      batch: `video [B, n, F, D]`, `query`, `query_mask`, `tokens [B, T]` with room for the answer, `length [B]`.
    """
    model = module.merge(arrays)
    group = model.group_tokens(batch["video"], batch["query"], batch["query_mask"])
    context = model.embed_group(prompts.prefix, group)  # [B, S, H]
    row = jnp.arange(len(batch["tokens"]))

    def step(k, carry):
        state, tokens = carry
        place = batch["length"] + k
        state = decode_step(grammar, state, model.text_logits(context, tokens)[row, place])
        return state, tokens.at[row, place].set(state.token)

    start = DecodeState.start(len(row), max_length), batch["tokens"]
    return grammar.answer[jax.lax.fori_loop(0, max_length, step, start)[0].state]


def _batches(rows, size: int, mesh) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Batches of equal shape on the mesh, the last filled up with its last row; with the number of its own rows."""
    waiting = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == size:
            yield _stack(waiting, mesh), size
            waiting = []
    if waiting:
        yield _stack(waiting + waiting[-1:] * (size - len(waiting)), mesh), len(waiting)


def _stack(rows: Sequence[dict[str, np.ndarray]], mesh) -> dict[str, jax.Array]:
    stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0] if key != "record_id"}
    return jax.device_put(stacked, batch_sharding(mesh))


# ---------------------------------------------------------------------------------------------- telling
def print_table(metrics: Mapping) -> None:
    """The scores in lines of text: one a split and, for groups, a size."""
    for split, scores in metrics["scores"].items():
        nested = metrics["stage"] in ("long", "unified")
        for name, values in scores.items() if nested else [("", scores)]:
            told = [_told(key, value) for key, value in values.items()]
            print(f"{split}{', ' if name else ''}{name}: {', '.join(told)}")


def _told(key: str, value) -> str:
    if isinstance(value, Mapping):
        if not value["windows"]:
            return f"{key}: no windows"
        return f"{key} {value['right']:.1f} % of {value['windows']}"
    return f"{value} {key}" if isinstance(value, int) else f"{key.replace('_', ' ')} {value:.2f}"
