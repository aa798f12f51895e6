"""A stage's own questions on held-out windows: asked, answered greedily, scored, written."""

import json

import jax
import numpy as np
import pytest
from tiny_base import chain_config, make_base

from revision_jax.evaluation import questions as held_out
from revision_jax.parallel.mesh import make_mesh
from revision_jax.prompts import AnswerGrammar, group_answers
from revision_jax.runs import grounder as parts
from revision_jax.runs.splits import open_split, prepare_data
from revision_jax.runs.tasks import make_loader


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tiny parts; predecessors are not needed to ask an untrained model."""
    folder = tmp_path_factory.mktemp("held_out")
    make_base(folder / "base")
    return folder


def prepared(place, monkeypatch, spec):
    monkeypatch.setattr(parts, "missing_predecessors", lambda config: [])
    monkeypatch.setattr(parts, "predecessor_prints", lambda config: {})
    monkeypatch.setattr(parts, "trained_before", lambda *_: {})
    config = chain_config(spec, place)
    mesh = make_mesh(devices=jax.devices()[:1])
    return config, mesh, prepare_data(config, mesh, splits=("train", "val")), parts.load_grounder(config, mesh)


@pytest.mark.parametrize(
    "spec, told",
    [
        ("configs/stage1_sparse.py", ["val: accuracy", "near miss", "before training"]),
        ("configs/stage2.py", ["val, groups of 5: exact", "val, groups of 4", "hit rate"]),
        ("configs/align.py", ["val: token accuracy", "captions"]),
    ],
)
def test_every_stage_is_asked_told_and_written(place, monkeypatch, tmp_path, capsys, spec, told):
    config, mesh, directories, grounder = prepared(place, monkeypatch, spec)
    monkeypatch.setattr(held_out, "CAPTIONS", 5)
    counters = {"programs": 1, "shapes": 1}
    options = {"directories": {"val": directories["val"]}, "mesh": mesh, "steps": 4}
    metrics = held_out.evaluate_held_out(config, tmp_path, grounder, **options, before=grounder, compilations=counters)
    printed = capsys.readouterr().out
    assert all(text in printed for text in told)
    written = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert written["stage"] == config.stage and written["compilations"]["train_step"] == counters
    assert metrics["scores"]["val"] == metrics["scores"]["val, before training"]  # the same questions, the same model
    again = held_out.evaluate_held_out(config, tmp_path, grounder, **options, compilations={"programs": 0, "shapes": 0})
    assert again["compilations"]["train_step"] == counters and again["scores"]["val"] == metrics["scores"]["val"]


def test_greedy_answers_are_those_of_one_question_read_token_by_token(place, monkeypatch):
    config, mesh, directories, grounder = prepared(place, monkeypatch, "configs/stage2.py")
    store, queries = open_split(config, directories["train"], grounder.visual_width)
    loader = make_loader(config, store, queries, parts.make_prompt_encoder(config), mesh)
    drawer = held_out.make_group_drawer(loader, queries, 4, held_out.GroupKind(copies=(2,)))
    clips = held_out._draw(drawer, 0)[:3]
    grammar = AnswerGrammar.compile(loader.prompts, group_answers(4))
    answers = held_out.Answerer(loader, grammar, 2, mesh)(grounder, clips)  # a batch of 2, and one filled up
    for clip, answer in zip(clips, answers, strict=True):
        record = loader((0, clip))
        tokens = record["tokens"][: np.argmax(record["loss_mask"])].tolist()
        state = 0
        while not grammar.final[state]:
            padded = np.array([tokens + [0]], np.int32)
            logits = grounder(
                loader.prompts.prefix, record["video"][None], padded, record["query"][None], record["query_mask"][None]
            )
            allowed = grammar.tokens[state][grammar.tokens[state] >= 0]
            choice = int(np.argmax(np.asarray(logits)[0, -1][allowed]))
            tokens.append(int(allowed[choice]))
            state = grammar.next[state, choice]
        assert tuple(grammar.answer[state]) == tuple(answer)
