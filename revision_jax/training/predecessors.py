"""The stages before a stage: found, checked to fit, and what they trained taken over (`init.*`)."""

from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax.checkpoint import Checkpoints, Meta, fingerprint_trained
from revision_jax.config import ConfigError, differences, resolve_path
from revision_jax.config_rules import STAGE_NEEDS
from revision_jax.training.optimizer import trained_by
from revision_jax.training.state import Arrays

# What trains each, and the stages that may have done so.
CONFIGS = {"dense": "configs/stage1.py", "sparse": "configs/stage1_sparse.py"}
STAGES = {"dense": ("dense", "unified"), "sparse": ("sparse",)}
# Fields in which a stage must agree with its predecessor, or its parameters mean something else. Dropout may differ.
SHARED = {
    "dense": ("base.", "lora.", "hierarchy.window_s", "hierarchy.num_frames", "prompt.system"),
    "sparse": (
        *("base.llm", "base.clip", "lora.", "sparse.", "hierarchy.window_s", "hierarchy.num_frames", "prompt.system"),
        "prompt.query_tokens",
    ),
}
FREE = ("lora.dropout", "sparse.dropout")


def missing_predecessors(config: ConfigDict) -> list[str]:
    """A line for every run that a stage starts from and that is not there, with the command that makes it."""
    missing = []
    for before in STAGE_NEEDS[config.stage]:
        workdir = config.init[before]
        folder = resolve_path(workdir)
        if not workdir or not (folder / "config.json").is_file() or not any((folder / "checkpoints").glob("[0-9]*")):
            found = f"no trained run at {folder}" if workdir else "not given"
            missing.append(f"init.{before}: {found}; make it with\n    {command(config, before)}")
    return missing


def command(config: ConfigDict, before: str) -> str:
    """The command that trains what `init.<before>` names."""
    preset = "" if config.data.name not in configs.presets(CONFIGS[before]) else f":{config.data.name}"
    words = ["python -m revision_jax.train --config", f"{CONFIGS[before]}{preset}"]
    for earlier in STAGE_NEEDS[before]:
        words.append(f"--config.init.{earlier}={config.init[earlier] or 'RUN'}")
    return " ".join([*words, f"--workdir {config.init[before] or 'RUN'}"])


def predecessor_prints(config: ConfigDict) -> dict[str, dict[str, str]]:
    """Role -> work folder and content hash of each run that a stage starts from, for its own checkpoints."""
    return {
        f"init.{before}": {
            "path": config.init[before],
            "sha256": fingerprint_trained(resolve_path(config.init[before]) / "checkpoints"),
        }
        for before in STAGE_NEEDS[config.stage]
    }


def trained_before(
    config: ConfigDict, before: str, arrays: Mapping[str, jax.Array], base: Mapping[str, Mapping[str, str]]
) -> Arrays:
    """What the run `init.<before>` trained, path -> array, laid out as `arrays`.

    Args:
      arrays: every parameter of this stage's model.
      base: content hashes of this run's pretrained parts; the predecessor must stand on the same.

    Raises:
      ConfigError: it was trained for another stage, or with other fields that both must share.
      CheckpointError: it stands on other files, or trained other parameters.
    """
    workdir = resolve_path(config.init[before])
    earlier = configs.load_json(workdir / "config.json")
    if earlier.stage not in STAGES[before]:
        raise ConfigError(
            f"init.{before} is {workdir}, a run of stage {earlier.stage!r}; expected {' or '.join(STAGES[before])}, "
            f"made with\n    {command(config, before)}"
        )
    shared = lambda key: key.startswith(SHARED[before]) and key not in FREE
    changed = {key: values for key, values in differences(earlier, config).items() if shared(key)}
    if changed:
        listed = "\n".join(f"  {key}: {old!r} there, {new!r} here" for key, (old, new) in changed.items())
        raise ConfigError(
            f"the run {workdir} (init.{before}) does not fit this config:\n{listed}\n"
            f"Give the same values, or another init.{before}."
        )
    expected = {path: arrays[path] for path in trained_by(earlier.trainable, arrays)}
    parts = {role: base[role] for role in earlier.base if role in base}
    with Checkpoints(workdir / "checkpoints", Meta(earlier.to_dict(), parts), read_only=True) as checkpoints:
        return checkpoints.restore_params(expected)[1]
