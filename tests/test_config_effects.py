"""No silent knob: every field of the config, changed, changes something that can be observed, or raises.

`CHANGES` says for every field what is changed and where the effect shows. An observation goes through the code
that a run goes through, from the config on. The default is observed once, each field on its own.
"""

import functools
import re

import fake_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_base
from flax import nnx

from revision_jax import config as configs
from revision_jax import train
from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.batches import streams
from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.evaluation import methods
from revision_jax.models.adapter import SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs import grounder as parts
from revision_jax.runs import splits as datasets
from revision_jax.runs.grounder import load_grounder, make_prompt_encoder
from revision_jax.runs.splits import check_files, prepare_data
from revision_jax.runs.tasks import dense_windows, make_task
from revision_jax.search.sentences import Sentences
from revision_jax.training import loop
from revision_jax.training.state import take_apart

RAISES = "raises"
# field -> (how it is observed, the changes). RAISES: the change must be refused, by a message naming the field.
CHANGES = {
    "seed": ("model", {"seed": 1}),
    "stage": (RAISES, {"stage": "sparse"}),  # has its own data, and a predecessor
    "init.dense": (RAISES, {"init.dense": "runs/other"}),  # there is no such run
    "init.sparse": (RAISES, {"init.sparse": "runs/other"}),
    "base.llm": ("model", {"base.llm": "OTHER/llm"}),
    "base.clip": ("features", {"base.clip": "OTHER/clip"}),
    "base.projector": ("model", {"base.projector": "OTHER/projector.safetensors"}),
    "model.dtype": ("model", {"model.dtype": "bfloat16"}),
    "model.param_dtype": ("model", {"model.param_dtype": "bfloat16"}),
    "model.remat": ("gradient", {"model.remat": "full"}),
    "model.attention": (RAISES, {"model.attention": "cudnn"}),
    "model.window_chunk": ("sparse", {"model.window_chunk": 1}),
    "lora.rank": ("model", {"lora.rank": 4}),
    "lora.alpha": ("model", {"lora.alpha": 8.0}),
    "lora.dropout": ("model", {"lora.dropout": 0.5}),
    "lora.targets": ("model", {"lora.targets": ("q_proj", "v_proj")}),
    "sparse.mlp_width": ("sparse", {"sparse.mlp_width": 24}),
    "sparse.num_heads": ("sparse", {"sparse.num_heads": 3}),
    "sparse.num_layers": ("sparse", {"sparse.num_layers": 1}),
    "sparse.dropout": ("sparse", {"sparse.dropout": 0.5}),
    "hierarchy.window_s": ("batch", {"hierarchy.window_s": 32.0}),
    "hierarchy.num_frames": ("batch", {"hierarchy.num_frames": 12}),
    "hierarchy.stride": ("search", {"hierarchy.stride": 1.0}),
    "hierarchy.upper_stride": ("levels", {"hierarchy.upper_stride": 0.25}),
    "hierarchy.levels": ("levels", {"hierarchy.levels": (8, 4)}),
    "prompt.system": ("model", {"prompt.system": "Find."}),
    "prompt.max_text_tokens": ("batch", {"prompt.max_text_tokens": 56}),
    "prompt.query_tokens": ("groups", {"prompt.query_tokens": 3}),
    "data.name": (RAISES, {"data.name": "mad"}),
    "data.dir": ("features", {"data.dir": "OTHER/data"}),
    "data.fps": ("features", {"data.fps": 0.5}),
    "data.domain": ("features", {"data.domain": "night"}),
    "data.video_s": ("features", {"data.video_s": 100.0}),
    "data.train_videos": ("features", {"data.train_videos": 1}),
    "data.val_videos": ("features", {"data.val_videos": 2}),
    "data.test_videos": ("features", {"data.test_videos": 2}),
    "data.neg_factor": ("batch", {"data.neg_factor": 2.0}),
    "data.near_miss_fraction": ("longer videos", {"data.near_miss_fraction": 0.0}),
    "data.negatives": ("batch", {"data.negatives": (("cross_video", 1.0),)}),
    "data.mined": (RAISES, {"data.mined": "predictions.jsonl"}),
    "data.mixture": (RAISES, {"data.mixture": (("nowhere", 1.0),)}),
    "data.faults": ("faults", {"data.faults": "drop"}),
    "data.questions_per_window": ("batch", {"data.questions_per_window": 2}),
    "data.groups": ("groups", {"data.groups": "videos"}),
    "data.group_copies": ("groups", {"data.group_copies": (1,)}),
    "data.group_near_misses": ("groups", {"data.group_near_misses": 1.0}),
    "data.read_threads": ("reading", {"data.read_threads": 2}),
    "data.prefetch": ("reading", {"data.prefetch": 3}),
    "train.batch_size": ("batch", {"train.batch_size": 2}),
    "train.accumulate": ("steps", {"train.accumulate": 2}),
    "train.steps": ("files", {"train.steps": 6}),
    "train.epochs": ("files", {"train.epochs": 1, "train.steps": 0}),
    "train.learning_rate": ("steps", {"train.learning_rate": 1e-2}),
    "train.warmup_ratio": ("steps", {"train.warmup_ratio": 0.5}),
    "train.weight_decay": ("steps", {"train.weight_decay": 0.5}),
    "train.b1": ("steps", {"train.b1": 0.5}),
    "train.b2": ("steps", {"train.b2": 0.5}),
    "train.eps": ("steps", {"train.eps": 1e-2}),
    "train.clip_norm": ("steps", {"train.clip_norm": 1e-6}),
    "train.log_every": ("files", {"train.log_every": 1}),
    "train.checkpoint_every": ("files", {"train.checkpoint_every": 6}),
    "train.keep_checkpoints": ("files", {"train.keep_checkpoints": 1}),
    "trainable": ("steps", {"trainable": (("llm/layers/.*", 1.0), (".*", "frozen"))}),
    "mesh.data": (RAISES, {"mesh.data": 3}),
    "mesh.fsdp": (RAISES, {"mesh.fsdp": 3}),
    "mesh.tensor": (RAISES, {"mesh.tensor": 3}),
    "search.depth": ("levels", {"search.depth": 0}),
    "search.policy": ("levels", {"search.policy": "bottom_up"}),
    "search.keep": ("levels", {"search.keep": (0.9, 0.2)}),
    "search.readings": ("levels", {"search.readings": 1}),
    "search.rescale": ("levels", {"search.rescale": 0.25}),
    "search.confidence": ("search", {"search.confidence": "inverse_max_entropy"}),
    "search.beam": ("search", {"search.beam": 2}),
    "search.sampling": ("search", {"search.sampling": 0.5}),
    "search.drop_last_frame": ("search", {"search.drop_last_frame": True}),
    "search.windows": ("search", {"search.windows": "released"}),
    "search.ranking": ("ranking", {"search.ranking": "cosine"}),
    "search.top_k": ("search", {"search.top_k": 1}),
    "search.nms_iou": ("search", {"search.nms_iou": 0.0}),
    "search.query_batch": ("search", {"search.query_batch": 2}),
    "search.window_block": ("search", {"search.window_block": 4}),
    "search.decode_block": ("search", {"search.decode_block": 4}),
    "search.question_tokens": ("search", {"search.question_tokens": 40}),
    "eval.split": ("evaluation", {"eval.split": "val"}),
    "eval.before": ("evaluation", {"eval.before": True}),
}
ONE = jax.devices()[:1]


# ------------------------------------------------------------------------------------------- observations
def observe_model(config, place, monkeypatch):
    """Paths, dtypes and arrays of the grounder, and its logits with a LoRA that acts."""
    grounder = load_grounder(config, make_mesh(devices=ONE))
    module, arrays = take_apart(grounder)
    acting = {path: array + 0.1 if path.endswith("lora_b") else array for path, array in arrays.items()}
    prefix = make_prompt_encoder(config).prefix
    video = np.linspace(-1, 1, 4 * 12, dtype=np.float32).reshape(1, 4, 12)
    logits = module.merge(acting)(prefix, video, np.ones((1, 3), np.int32), dropout_key=jax.random.key(0))
    return [(path, str(array.dtype), np.asarray(array).tobytes()) for path, array in arrays.items()], logits.tolist()


def observe_gradient(config, place, monkeypatch):
    """What the backward pass of the model computes again."""
    module, arrays = take_apart(load_grounder(config, make_mesh(devices=ONE)))
    video, tokens = jnp.ones((1, 4, 12)), jnp.ones((1, 3), int)
    loss = lambda arrays: module.merge(arrays)(np.arange(2), video, tokens).sum()
    return str(jax.make_jaxpr(jax.grad(loss))(arrays)).count("remat")


def observe_features(config, place, monkeypatch):
    """Where each split is, and the manifest and queries of it."""
    directories = prepare_data(config)
    files = [directories[split] / name for split in directories for name in ("manifest.json", "queries.jsonl")]
    return [(str(file), file.read_text()) for file in files]


def observe_batch(config, place, monkeypatch):
    """Batches in an epoch, and the first four."""
    task = dense_windows(config, prepare_data(config)["train"], make_mesh(devices=ONE))
    iterator = iter(task.batches)
    batches = [{key: value.tolist() for key, value in next(iterator).items()} for _ in range(4)]
    return task.epoch_batches, batches


def observe_groups(config, place, monkeypatch):
    """Batches in an epoch of the long stage, and the first four."""
    without_predecessors(monkeypatch)
    task = make_task(config, prepare_data(config)["train"], make_mesh(devices=ONE))
    iterator = iter(task.batches)
    return task.epoch_batches, [{key: value.tolist() for key, value in next(iterator).items()} for _ in range(4)]


def observe_sparse(config, place, monkeypatch):
    """The program of the sparse tokens of a group, its parameters, and what it gives."""
    without_predecessors(monkeypatch)
    module, arrays = take_apart(load_grounder(config, make_mesh(devices=ONE)))
    video, query = jnp.linspace(-1, 1, 3 * 4 * 12).reshape(1, 3, 4, 12), jnp.ones((1, 2, 12))
    tokens = lambda arrays: module.merge(arrays).group_tokens(
        video, query, jnp.ones((1, 2), bool), dropout_key=jax.random.key(0)
    )
    return str(jax.make_jaxpr(tokens)(arrays)), tokens(arrays).tolist()


def without_predecessors(monkeypatch):
    """Later stages can be built without the runs that they start from."""
    monkeypatch.setattr(parts, "missing_predecessors", lambda config: [])
    monkeypatch.setattr(parts, "predecessor_prints", lambda config: {})
    monkeypatch.setattr(parts, "trained_before", lambda *_: {})


def observe_faults(config, place, monkeypatch):
    """What becomes of a split with a gap."""
    directory = prepare_data(config)["train"]
    found = datasets.open_split(config, directory, 12)[1]
    with monkeypatch.context() as patch:
        gap = Gap("not finite", "x", found[0].video_id)
        patch.setattr(datasets, "known_gaps", lambda splits, *_: {split: [gap] for split in splits})
        try:
            prepare_data(config)
        except ValueError as error:
            return str(error)
        return [query.query_id for query in datasets.open_split(config, directory, 12)[1]]


def observe_reading(config, place, monkeypatch):
    """What Grain is asked to do."""
    asked, options = [], streams.grain.ReadOptions
    monkeypatch.setattr(streams.grain, "ReadOptions", lambda **o: asked.append(sorted(o.items())) or options(**o))
    dense_windows(config, prepare_data(config)["train"], make_mesh(devices=ONE))
    return asked


def observe_steps(config, place, monkeypatch):
    """Three updates of the stand-in: metrics and what was trained. Not jitted: that would cost most of the time."""
    task, mesh = fake_run.make_task(config), make_mesh(devices=ONE)
    with jax.set_mesh(mesh):
        built, state = loop.build(config, task, mesh)
        step, iterator, seen = built.step_fn.__wrapped__, iter(task.batches), []
        for _ in range(3):
            batch = loop.next_batch(iterator, 1)
            batch.pop("record_id")
            state, metrics = step(state, jax.tree.map(jnp.asarray, batch), built.frozen)
            seen.append({key: float(value) for key, value in metrics.items()})
    return seen, {path: array.tolist() for path, array in state.trainable.items()}


def observe_files(config, place, monkeypatch):
    """The checkpoints that a run of the stand-in leaves, and the steps of each log."""
    logged, fetch = [], loop.fetch
    monkeypatch.setattr(loop, "fetch", lambda pending, _: logged.append(len(pending)) or fetch(pending, _))
    loop.run(config, place / "run", fake_run.make_task(config))
    return logged, sorted(path.name for path in (place / "run/checkpoints").iterdir())


def observe_search(config, place, monkeypatch):
    """The search program of a validation video, and its windows; traced, not run."""
    mesh = make_mesh(devices=ONE)
    split = methods.Split.open(config, prepare_data(config)["val"], "val", 12)
    searcher = methods.make_searcher(config, load_grounder(config, mesh), mesh, split.all_queries)
    seen = []

    def trace(program, plan, parts, video):
        # Addresses of functions in the text differ from run to run.
        seen.append(re.sub("0x[0-9a-f]+", "", str(program.trace(plan, parts, video).jaxpr)))
        seen.extend(np.asarray(leaf).tolist() for leaf in jax.tree.leaves(video))
        raise StopIteration

    monkeypatch.setattr(searcher, "_program", functools.partial(trace, searcher._program))
    for video_id, queries in split.queries.items():
        with pytest.raises(StopIteration):
            methods.search_at(searcher, 1)(split.store, video_id, queries)
    return seen


def observe_ranking(config, place, monkeypatch):
    """The moments of all queries of a validation video, in their order."""
    mesh = make_mesh(devices=ONE)
    split = methods.Split.open(config, prepare_data(config)["val"], "val", 12)
    searcher = methods.make_searcher(config, load_grounder(config, mesh), mesh, split.all_queries)
    video_id, queries = next(iter(split.queries.items()))
    with jax.set_mesh(mesh):
        ask = methods.search_at(searcher, 1, "top_down", datasets.make_extractor(config, mesh))
        predictions, _ = ask(split.store, video_id, queries)
    return [prediction.moments.tolist() for prediction in predictions]


def observe_levels(config, place, monkeypatch):
    """The windows and the plan of a search by default, and through upper levels by either policy."""
    dense = load_grounder(config, make_mesh(devices=ONE))
    adapter = SparseAdapter(12, 16, rngs=nnx.Rngs(0), mlp_width=8, num_heads=2, num_layers=1)
    searcher = methods.make_searcher(config, dense, None, upper=Grounder(dense.llm, sparse=adapter))
    choices = ({}, {"depth": 3}, {"depth": 2, "policy": "bottom_up"}, {"depth": 2, "policy": None})
    video, seen = VideoFeatures(np.zeros((130, 12), np.float16), 130.0, 1.0), []

    def stop(request, plan):
        windows = request.windows
        upper = None if windows.upper is None else len(windows.upper)
        levels = [(level.size, level.readings) for level in plan.levels]
        seen.append((len(windows.dense), upper, str(plan.policy), levels))
        raise StopIteration

    monkeypatch.setattr(searcher, "search_windows", stop)
    for options in choices:
        try:
            searcher.search(video, Sentences(["a red circle"]), **options)
        except StopIteration:
            continue
        except ValueError as error:  # the policy of the settings does not search at the depth of the call
            seen.append(str(error))
    return seen


def observe_evaluation(config, place, monkeypatch):
    """A whole run whose training does nothing and whose answers are empty: what is scored, the files it leaves."""
    unchanged = lambda config, workdir, task, **_: loop.Result(task.model, make_mesh(), 0, 0, 1, 1)
    empty = lambda split: ([methods.Prediction(q.query_id, methods.NOTHING) for q in split.all_queries], methods.Cost())
    monkeypatch.setattr(loop, "run", unchanged)
    monkeypatch.setattr(methods, "answer", lambda split, asks, *_: dict.fromkeys(asks, empty(split)))
    metrics = train.train(config, place)
    return metrics["split"], metrics["before"] is None, sorted(path.name for path in (place / "eval").iterdir())


OBSERVERS = {
    "model": observe_model,
    "gradient": observe_gradient,
    "features": observe_features,
    "batch": observe_batch,
    "longer videos": observe_batch,
    "groups": observe_groups,
    "sparse": observe_sparse,
    "reading": observe_reading,
    "faults": observe_faults,
    "steps": observe_steps,
    "files": observe_files,
    "search": observe_search,
    "ranking": observe_ranking,
    "levels": observe_levels,
    "evaluation": observe_evaluation,
}
STAND_IN = ("steps", "files")  # observed on the stand-in for model and data, the others on tiny real parts


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Tiny parts, and another set of them where a change says OTHER."""
    folder = tmp_path_factory.mktemp("effects")
    return {
        "base": tiny_base.make_base(folder / "base"),
        "OTHER": tiny_base.make_base(folder / "other", seed=9),
        "data": folder / "data",
        "seen": {},
    }


def observe(kind, changes, places, place, monkeypatch):
    known = fake_run.FIELDS if kind in STAND_IN else tiny_base.overrides_of(places["base"], places["data"])
    if kind in ("longer videos", "groups"):  # two minutes hold no near miss that fits a window
        known = known | {"data.video_s": 260.0, "hierarchy.window_s": 24.0}
    if kind == "groups":
        known = known | {"stage": "long", "data.questions_per_window": 1, "train.batch_size": 2, "data.train_videos": 6}
        known = known | {"hierarchy.levels": (5, 4)}
    if kind == "sparse":
        known = known | {"stage": "sparse", "data.questions_per_window": 1, "sparse.mlp_width": 16}
    point = lambda value: value.replace("OTHER", str(places["OTHER"])) if isinstance(value, str) else value
    config = configs.load(overrides=known | {key: point(value) for key, value in changes.items()})
    with monkeypatch.context() as patch:
        return OBSERVERS[kind](config, place, patch)


def test_every_field_is_in_the_table():
    assert set(CHANGES) == set(configs.flatten(configs.load()))


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_has_an_effect_or_raises(field, places, tmp_path, monkeypatch):
    kind, changes = CHANGES[field]
    assert field in changes
    if kind == RAISES:
        with pytest.raises(ValueError, match=field.rpartition(".")[2]):
            run_up_to_the_step(changes, places)
        return
    if kind not in places["seen"]:
        places["seen"][kind] = observe(kind, {}, places, tmp_path / "default", monkeypatch)
        # The default observed again is the same, or any change would seem to act.
        assert observe(kind, {}, places, tmp_path / "again", monkeypatch) == places["seen"][kind]
    assert observe(kind, changes, places, tmp_path / "changed", monkeypatch) != places["seen"][kind]


def run_up_to_the_step(changes, places):
    """What a run checks before its first step."""
    config = tiny_base.config_of(places["base"], places["data"], **changes)
    mesh = make_mesh(**config.mesh)
    check_files(config)
    module, arrays = take_apart(load_grounder(config, mesh))
    jax.eval_shape(lambda: module.merge(arrays)(np.arange(2), jnp.ones((1, 4, 12)), jnp.ones((1, 3), int)))


@pytest.mark.parametrize("file", ["stage1", "stage1_sparse", "stage2", "align"])
def test_presets_of_all_stages_have_the_same_fields(file):
    for preset in configs.presets(f"configs/{file}.py"):
        assert set(configs.flatten(configs.load(f"configs/{file}.py:{preset}"))) == set(CHANGES), preset
