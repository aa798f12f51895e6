"""Write a trained run as PyTorch weights: `python -m revision_jax.export --help`."""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

USAGE = """
Formats:
  revisionllm   a stage directory as published: a PEFT LoRA (adapter_config.json, adapter_model.safetensors),
                non_lora_trainables.bin (what was trained beside it) and mm_projector.bin (the frozen adapter)
  huggingface   the LLM with its LoRA merged, as sharded safetensors with config.json and tokenizer; the adapters as
                safetensors; a model card with the run's metrics
  peft          the LoRA alone

Examples:
  python -m revision_jax.export --workdir runs/stage1-tiny --out out/stage1 --format revisionllm
  python -m revision_jax.export --workdir runs/stage1-mad --out out/merged --format huggingface --dtype bfloat16
  python -m revision_jax.export --workdir runs/stage2-mad --out out/lora --format peft

Memory holds one tensor and one shard at a time, never the model; a stopped export goes on with the same command.
In the end what was written is read back, and its logits and answer tokens on a fixed input are compared with the
run's; DIR/manifest.json has the numbers and the hashes of all sources. docs/recipes.md shows how to load each format.
"""
FORMATS = ("revisionllm", "huggingface", "peft")
DTYPES = ("float32", "bfloat16", "float16")
ADAPTER_FILES = {"dense": "mm_projector.safetensors", "sparse": "sparse_adapter.safetensors"}
log = logging.getLogger("revision_jax.export")  # `__name__` is `__main__` for the verb


def export(
    workdir: str | Path, out: str | Path, form: str, *, dtype: str = "", shard_gib: float = 1.0, check: bool = True
) -> dict[str, Any]:
    """Writes a run's newest checkpoint into the new folder `out`; returns what its manifest.json holds.

    Args:
      form: one of FORMATS.
      dtype: of the weights; default the base LLM's own for `huggingface`, float32 for the others.
      shard_gib: largest weight file of `huggingface`, in GiB.
      check: read back and compare; without it, the manifest says that nothing was checked.

    Raises:
      ConfigError, CheckpointError: no such run, or its parts changed.
      CheckError: what was written computes something else.
    """
    # Slow to import, and `--help` must be quick.
    from revision_jax import __version__
    from revision_jax import config as configs
    from revision_jax.checkpoint import fingerprint_trained
    from revision_jax.interop.output import MANIFEST, output_folder, write_json
    from revision_jax.parallel.mesh import make_mesh
    from revision_jax.training.parts import fingerprints
    from revision_jax.training.run_parts import restore_parts

    workdir = Path(workdir)
    config = configs.load_json(workdir / "config.json")
    parts = restore_parts(config, workdir, make_mesh(devices=_one_device()))
    if form == "peft" and parts.lora is None:
        raise configs.ConfigError(f"{workdir} is a run of stage 'align', which has no LoRA to export")
    dtype = dtype or (_base_dtype(config) if form == "huggingface" else "float32")
    trained = {"path": str(workdir), "step": parts.step, "sha256": fingerprint_trained(workdir / "checkpoints")}
    identity = {
        "format": form,
        "stage": config.stage,
        "dtype": dtype,
        "shard_gib": shard_gib,
        "run": trained,
        "base": fingerprints(config),
        "made_by": f"revision_jax {__version__}",
    }
    with output_folder(out, identity) as folder:
        WRITERS[form](config, parts, folder, dtype, shard_gib)
        manifest = identity | {"check": _checked(config, parts, folder, form, dtype) if check else None}
        if form == "huggingface":
            (folder / "README.md").write_text(model_card(config, workdir, manifest))
        write_json(folder / MANIFEST, manifest)
    return manifest


# ------------------------------------------------------------------------------------------------- the formats
def _write_stage(config, parts, folder: Path, dtype: str, shard_gib: float) -> None:
    from revision_jax.interop.stage import PROJECTOR, Stage, write_projector, write_stage

    trained, frozen = split_adapters(config, parts)
    if parts.lora is None:
        write_projector(trained, folder / PROJECTOR, dtype=_numpy(dtype))
        return
    write_stage(Stage(parts.lora, trained, frozen), folder, base=config.base.llm, dtype=_numpy(dtype))
    if config.stage == "unified":
        write_projector(parts.sparse, folder / "sparse_adapter.bin", dtype=_numpy(dtype))


def split_adapters(config, parts) -> tuple[Any, Any]:
    """(the adapter that the run trained, the one at its `mm_projector` that it did not), None where there is none."""
    from revision_jax.training.optimizer import trained_by

    name = "sparse" if config.stage in ("sparse", "long") else "adapter"
    adapter = parts.sparse if name == "sparse" else parts.dense
    return (adapter, None) if trained_by(config.trainable, [f"{name}/"]) else (None, adapter)


def _write_merged(config, parts, folder: Path, dtype: str, shard_gib: float) -> None:
    from revision_jax.config import resolve_path
    from revision_jax.interop.adapter import save_projector, save_sparse_adapter
    from revision_jax.interop.files import read_config
    from revision_jax.interop.merged import MergedLlama
    from revision_jax.interop.output import byte_progress, copy_tokenizer, write_json
    from revision_jax.interop.shards import write_shards
    from revision_jax.interop.weights import Weights

    source = resolve_path(config.base.llm)
    merged = MergedLlama(parts.llm, Weights(source), parts.lora, source=source)
    total = sum(_size(merged[key].shape) for key in merged) * _numpy(dtype).itemsize
    with byte_progress("merges", total) as advance:
        write_shards(
            merged, folder, dtype=_numpy(dtype), shard_bytes=int(shard_gib * 2**30), on_bytes=advance
        )
    raw = read_config(source, "llama")
    raw.pop("torch_dtype", None)
    write_json(folder / "config.json", raw | {"dtype": dtype})
    copy_tokenizer(source, folder)
    save_projector(parts.dense, folder / ADAPTER_FILES["dense"])
    if parts.sparse is not None:
        save_sparse_adapter(parts.sparse, folder / ADAPTER_FILES["sparse"])


def _write_peft(config, parts, folder: Path, dtype: str, shard_gib: float) -> None:
    from revision_jax.interop.lora import write_lora

    write_lora(parts.lora, folder, base=config.base.llm, dtype=_numpy(dtype))


WRITERS = {"revisionllm": _write_stage, "huggingface": _write_merged, "peft": _write_peft}


# ------------------------------------------------------------------------------------------------- the check
def _checked(config, parts, folder: Path, form: str, dtype: str) -> dict[str, Any]:
    """Reads the folder back and compares its logits with the run's, at each level that the run answers."""
    from revision_jax.config import resolve_path
    from revision_jax.interop.check import compare
    from revision_jax.interop.grounder_check import Parts, fixed_input, grounder_logits
    from revision_jax.interop.weights import Weights
    from revision_jax.training.parts import make_prompt_encoder

    base, prompts = Weights(resolve_path(config.base.llm)), make_prompt_encoder(config)
    levels = {"sparse": ("sparse",), "long": ("sparse",), "unified": ("dense", "sparse")}.get(config.stage, ("dense",))
    tensors, lora, adapters = READERS[form](config, parts, folder, base)
    results = {}
    for level in levels:
        run = Parts(base, parts.lora, getattr(parts, level))
        given = fixed_input(prompts, run.adapter)
        logits = (
            grounder_logits(side, parts.llm, given)
            for side in (run, Parts(tensors, lora, adapters[level]))
        )
        found = compare(*logits, dtype, given.answers)
        log.info("check, %s level: %s", level, found)
        results[level] = found.as_dict()
    return results


def _read_stage(config, parts, folder: Path, base):
    from revision_jax.interop.adapter import load_dense_adapter, load_sparse_adapter
    from revision_jax.interop.stage import PROJECTOR, read_stage

    adapters = {"dense": parts.dense, "sparse": parts.sparse}
    options = {"num_heads": config.sparse.num_heads, "dropout": config.sparse.dropout}
    if parts.lora is None:
        return base, None, adapters | {"dense": load_dense_adapter(folder / PROJECTOR)}
    stage = read_stage(folder, parts.llm, **options)
    level = "sparse" if config.stage in ("sparse", "long") else "dense"
    adapters[level] = stage.trained or stage.frozen
    if config.stage == "unified":
        adapters["sparse"] = load_sparse_adapter(folder / "sparse_adapter.bin", **options)
    return base, stage.lora, adapters


def _read_merged(config, parts, folder: Path, base):
    from revision_jax.interop.adapter import load_dense_adapter, load_sparse_adapter
    from revision_jax.interop.weights import Weights

    adapters = {"dense": load_dense_adapter(folder / ADAPTER_FILES["dense"])}
    if parts.sparse is not None:
        options = {"num_heads": config.sparse.num_heads, "dropout": config.sparse.dropout}
        adapters["sparse"] = load_sparse_adapter(folder / ADAPTER_FILES["sparse"], **options)
    return Weights(folder), None, adapters


def _read_peft(config, parts, folder: Path, base):
    from revision_jax.interop.lora import read_lora

    return base, read_lora(folder, parts.llm), {"dense": parts.dense, "sparse": parts.sparse}


READERS = {"revisionllm": _read_stage, "huggingface": _read_merged, "peft": _read_peft}


# ------------------------------------------------------------------------------------------------- the model card
def model_card(config, workdir: Path, manifest: Mapping[str, Any]) -> str:
    """README.md of an exported model: what it is, how it scored, what was checked."""
    from revision_jax.evaluation.predictions import read_json

    metrics = read_json(workdir / "eval" / "metrics.json")
    scored = "It was not evaluated." if metrics is None else _score_table(metrics)
    checked = "Not checked." if manifest["check"] is None else json.dumps(manifest["check"], indent=2)
    return f"""---
library_name: transformers
tags: [video-temporal-grounding]
---

# ReVisionLLM, stage {config.stage}

Trained with {manifest["made_by"]} on `{config.data.name}` for {manifest["run"]["step"]} steps, from the base LLM
`{config.base.llm}`; its LoRA (rank {config.lora.rank}, alpha {config.lora.alpha:g}) is merged. It answers about video
features that an adapter turns into tokens: `{ADAPTER_FILES["dense"]}` (one token a frame){_sparse_note(config)}.
A window is {config.hierarchy.window_s:g} s, {config.hierarchy.num_frames} frames, encoded by `{config.base.clip}`.

## Scores

{scored}

## Check of this export

Logits and answer tokens on a fixed input, against the run ({manifest["dtype"]}):

```json
{checked}
```
"""


def _sparse_note(config) -> str:
    return f", `{ADAPTER_FILES['sparse']}` (one token a window)" if config.stage in ("sparse", "long", "unified") else ""


def _score_table(metrics: Mapping[str, Any]) -> str:
    """The numbers of a metrics.json as a table, a row a method."""
    rows = {name: _numbers(scores) for name, scores in (metrics.get("methods") or {"model": metrics}).items()}
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [[name, *(f"{row[key]:.4g}" if key in row else "" for key in columns)] for name, row in rows.items()]
    lines = [["", *columns], ["---"] * (1 + len(columns)), *cells]
    return f"Split `{metrics.get('split', '')}`.\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in scores.items() if isinstance(value, int | float)}


def _numpy(dtype: str):
    import jax.numpy as jnp

    return jnp.dtype(dtype)


def _size(shape: tuple[int, ...]) -> int:
    import math

    return math.prod(shape)


def _base_dtype(config) -> str:
    """The dtype of the base LLM's first weight that is one of DTYPES."""
    import numpy as np

    from revision_jax.config import resolve_path
    from revision_jax.interop.weights import Weights

    weights = Weights(resolve_path(config.base.llm))
    name = np.asarray(weights["model.norm.weight"]).dtype.name
    return name if name in DTYPES else "float32"


def _one_device():
    import jax

    return jax.devices()[:1]


# ------------------------------------------------------------------------------------------------- the verb
def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m revision_jax.export", description=__doc__.partition(":")[0] + ".", epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--workdir", metavar="RUN", required=True, help="work folder of a training run")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to make")
    parser.add_argument("--format", choices=FORMATS, required=True, help="see below")
    default = "default: the base LLM's for huggingface, else float32"
    parser.add_argument("--dtype", choices=DTYPES, default="", help=f"of the weights ({default})")
    parser.add_argument("--shard-gib", type=float, default=1.0, metavar="GIB", help="largest weight file (default: 1)")
    parser.add_argument("--no-check", action="store_true", help="do not read back and compare")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    args = make_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("revision_jax").setLevel(logging.INFO)
    from revision_jax.train import user_errors

    try:
        options = {"dtype": args.dtype, "shard_gib": args.shard_gib, "check": not args.no_check}
        export(args.workdir, args.out, args.format, **options)
        show(Path(args.out))
    except user_errors() as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def show(folder: Path) -> None:
    """The files written and their sizes, as a table."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size / 2**20:12,.1f} MiB  {path.relative_to(folder)}")


if __name__ == "__main__":
    sys.exit(main())
