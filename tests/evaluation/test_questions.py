"""A stage's own questions on held-out rows: asked, answered greedily, logged, scored."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from tiny_base import chain_config, make_base

from revision_jax.data.batches.groups import GroupKind, make_group_drawer
from revision_jax.evaluation import captions, questions
from revision_jax.evaluation.evaluate import evaluate
from revision_jax.evaluation.options import Options
from revision_jax.prompts import AnswerGrammar, group_answers
from revision_jax.runs.batches import make_loader
from revision_jax.runs.run import Run


@pytest.fixture(scope="module")
def align_run(tmp_path_factory):
    """A run of the align stage, trained a little."""
    from revision_jax.runs.splits import prepare_data
    from revision_jax.runs.training import train

    folder = tmp_path_factory.mktemp("align")
    make_base(folder / "base")
    config = chain_config("configs/align.py", folder, train__steps=2, eval__before=True)
    train(Run(config, folder / "run"), dict(prepare_data(config)))
    return folder / "run"


def workdir_of(stage, chain, align_run, folder):
    """A copy of a run of the stage."""
    return Path(shutil.copytree({"sparse": chain.folder / "sparse", "align": align_run}[stage], folder / stage))


@pytest.mark.parametrize(
    "stage, told",
    [
        ("sparse", ["presence: accuracy", "presence: near miss, right"]),
        ("align", ["captions: token accuracy", "captions: loss"]),
    ],
)
def test_every_stage_is_asked_told_and_written(stage, told, chain, align_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(captions, "CAPTIONS", 5)
    workdir = workdir_of(stage, chain, align_run, tmp_path)
    counted = {"programs": 1, "shapes": 1}
    metrics = evaluate(Run.load(workdir, {"eval.max_rows": 6}), Options(out="eval-asked"), compilations=counted)
    printed = capsys.readouterr().out
    assert all(text in printed for text in told), printed
    written = json.loads((workdir / "eval-asked/metrics.json").read_text())
    assert written["stage"] == stage and written["compilations"]["train_step"] == counted
    assert written["methods"] == {} and written["trained_parameters"] > 0
    # Asked again, everything is in the log; the counters of the first time stand.
    monkeypatch.setattr(questions, "batches_of", lambda *_: pytest.fail("asked twice"))
    monkeypatch.setattr(captions, "batches_of", lambda *_: pytest.fail("asked twice"))
    nothing = {"programs": 0, "shapes": 0}
    again = evaluate(Run.load(workdir, {"eval.max_rows": 6}), Options(out="eval-asked"), compilations=nothing)
    assert again["questions"] == metrics["questions"] and again["compilations"]["train_step"] == counted
    assert (workdir / "eval-asked/report.html").is_file()


def test_a_killed_one_goes_on_row_by_row(chain, tmp_path, monkeypatch):
    """Stopped after each batch in turn: nothing is asked twice, the scores are the same."""
    workdir, asked = workdir_of("sparse", chain, None, tmp_path), []
    load = lambda: Run.load(workdir, {"eval.max_rows": 5, "eval.before": False})
    answer = questions.Answerer.__call__
    whole = evaluate(load(), Options(out="eval-whole"))["questions"]

    def dies(self, grounder, clips):
        if len(asked) in (1, 3):
            asked.append(0)
            raise KeyboardInterrupt
        asked.append(len(clips))
        return answer(self, grounder, clips)

    monkeypatch.setattr(questions.Answerer, "__call__", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            evaluate(load(), Options(out="eval-killed"))
        path = workdir / "eval-killed/questions.jsonl"
        path.write_text(path.read_text() + '{"question": "pres')  # cut short
    assert evaluate(load(), Options(out="eval-killed"))["questions"] == whole
    assert sum(asked) == 5  # each row once


def test_rows_are_drawn_by_seed():
    assert questions.some_of(4, 10, 0) == [0, 1, 2, 3]
    drawn = questions.some_of(1000, 10, 0)
    assert drawn == sorted(set(drawn)) and len(drawn) == 10 and drawn == questions.some_of(1000, 10, 0)
    assert drawn != questions.some_of(1000, 10, 1)


def test_greedy_answers_are_those_of_one_question_read_token_by_token(long_run):
    run = Run.load(long_run)
    grounder, split = run.grounder("trained"), run.split("val")
    loader = make_loader(run.config, split.store, split.all_queries, run.prompts)
    drawer = make_group_drawer(loader, split.all_queries, 4, GroupKind(copies=(2,)))
    clips = questions._draw(drawer, run)[:3]
    grammar = AnswerGrammar.compile(loader.prompts, group_answers(4))
    answers = questions.Answerer(loader, grammar, run)(grounder, clips)  # a batch of 2, and one filled up
    read = nnx.jit(lambda grounder, *inputs: grounder(loader.prompts.prefix, *inputs))
    for clip, answer in zip(clips, answers, strict=True):
        record = loader((0, clip))
        length = len(record["tokens"])
        tokens = record["tokens"][: np.argmax(record["loss_mask"])].tolist()
        state = 0
        while not grammar.final[state]:
            padded = np.array([tokens + [0] * (length - len(tokens))], np.int32)  # no token sees those behind it
            logits = read(grounder, record["video"][None], padded, record["query"][None], record["query_mask"][None])
            allowed = grammar.tokens[state][grammar.tokens[state] >= 0]
            place = len(tokens) - length + logits.shape[1]
            choice = int(np.argmax(np.asarray(logits)[0, place][allowed]))
            tokens.append(int(allowed[choice]))
            state = grammar.next[state, choice]
        assert tuple(grammar.answer[state]) == tuple(answer)
