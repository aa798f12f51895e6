"""No silent knob: every field of the config, changed, changes something that can be observed, or raises.

`CHANGES` says for every field what is changed and where the effect shows. What is observed is what a verb makes of the
config: the grounder, data, batches and searches of its `Run`, a training, a whole run. The default is observed once.
"""

import contextlib
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fake_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_base

from revision_jax import config as configs
from revision_jax import train
from revision_jax.checkpoint import Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.data.batches import streams
from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.runs.run import Run
from revision_jax.runs.splits import SPLITS
from revision_jax.runs.training import make_task
from revision_jax.training import loop
from revision_jax.training.state import split_by_table, take_apart

RAISES = "raises"
NAMED = {"model.attention": "attention backend 'cudnn' cannot run here"}  # how its message names a field, if not so
# field -> (how it is observed, the changes). RAISES: `train` must refuse the change, by a message naming the field.
CHANGES = {
    "seed": ("model", {"seed": 1}),
    "track": (RAISES, {"track": "wandb"}),  # not among what the tests install
    "stage": (RAISES, {"stage": "sparse"}),  # has its own data, and a predecessor
    "init.dense": (RAISES, {"init.dense": "runs/other"}),  # there is no such run
    "init.sparse": (RAISES, {"init.sparse": "runs/other"}),
    "base.llm": ("model", {"base.llm": "OTHER/llm"}),
    "base.encoder": ("features", {"base.encoder": "OTHER/clip"}),
    "base.projector": ("model", {"base.projector": "OTHER/projector.safetensors"}),
    "model.dtype": ("model", {"model.dtype": "bfloat16"}),
    "model.param_dtype": ("model", {"model.param_dtype": "bfloat16"}),
    "model.remat": ("gradient", {"model.remat": "full"}),
    "model.attention": (RAISES, {"model.attention": "cudnn"}),
    "model.unroll": ("gradient", {"model.unroll": 1}),
    "model.window_chunk": ("sparse", {"model.window_chunk": 1}),
    "model.layout": (RAISES, {"model.layout": "llm_width"}),  # of variant U alone: runs/test_layouts.py
    "model.visual_norm": (RAISES, {"model.visual_norm": True}),
    "lora.rank": ("model", {"lora.rank": 4}),
    "lora.alpha": ("model", {"lora.alpha": 8.0}),
    "lora.dropout": ("model", {"lora.dropout": 0.5}),
    "lora.targets": ("model", {"lora.targets": ("q_proj", "v_proj")}),
    "sparse.mlp_width": ("sparse", {"sparse.mlp_width": 24}),
    "sparse.num_heads": ("sparse", {"sparse.num_heads": 4}),
    "sparse.num_layers": ("sparse", {"sparse.num_layers": 1}),
    "sparse.dropout": ("sparse", {"sparse.dropout": 0.5}),
    "sparse.precision": ("sparse", {"sparse.precision": "highest"}),
    "hierarchy.window_s": ("batch", {"hierarchy.window_s": 32.0}),
    "hierarchy.num_frames": ("batch", {"hierarchy.num_frames": 12}),
    "hierarchy.stride": ("search", {"hierarchy.stride": 1.0}),
    "hierarchy.upper_stride": ("upper program", {"hierarchy.upper_stride": 0.25}),
    "hierarchy.levels": ("groups", {"hierarchy.levels": (6, 4)}),
    "prompt.system": ("model", {"prompt.system": "Find."}),
    "prompt.max_text_tokens": ("batch", {"prompt.max_text_tokens": 56}),
    "prompt.query_tokens": ("presence", {"prompt.query_tokens": 3}),
    "data.name": (RAISES, {"data.name": "mad"}),
    "data.dir": ("features", {"data.dir": "OTHER/data"}),
    "data.fps": ("features", {"data.fps": 0.5}),
    "data.domain": ("features", {"data.domain": "night"}),
    "data.video_s": ("features", {"data.video_s": 100.0}),
    "data.train_videos": ("features", {"data.train_videos": 1}),
    "data.val_videos": ("features", {"data.val_videos": 2}),
    "data.test_videos": ("features", {"data.test_videos": 2}),
    "data.neg_factor": ("batch", {"data.neg_factor": 2.0}),
    "data.near_miss_fraction": ("batch", {"data.near_miss_fraction": 0.0}),
    "data.negatives": ("batch", {"data.negatives": (("cross_video", 1.0),)}),
    "data.mined": (RAISES, {"data.mined": "predictions.jsonl"}),
    "data.mixture": (RAISES, {"data.mixture": (("nowhere", 1.0),)}),
    "data.faults": ("faults", {"data.faults": "drop"}),
    "data.questions_per_window": ("batch", {"data.questions_per_window": 2}),
    "data.occurrences": ("occurrences", {"data.occurrences": "shared"}),
    "data.groups": ("groups", {"data.groups": "videos"}),
    "data.group_copies": ("groups", {"data.group_copies": (1,)}),
    "data.group_near_misses": ("groups", {"data.group_near_misses": 1.0}),
    "data.read_threads": ("reading", {"data.read_threads": 2}),
    "data.prefetch": ("reading", {"data.prefetch": 3}),
    "train.batch_size": ("batch", {"train.batch_size": 4}),
    "train.group_batch_size": (RAISES, {"train.group_batch_size": 8}),  # of variant U alone: runs/test_layouts.py
    "train.accumulate": ("training", {"train.accumulate": 2}),
    "train.steps": ("training", {"train.steps": 6}),
    "train.epochs": ("training", {"train.epochs": 1, "train.steps": 0}),
    "train.learning_rate": ("training", {"train.learning_rate": 1e-2}),
    "train.warmup_ratio": ("training", {"train.warmup_ratio": 0.5}),
    "train.weight_decay": ("training", {"train.weight_decay": 0.5}),
    "train.b1": ("training", {"train.b1": 0.5}),
    "train.b2": ("training", {"train.b2": 0.5}),
    "train.eps": ("training", {"train.eps": 1e-2}),
    "train.clip_norm": ("training", {"train.clip_norm": 1e-6}),
    "train.skip_nonfinite": ("non-finite", {"train.skip_nonfinite": 3}),
    "train.log_every": ("training", {"train.log_every": 1}),
    "train.checkpoint_every": ("training", {"train.checkpoint_every": 6}),
    "train.keep_checkpoints": ("training", {"train.keep_checkpoints": 1}),
    "train.eval_every": ("run", {"train.eval_every": 4}),
    "train.keep_best": ("run", {"train.keep_best": True}),
    "trainable": ("training", {"trainable": (("llm/layers/.*", 1.0), (".*", "frozen"))}),
    "mesh.data": (RAISES, {"mesh.data": 3}),
    "mesh.fsdp": (RAISES, {"mesh.fsdp": 3}),
    "mesh.tensor": (RAISES, {"mesh.tensor": 3}),
    "search.depth": ("search", {"search.depth": 0}),
    "search.policy": ("upper program", {"search.policy": "top_down"}),
    "search.keep": ("recursion", {"search.keep": (0.9, 0.2)}),
    "search.least": ("counts", {"search.least": 5}),
    "search.shortlist": ("counts", {"search.shortlist": 0.5}),
    "search.readings": ("upper program", {"search.readings": 1}),
    "search.rescale": ("upper program", {"search.rescale": 0.25}),
    "search.similarity": ("search", {"search.similarity": 0.0}),
    "search.alone": ("program", {"search.alone": 1.0}),
    "search.verify": ("upper program", {"search.verify": 0.0}),
    "search.confidence": ("search", {"search.confidence": "inverse_max_entropy"}),
    "search.beam": ("program", {"search.beam": 2}),
    "search.sampling": ("program", {"search.sampling": 0.5}),
    "search.drop_last_frame": ("program", {"search.drop_last_frame": True}),
    "search.windows": ("search", {"search.windows": "released"}),
    "search.ranking": ("entropy", {"search.ranking": "cosine"}),
    "search.top_k": ("program", {"search.top_k": 1}),
    "search.nms_iou": ("program", {"search.nms_iou": 0.0}),
    "search.query_batch": ("program", {"search.query_batch": 2}),
    "search.window_block": ("program", {"search.window_block": 4}),
    "search.decode_block": ("program", {"search.decode_block": 4}),
    "search.question_tokens": ("program", {"search.question_tokens": 40}),
    "eval.split": ("run", {"eval.split": "val"}),
    "eval.before": ("run", {"eval.before": True}),
    "eval.after_training": ("run", {"eval.after_training": False}),
    "eval.max_rows": ("run", {"eval.max_rows": 3}),
}
SENTENCES = ["a red circle moves to the left", "a blue star spins"]


# ------------------------------------------------------------------------------------------- observations
def observe_model(config, place, made):
    """Paths, dtypes and arrays of the grounder, and its logits with a LoRA that acts."""
    run = Run(config)
    module, arrays = take_apart(run.grounder("fresh"))
    acting = {path: array + 0.1 if path.endswith("lora_b") else array for path, array in arrays.items()}
    video = np.linspace(-1, 1, 4 * 16, dtype=np.float32).reshape(1, 4, 16)
    tokens = np.ones((1, 3), np.int32)
    logits = module.merge(acting)(run.prompts.prefix, video, tokens, dropout_key=jax.random.key(0))
    return [(path, str(array.dtype), np.asarray(array).tobytes()) for path, array in arrays.items()], logits.tolist()


def observe_gradient(config, place, made):
    """What the backward pass of the model computes again, and how many layers a turn of its loop has."""
    module, arrays = take_apart(Run(config).grounder("fresh"))
    video, tokens = jnp.ones((1, 4, 16)), jnp.ones((1, 3), int)
    loss = lambda arrays: module.merge(arrays)(np.arange(2), video, tokens).sum()
    program = str(jax.make_jaxpr(jax.grad(loss))(arrays))
    return program.count("remat"), re.findall(r"unroll=\d+", program)


def observe_sparse(config, place, made):
    """The program of the sparse tokens of a group, its parameters, and what it gives."""
    module, arrays = take_apart(Run(config).grounder("fresh"))
    video, query = jnp.linspace(-1, 1, 3 * 4 * 16).reshape(1, 3, 4, 16), jnp.ones((1, 2, 16))
    tokens = lambda arrays: module.merge(arrays).group_tokens(
        video, query, jnp.ones((1, 2), bool), dropout_key=jax.random.key(0)
    )
    return str(jax.make_jaxpr(tokens)(arrays)), tokens(arrays).tolist()


def observe_features(config, place, made):
    """Where each split is, and the manifest and queries of it."""
    directories = Run(config).directories(SPLITS)
    files = [directories[split] / name for split in directories for name in ("manifest.json", "queries.jsonl")]
    return [(str(file), file.read_text()) for file in files]


def observe_batches(config, place, made):
    """Batches in an epoch of the stage, and the first four."""
    run = Run(config)
    task = make_task(run, run.directories(["train"]))
    iterator = iter(task.batches)
    return task.epoch_batches, [{key: value.tolist() for key, value in next(iterator).items()} for _ in range(4)]


def observe_reading(config, place, made):
    """What Grain is asked to do."""
    asked, options = [], streams.grain.ReadOptions
    run = Run(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.grain, "ReadOptions", lambda **o: asked.append(sorted(o.items())) or options(**o))
        make_task(run, run.directories(["train"]))
    return asked


def observe_faults(config, place, made):
    """What becomes of a split with a query that lies outside its video."""
    for split, directory in Run(config).directories(SPLITS).items():
        shutil.copytree(directory, place / split)
    file = place / "train/queries.jsonl"
    first = json.loads(file.read_text().splitlines()[0])
    file.write_text(file.read_text() + json.dumps(first | {"query_id": "late", "moments": [[5000, 5001]]}) + "\n")
    run = Run(configs.finish(config, {"data.name": "folder", "data.dir": str(place)}))
    try:
        return sorted(query.query_id for query in run.split("train").all_queries)
    except ValueError as error:
        return str(error).replace(str(place), "")


def observe_occurrences(config, place, made):
    """Batches in an epoch where one event happens twice in a window, however that is placed."""
    for split, directory in Run(config).directories(SPLITS).items():
        shutil.copytree(directory, place / split)
    file = place / "train/queries.jsonl"
    first = json.loads(file.read_text().splitlines()[0])
    file.write_text(file.read_text() + json.dumps(first | {"query_id": "twice", "moments": [[9, 10], [11, 12]]}) + "\n")
    run = Run(configs.finish(config, {"data.name": "folder", "data.dir": str(place)}))
    return make_task(run, run.directories(["train"])).epoch_batches


def observe_nonfinite(config, place, made):
    """What is told of two steps without a loss."""
    pending = [(step, [step], {"loss": np.nan, "grad_norm": np.nan, "skipped": np.float32(step)}) for step in (1, 2)]
    return loop.fetch(pending, str, config.train.skip_nonfinite)


def observe_training(config, place, made):
    """A run of the stand-in for model and data: what it prints, logs, keeps and has learned."""
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        result = loop.run(config, place / "run", fake_run.make_task(config))
    steps = [line.partition("  ")[0] for line in printed.getvalue().splitlines()]
    kept = sorted(path.name for path in (place / "run/checkpoints").iterdir())
    return steps, kept, (place / "run/metrics.jsonl").read_text(), _bytes(result.model)


def observe_run(config, place, made):
    """A whole run of the align stage: its log, checkpoints, weights, and the metrics of its evaluation."""
    metrics = train.train(config, place / "run")
    for name in ("measured", "compilations"):
        metrics.pop(name, None)
    kept = sorted(path.name for path in (place / "run/checkpoints").iterdir())
    trained = Run(config, place / "run").grounder("trained")
    return metrics, kept, (place / "run/metrics.jsonl").read_text(), _bytes(trained)


def _changed(config, made):
    """The trained model of a stage under a config that may differ: a verb would refuse it beside that checkpoint."""
    trained = Run.load(made / config.stage).grounder("trained")
    return Run(config, made / config.stage, made={"trained": trained})


def observe_search(config, place, made):
    """What a search of a validation video finds, and what it cost."""
    run = _changed(config, made)
    searched = run.search(_video(run), SENTENCES)
    results = [
        (result.moments.tolist(), result.tokens, [windows.tolist() for windows in result.sent])
        for result in searched.results
    ]
    return results, dataclasses.replace(searched.cost, seconds=0.0)


def observe_program(config, place, made):
    """The program of such a search, not run, and what it needs of a device."""
    run = _changed(config, made)
    sentences = run.sentences(SENTENCES, config.search.depth, config.search.policy)
    traced, need = run.searcher().trace(_video(run), sentences)
    return traced.lower().as_text(), need


def observe_counts(config, place, made):
    """How many windows each level is shown and the dense one is asked, as the program gets it."""
    run = _changed(config, made)
    sentences = run.sentences(SENTENCES, config.search.depth, config.search.policy)
    return [part.video.counts.tolist() for part in run.searcher().packed(_video(run), sentences)]


def _video(run):
    split = run.split("val")
    [video_id] = split.queries
    video = split.store.manifest.videos[video_id]
    return VideoFeatures(split.store.read_all(video_id), video.duration_s, split.store.manifest.fps)


def _bytes(model):
    return {path: np.asarray(array).tobytes() for path, array in take_apart(model)[1].items()}


class Kind(NamedTuple):
    """How fields are observed: the function, and the config that they are changed in."""

    observe: Callable[[Any, Path, Path], Any]
    spec: str = "configs/stage1.py"
    fields: dict = {}


RECURSION = {"search.depth": 2, "search.policy": "top_down_rescaled", "search.least": 1}
# All parameters are trained, faster and faster: the run is better at step 2 than at its last step.
RUN = {"train.learning_rate": 1.0, "train.warmup_ratio": 0.9, "trainable": ((".*", 1.0),), "train.keep_checkpoints": 1}
RUN |= {"train.eval_every": 2, "eval.max_rows": 8}
KINDS = {
    "model": Kind(observe_model),
    "gradient": Kind(observe_gradient),
    "features": Kind(observe_features, fields={"data.video_s": 130.0}),
    "batch": Kind(observe_batches),
    "presence": Kind(observe_batches, "configs/stage1_sparse.py"),
    "groups": Kind(observe_batches, "configs/stage2.py", {"data.train_videos": 6}),
    "sparse": Kind(observe_sparse, "configs/stage1_sparse.py"),
    "reading": Kind(observe_reading),
    "non-finite": Kind(observe_nonfinite),
    "faults": Kind(observe_faults, fields={"data.video_s": 130.0}),
    "occurrences": Kind(observe_occurrences, fields={"train.batch_size": 1}),
    "training": Kind(observe_training),
    "run": Kind(observe_run, "configs/align.py", RUN),
    "search": Kind(observe_search),
    "entropy": Kind(observe_search, fields={"search.similarity": 0.0, "search.alone": 1.0}),
    "program": Kind(observe_program),
    "recursion": Kind(observe_search, "configs/stage2.py", RECURSION),
    "upper program": Kind(observe_program, "configs/stage2.py", RECURSION),
    "counts": Kind(observe_counts, "configs/stage2.py", RECURSION | {"search.policy": "cascade"}),
}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Programs run once here: that they run fast does not matter."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `base/`, another one at `other/base`, `data/`, and the runs `dense/`, `sparse/` and `long/`."""
    folder = tmp_path_factory.mktemp("effects")
    tiny_base.make_base(folder / "base", width=16)
    tiny_base.make_base(folder / "other/base", width=16, seed=9)
    for spec in ("stage1", "stage1_sparse", "stage2"):
        config = config_of(folder, f"configs/{spec}.py")
        leave_run(config, folder / config.stage)
    return folder


def leave_run(config, workdir):
    """A run with weights that were drawn at random."""
    run = Run(config)
    trainable, _, _ = split_by_table(take_apart(run.grounder("fresh"))[1], config.trainable)
    rng = np.random.default_rng(0)
    drawn = {path: array + 0.3 * rng.normal(size=array.shape).astype("float32") for path, array in trainable.items()}
    workdir.mkdir()
    configs.save_json(config, workdir / "config.json")
    with Checkpoints(workdir / "checkpoints", Meta(config.to_dict(), run.fingerprints)) as checkpoints:
        checkpoints.save_weights(1, drawn)


def config_of(made, spec, fields=(), changes=()):
    """Windows and videos that near misses fit into, which two minutes of Shapes do not hold."""
    longer = {"data.video_s": 260.0, "hierarchy.window_s": 24.0}
    point = lambda value: value.replace("OTHER", str(made / "other/base")) if isinstance(value, str) else value
    values = longer | dict(fields) | {key: point(value) for key, value in dict(changes).items()}
    return tiny_base.chain_config(spec, made, **{key.replace(".", "__"): value for key, value in values.items()})


@pytest.fixture(scope="module")
def seen(made, tmp_path_factory):
    """Kind -> what is observed of the default, twice the same, or any change would seem to act."""
    found = {}

    def default(kind):
        if kind not in found:
            observed = [observe(kind, {}, made, tmp_path_factory.mktemp("default")) for _ in range(2)]
            assert observed[0] == observed[1]
            found[kind] = observed[0]
        return found[kind]

    return default


def observe(name, changes, made, place):
    kind = KINDS[name]
    if name == "training":
        return kind.observe(configs.load(overrides=fake_run.FIELDS | changes), place, made)
    return kind.observe(config_of(made, kind.spec, kind.fields, changes), place, made)


def test_every_field_is_in_the_table():
    assert set(CHANGES) == set(configs.flatten(configs.load()))


@pytest.mark.parametrize("field", [field for field, (kind, _) in CHANGES.items() if kind != RAISES])
def test_a_change_has_an_effect(field, made, seen, tmp_path):
    kind, changes = CHANGES[field]
    assert set(changes) >= {field}
    assert observe(kind, changes, made, tmp_path) != seen(kind)


@pytest.mark.parametrize("field", [field for field, (kind, _) in CHANGES.items() if kind == RAISES])
def test_a_change_is_refused(field, made, tmp_path, capsys):
    _, changes = CHANGES[field]
    sound = configs.flatten(config_of(made, "configs/stage1.py"))
    flags = [f"--config.{key}={value}" for key, value in (sound | changes).items()]
    assert train.main([*flags, "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and NAMED.get(field, field) in error


@pytest.mark.parametrize("file", ["stage1", "stage1_sparse", "stage2", "align"])
def test_presets_of_all_stages_have_the_same_fields(file):
    for preset in configs.presets(f"configs/{file}.py"):
        assert set(configs.flatten(configs.load(f"configs/{file}.py:{preset}"))) == set(CHANGES), preset
