"""A run out: as PyTorch's formats, or as a bundle that needs nothing beside itself."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from revision_jax import __version__
from revision_jax.config import ConfigError, resolve_path
from revision_jax.files import read_json
from revision_jax.fingerprints import fingerprint_trained
from revision_jax.interop.check import Comparison
from revision_jax.interop.output import MANIFEST, check_free, output_folder, write_json
from revision_jax.interop.weights import Weights, weights_dtype
from revision_jax.report.model_card import model_card
from revision_jax.runs.bundle import check_bundle, write_bundle
from revision_jax.runs.formats import ADAPTER_FILES, WRITERS, check_folder
from revision_jax.runs.parts import RunParts, restore_parts
from revision_jax.runs.predecessors import served_step
from revision_jax.runs.run import Run
from revision_jax.units import GIB

BUNDLE = "bundle"
log = logging.getLogger(__name__)


def export(
    workdir: str | Path, out: str | Path, form: str, *, dtype: str = "", shard_gib: float = 0.0, check: bool = True
) -> dict[str, Any]:
    """Writes the checkpoint that a run is used with into the new folder `out`; returns what its manifest.json holds.

    Args:
      form: `bundle`, or a key of `formats.WRITERS`.
      dtype: of the weights; default the base LLM's own for `huggingface`, float32 for the others.
      shard_gib: largest weight file of `huggingface`, in GiB; 0 takes 1.
      check: read back and compare; without it, the manifest says that nothing was checked.

    Raises:
      ConfigError, CheckpointError: no such run, or its parts changed; an option that a format cannot honour.
      CheckError: what was written computes something else.
    """
    check_free(out)
    run = Run.load(workdir, {"mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": 1}, devices=jax.devices()[:1])
    if form == BUNDLE:
        return _export_bundle(run, Path(out), dtype, shard_gib, check)
    if shard_gib and form != "huggingface":
        raise ConfigError(f"--shard-gib has no effect with --format {form}: only huggingface writes shards")
    parts = restore_parts(run.config, run.workdir, run.mesh)
    if form == "peft" and parts.lora is None:
        raise ConfigError(f"{workdir} is a run of stage {run.stage.name!r}, which has no LoRA to export")
    if not dtype:
        base = Weights(resolve_path(run.config.base.llm))
        dtype = weights_dtype(base).name if form == "huggingface" else "float32"
    identity = _identity(run, form, parts.step) | {"dtype": dtype, "shard_gib": shard_gib or 1.0}
    identity["lora"] = parts.lora is not None
    with output_folder(out, identity) as folder:
        WRITERS[form](run.config, parts, folder, jnp.dtype(dtype), int(identity["shard_gib"] * GIB))
        found = _compare(run, parts, folder, form, jnp.dtype(dtype)) if check else {}
        manifest = identity | {"check": {level: comparison.as_dict() for level, comparison in found.items()} or None}
        if form == "huggingface":
            adapters = [f"`{name}`" for name in ADAPTER_FILES.values() if (folder / name).is_file()]
            card = model_card(run.config, manifest, read_json(run.workdir / "eval" / "metrics.json"), adapters)
            (folder / "README.md").write_text(card, encoding="utf-8")
        write_json(folder / MANIFEST, manifest)
    return manifest


def _identity(run: Run, form: str, step: int) -> dict[str, Any]:
    """What an export is of."""
    log.info("hashes the sources")  # of 13 GB at 7B: a minute
    return {
        "made_by": f"revision_jax {__version__}",
        "format": form,
        "stage": run.stage.name,
        "run": {
            "path": str(run.workdir),
            "step": step,
            "sha256": fingerprint_trained(run.workdir / "checkpoints", step),
        },
        "base": run.fingerprints,
    }


def _compare(run: Run, parts: RunParts, folder: Path, form: str, dtype: Any) -> Mapping[str, Comparison]:
    log.info("reads back what was written, and compares it")
    found = check_folder(run.config, parts, folder, form, dtype)
    for level, comparison in found.items():
        log.info("check, %s level: %s", level, comparison)
    return found


def _export_bundle(run: Run, out: Path, dtype: str, shard_gib: float, check: bool) -> dict[str, Any]:
    given = {"--dtype": dtype, "--shard-gib": shard_gib, "--no-check": not check}
    refused = [flag for flag, value in given.items() if value]
    if refused:
        raise ConfigError(f"{', '.join(refused)} has no effect with --format {BUNDLE}: its files are copies")
    run.check_answers()
    identity = _identity(run, BUNDLE, served_step(run.config, run.workdir))
    with output_folder(out, identity) as folder:
        write_bundle(run.config, run.workdir, folder)
        manifest = identity | {"check": check_bundle(run, folder)}
        write_json(folder / MANIFEST, manifest)
    return manifest
