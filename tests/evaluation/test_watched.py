"""What a run's trackers show of its evaluation."""

import io
import sys

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from read_events import read_events

from revision_jax.evaluation.evaluator import Evaluation
from revision_jax.evaluation.options import DEFAULT
from revision_jax.evaluation.watched import watch
from revision_jax.runs.run import Run


def test_tensorboard_has_scores_answers_and_timelines(trained_run):
    found = {value.tag: (step, value) for step, value in read_events(trained_run.workdir) if value.tag[:4] == "eval"}
    assert {step for step, _ in found.values()} == {trained_run.config.train.steps}
    recall = trained_run.metrics["methods"]["depth1"]["recall"]["mad"]
    for name, percent in recall.items():
        tag = f"eval/test/depth1/{name}".replace("@", "_")  # tensorboardX's rule for tags
        np.testing.assert_allclose(found[tag][1].simple_value, percent, rtol=1e-6)
    text = next(value for tag, (_, value) in found.items() if tag.startswith("eval/test/answers"))
    told = text.tensor.string_val[0].decode()
    assert "| query | truth | first answer (confidence) | outcome |" in told and told.count("\n") >= 5
    picture = Image.open(io.BytesIO(found["eval/test/timelines"][1].image.encoded_image_string))
    assert picture.size == Image.open(trained_run.workdir / "eval/timelines.png").size


def test_an_evaluation_where_wandb_is_missing_goes_on_and_says_so(trained_run, monkeypatch, caplog, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = ConfigDict(trained_run.config.to_dict() | {"track": "wandb"})
    run = Run(config, tmp_path)
    watch(Evaluation(run, DEFAULT, "test", {}, {}), 0, trained_run.metrics, [])
    assert "written to TensorBoard's events alone: track is 'wandb', and that package is not installed" in caplog.text
    tags = [value.tag for _, value in read_events(tmp_path)]
    assert "eval/test/depth1/R1_0.3" in tags
