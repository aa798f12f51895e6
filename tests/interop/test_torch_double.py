"""Exported stages in PyTorch: the published loading order gives our logits and our greedy answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_double import Double

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.evaluation.questions import answer_greedily
from revision_jax.prompts import AnswerGrammar, dense_answers, group_answers
from revision_jax.runs.exporting import export
from revision_jax.runs.run import Run
from revision_jax.search.answers.decoding import Grammar
from revision_jax.training.state import take_apart

pytestmark = pytest.mark.parity
TOLERANCE = 2e-4  # of float32 logits of order 10
SENTENCES = ("a red circle moves to the left", "a blue star spins", "a star grows", "a green square")


@pytest.fixture(scope="module")
def exported(published, tmp_path_factory):
    """`exported(stage)` -> (our run, its grounder, the double of its export)."""
    folder = tmp_path_factory.mktemp("exported")
    published.convert("long", folder / "long")

    def make(stage):
        workdir = folder / "long" if stage == "long" else published.folder / stage
        # A confidence of entropy alone: the double has no CLIP, and a moment's is that of its answer.
        changes = {"search.similarity": 0.0, "search.alone": 1.0}
        run = Run.load(workdir, changes, devices=jax.devices()[:1])
        out = folder / f"out-{stage}"
        export(workdir, out, "revisionllm", check=False)
        return (
            run,
            run.grounder("trained"),
            Double(published.folder / "base/llm", out, heads=run.config.sparse.num_heads),
        )

    return make


def test_dense_logits_and_the_moments_of_a_search(exported):
    run, grounder, double = exported("dense")
    config, prompts = run.config, run.prompts
    rng = np.random.default_rng(0)
    frames = config.hierarchy.num_frames
    features = rng.standard_normal((frames, grounder.visual_width)).astype(np.float32)
    example = prompts.encode_example(SENTENCES[0], "From 02 to 05.")
    tokens = example["tokens"][: int(np.nonzero(example["loss_mask"])[0].max()) + 1]
    ours = np.asarray(grounder(prompts.prefix, features[None], tokens[None]))[0]
    video = double.adapter(torch.tensor(features)).detach()
    theirs = double.logits(prompts.prefix, video, tokens[:-1])
    assert np.abs(ours).max() > 1
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)

    # One window: the search's best moment is that window's answer.
    grammar = AnswerGrammar.compile(prompts, dense_answers(frames))
    answers = []
    for features in (scale * features for scale in (1, -1, 5, -5)):
        fps, video = frames / config.hierarchy.window_s, double.adapter(torch.tensor(features)).detach()
        found = run.search(VideoFeatures(features, config.hierarchy.window_s, fps), SENTENCES, depth=1)
        for sentence, result in zip(SENTENCES, found.results):
            question = prompts.encode_question(sentence)
            span, confidence = double.answer(prompts.prefix, video, question, grammar)
            answers.append(span)
            moment = (*run.hierarchy.to_seconds(*span, 0.0), confidence)
            expected = np.array([] if span == (-1, -1) else [moment]).reshape(-1, 3)
            np.testing.assert_allclose(result.moments, expected, rtol=1e-4)
    assert len(set(answers)) > 1  # a model that answers everything alike would prove little


@pytest.mark.parametrize("stage", ["sparse", "long"])
def test_sparse_logits_and_the_answers_about_groups(stage, exported):
    run, grounder, double = exported(stage)
    config, prompts = run.config, run.prompts
    rng = np.random.default_rng(1)
    windows, width, asked = 5, grounder.visual_width, len(SENTENCES)
    draw = lambda *shape: rng.standard_normal((*shape, width)).astype(np.float32)
    video, query = draw(asked, windows, config.hierarchy.num_frames), draw(asked, config.prompt.query_tokens)
    mask = np.arange(config.prompt.query_tokens) < rng.integers(2, config.prompt.query_tokens + 1, (asked, 1))
    examples = [prompts.encode_example(sentence, "From 1 to 3.", "group") for sentence in SENTENCES]
    tokens = np.stack([example["tokens"] for example in examples])
    ours = np.asarray(grounder(prompts.prefix, video, tokens, query, mask))

    grammar = AnswerGrammar.compile(prompts, group_answers(windows))
    lengths = np.array([int(np.argmax(example["loss_mask"])) for example in examples])
    batch = {"video": video, "query": query, "query_mask": mask, "length": lengths}
    batch["tokens"] = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, prompts.pad_id)
    batch = jax.tree.map(jnp.asarray, batch)
    module, arrays = take_apart(grounder)
    answers = answer_greedily(module, grammar.max_length, Grammar.of(grammar), prompts.prefix, arrays, batch)
    for row, sentence in enumerate(SENTENCES):
        texts = (torch.tensor(x[row]).expand(windows, *x[row].shape) for x in (query, mask))
        vectors = double.adapter(torch.tensor(video[row]), *texts).detach()
        end = int(np.nonzero(examples[row]["loss_mask"])[0].max()) + 1
        theirs = double.logits(prompts.prefix, vectors, tokens[row, : end - 1])
        np.testing.assert_allclose(ours[row, :end], theirs, atol=TOLERANCE, rtol=0)
        question = prompts.encode_question(sentence, "group")
        assert double.answer(prompts.prefix, vectors, question, grammar)[0] == tuple(np.asarray(answers[row]))
    assert np.abs(ours).max() > 1
