"""The stages before a stage: found, checked to fit, and what they trained taken over (`init.*`).

A predecessor is a run's work folder, or a directory in PyTorch's formats: a LoRA of PEFT (VTimeLLM's, from which the
paper starts on MAD) or a published stage.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax.checkpoint import Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.config import ConfigError, differences, resolve_path
from revision_jax.fingerprints import fingerprint, fingerprint_trained, finished_steps
from revision_jax.interop.llama import read_llama_config
from revision_jax.interop.lora import CONFIG, is_lora
from revision_jax.interop.stage import NON_LORA, read_stage
from revision_jax.interop.stage import Stage as PublishedStage
from revision_jax.interop.unified import visual_arrays
from revision_jax.models.lora import LoRAConfig
from revision_jax.models.visual import Visual
from revision_jax.runs.stage import has_layouts, makers, stage_of
from revision_jax.training.optimizer import trained_by
from revision_jax.training.state import Arrays
from revision_jax.training.workdir import READ_FREE

# Fields in which a stage must agree with its predecessor, or its parameters mean something else. Dropout may differ.
# The pretrained parts are compared by content: a bundle has its own copies of them.
SHARED = {
    "dense": ("lora.", "hierarchy.window_s", "hierarchy.num_frames", "prompt.system"),
    "sparse": (
        *("lora.", "sparse.", "hierarchy.window_s", "hierarchy.num_frames", "prompt.system"),
        "prompt.query_tokens",
    ),
}
OF_VARIANT_U = ("model.layout", "model.visual_norm")  # the tokens that its LoRA was trained behind
FREE = ("lora.dropout", "sparse.dropout", "sparse.precision")


def predecessors(config: ConfigDict) -> tuple[str, ...]:
    """Names in `init` of what a stage starts from: what it needs, and what it was given beside."""
    stage = stage_of(config)
    return stage.needs + tuple(name for name in stage.may if config.init[name])


def missing_predecessors(config: ConfigDict) -> list[str]:
    """A line for every run that a stage starts from and that is not there, with the command that makes it."""
    missing = []
    for before in predecessors(config):
        workdir = config.init[before]
        folder = resolve_path(workdir)
        if workdir and is_lora(folder):
            continue
        if not workdir or not is_run(folder):
            found = f"no trained run at {folder}" if workdir else "not given"
            missing.append(f"init.{before}: {found}; make it with\n    {command(config, before)}")
    return missing


def command(config: ConfigDict, before: str) -> str:
    """The command that trains what `init.<before>` names."""
    maker = makers(before)[0]
    preset = "" if config.data.name not in configs.presets(maker.config) else f":{config.data.name}"
    words = ["python -m revision_jax.train --config", f"{maker.config}{preset}"]
    for earlier in maker.needs:
        words.append(f"--config.init.{earlier}={config.init[earlier] or 'RUN'}")
    return " ".join([*words, f"--workdir {config.init[before] or 'RUN'}"])


def is_run(folder: Path) -> bool:
    """Whether a folder is the work folder of a run that was trained."""
    return (folder / "config.json").is_file() and bool(finished_steps(folder / "checkpoints"))


def served_step(config: ConfigDict, workdir: Path) -> int:
    """The step whose parameters a run is used with: the newest, or with `train.keep_best` the best on val."""
    with Checkpoints(workdir / "checkpoints", Meta(config.to_dict(), {}), read_only=True) as checkpoints:
        step = checkpoints.best_step() if config.train.keep_best else checkpoints.latest_step
    if step is None:
        raise ConfigError(f"{workdir} holds no checkpoint to be used; train it first.")
    return step


def predecessor_prints(config: ConfigDict) -> dict[str, dict[str, str]]:
    """Role -> work folder and content hash of each run that a stage starts from, for its own checkpoints."""
    folders = {before: resolve_path(config.init[before]) for before in predecessors(config)}
    sha256 = lambda folder: fingerprint(folder) if is_lora(folder) else _trained_sha256(folder)
    return {
        f"init.{before}": {"path": config.init[before], "sha256": sha256(folder)} for before, folder in folders.items()
    }


def _trained_sha256(workdir: Path) -> str:
    """Of the parameters that a run is used with."""
    step = served_step(configs.load_json(workdir / "config.json"), workdir)
    return fingerprint_trained(workdir / "checkpoints", step)


def trained_before(
    config: ConfigDict, before: str, arrays: Mapping[str, jax.Array], base: Mapping[str, Mapping[str, str]]
) -> Arrays:
    """What the run `init.<before>` trained, path -> array, laid out as `arrays`.

    Args:
      arrays: every parameter of this stage's model, or their abstract shapes with shardings.
      base: content hashes of this run's pretrained parts; the predecessor must stand on the same.

    Raises:
      ConfigError: it was trained for another stage, or with other fields that both must share.
      CheckpointError: it stands on other files, or trained other parameters.
    """
    workdir = resolve_path(config.init[before])
    if is_lora(workdir):
        return published_before(config, before, workdir, arrays)
    earlier = configs.load_json(workdir / "config.json")
    if stage_of(earlier).name not in [stage.name for stage in makers(before)]:
        expected = " or ".join(stage.name for stage in makers(before))
        raise ConfigError(
            f"init.{before} is {workdir}, a run of stage {earlier.stage!r}; expected {expected}, "
            f"made with\n    {command(config, before)}"
        )
    fields = SHARED[before] + (OF_VARIANT_U if has_layouts(stage_of(earlier)) else ())
    shared = lambda key: key.startswith(fields) and key not in FREE
    changed = {key: values for key, values in differences(earlier, config).items() if shared(key)}
    if changed:
        listed = "\n".join(f"  {key}: {old!r} there, {new!r} here" for key, (old, new) in changed.items())
        raise ConfigError(
            f"the run {workdir} (init.{before}) does not fit this config:\n{listed}\n"
            f"Give the same values, or another init.{before}."
        )
    expected = {path: arrays[path] for path in trained_by(earlier.trainable, arrays)}
    parts = {role: base[role] for role in earlier.base if role in base}
    meta = Meta(earlier.to_dict(), parts)
    with Checkpoints(workdir / "checkpoints", meta, free=READ_FREE, read_only=True) as checkpoints:
        return checkpoints.restore_params(expected, best=earlier.train.keep_best)[1]


def published_before(config: ConfigDict, before: str, directory: Path, arrays: Mapping[str, jax.Array]) -> Arrays:
    """What a PyTorch directory holds of `init.<before>`, path -> array where `arrays` has it.

    Raises:
      ConfigError: another LoRA than `config.lora`, or no sparse adapter where one is expected.
      ValueError: tensors that do not fit, listed.
    """
    sizes = read_llama_config(resolve_path(config.base.llm))
    stage = read_stage(directory, sizes, **sparse_options(config))
    if before == "dense":
        check_lora(config, stage.lora.config, directory)
        found = {f"llm/{path}": array for path, array in stage.lora.arrays.items()}
        found |= _beside_lora(config, stage, directory, arrays)
    elif stage.visual.sparse is not None:
        found = visual_arrays(Visual(sparse=stage.visual.sparse))
    else:
        raise ConfigError(f"init.{before}: {directory}/{NON_LORA} holds no sparse adapter; expected a sparse stage's")
    wrong = [path for path in found if path not in arrays or found[path].shape != arrays[path].shape]
    if wrong:
        raise ConfigError(f"init.{before}: {directory} has {wrong} in other sizes than this config's model")
    return {path: jax.device_put(array, arrays[path].sharding) for path, array in found.items()}


def _beside_lora(
    config: ConfigDict, stage: PublishedStage, directory: Path, arrays: Mapping[str, jax.Array]
) -> dict[str, np.ndarray]:
    """The norm and the sparse adapter that a directory of variant U trained, path -> array; of other directories none.

    Raises:
      ConfigError: this stage's model does not have them, and its LoRA would see other tokens.
    """
    trained = stage.trained
    if trained is None or (trained.norm is None and not stage.crossed):
        return {}
    found = visual_arrays(Visual(sparse=trained.sparse, norm=trained.norm))
    lacking = sorted({path.split("/")[0] for path in found if path not in arrays})
    if lacking:
        names = {"norm": "alternate_layer_norm", "sparse": "sparse adapter"}
        raise ConfigError(
            f"init.dense: {directory} is of variant U: its LoRA was trained with its "
            f"{' and '.join(names[name] for name in lacking)}, which the model of stage {config.stage!r} with "
            f"model.layout {config.model.layout!r} does not have. Give a dense stage's directory; variant U goes on "
            "from this one by configs/stage2.py:unified_LAYOUT."
        )
    return found


def sparse_options(config: ConfigDict) -> dict[str, Any]:
    """What a sparse adapter's files do not say."""
    return {key: config.sparse[key] for key in ("num_heads", "dropout", "precision")}


def check_lora(config: ConfigDict, lora: LoRAConfig, directory: Path) -> None:
    """Raises ConfigError where a LoRA is not the one that the config describes; dropout may differ."""
    pairs = {
        "lora.rank": (lora.rank, config.lora.rank),
        "lora.alpha": (lora.alpha, config.lora.alpha),
        "lora.targets": (sorted(lora.targets), sorted(config.lora.targets)),
    }
    faults = [f"{key}: {theirs!r} there, {ours!r} here" for key, (theirs, ours) in pairs.items() if theirs != ours]
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise ConfigError(f"the LoRA in {directory}/{CONFIG} does not fit this config:\n{listed}\nGive its values.")
