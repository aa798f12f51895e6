"""The table of stages: what it says of each, and what a config of a stage cannot have."""

import pytest

from revision_jax import config as configs
from revision_jax.config import ConfigError
from revision_jax.evaluation.evaluate import EVALUATORS, evaluators_of
from revision_jax.runs.run import Run
from revision_jax.runs.stage import STAGES, check_stage, makers, stage_of


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_row_agrees_with_the_stages_own_config(stage):
    config = configs.load(stage.config)
    assert config.stage == stage.name and stage_of(config) == stage
    check_stage(config)
    assert set(stage.needs) == {name for name, path in config.init.items() if path}
    assert all(makers(name) for name in stage.needs + stage.may)
    assert set(stage.evaluators) <= set(EVALUATORS) and evaluators_of(Run(config))
    # What it trains by its table is what a later stage takes over as `init.<serves>`.
    trained = [pattern for pattern, multiplier in config.trainable if multiplier != "frozen"]
    part = {"dense": "lora", "sparse": "sparse", "": ""}[stage.serves]
    assert trained and all(part in pattern for pattern in trained)


@pytest.mark.parametrize("spec", [f"configs/{file}.py" for file in ("align", "stage1", "stage1_sparse", "stage2")])
def test_every_preset_is_one_that_its_stage_can_have(spec):
    for preset in configs.presets(spec):
        check_stage(configs.load(f"{spec}:{preset}"))


def test_the_usual_maker_comes_first():
    assert [stage.name for stage in makers("dense")] == ["dense", "unified"]
    assert [stage.name for stage in makers("sparse")] == ["sparse"]


def test_the_longest_sequence_of_video_tokens():
    tokens = {stage.name: stage.video_tokens(configs.load(stage.config)) for stage in STAGES.values()}
    assert tokens == {"align": 1, "dense": 64, "sparse": 1, "long": 48, "unified": 64}


def test_an_unknown_stage_lists_the_known():
    with pytest.raises(ConfigError, match="stage is 'last'; expected one of align, dense, sparse, long, unified"):
        Run(configs.load(overrides=["stage=last"]))


@pytest.mark.parametrize(
    "spec, override, message",
    [
        ("align", "init.dense=runs/x", "init.dense is 'runs/x'; expected nothing: stage 'align' does not start"),
        ("stage1_sparse", "init.sparse=runs/x", "init.sparse is 'runs/x'; expected nothing"),
        ("stage2", "data.questions_per_window=4", "data.questions_per_window is 4; expected 1: in stage 'long'"),
        ("stage2", "data.negatives=(('cross_video', 1.0),)", "expected no cross_video: a group shows one video"),
        (
            "stage2",
            "train.group_batch_size=4",
            "train.group_batch_size is 4; expected 0: stage 'long' has batches of one",
        ),
        ("stage2:unified_clip_adapter", "base.projector=x", "base.projector is 'x'; expected '': with model.layout"),
        ("align", "data.name=mad", "data.name is 'mad'; expected one of shapes, lcs, which have captions"),
        ("align:paper", "train.eval_every=100", "train.eval_every is 100; expected 0: data.name 'lcs' has no val"),
        ("stage1", "data.name=lcs", "data.name is 'lcs'; expected videos with queries, in stage 'dense'"),
    ],
)
def test_what_a_stage_cannot_have(spec, override, message):
    file, _, preset = spec.partition(":")
    config = configs.load(f"configs/{file}.py:{preset}", [override])
    with pytest.raises(ConfigError, match=message):
        Run(config)


def test_all_faults_are_told_together():
    changes = ["init.sparse=runs/x", "data.name=lcs"]
    with pytest.raises(ConfigError, match=r"(?s)init.sparse is .*\ndata.name is 'lcs'"):
        Run(configs.load("configs/stage1.py", changes))
    Run(configs.load("configs/stage1.py", ["init.dense=runs/x"]))  # a LoRA to continue
