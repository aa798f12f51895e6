"""Write a trained run as PyTorch weights: `python -m revision_jax.export --help`."""

import argparse
import logging
import sys
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
    import jax
    import jax.numpy as jnp

    from revision_jax import __version__
    from revision_jax import config as configs
    from revision_jax.checkpoint import fingerprint_trained
    from revision_jax.evaluation.predictions import read_json
    from revision_jax.interop.output import MANIFEST, check_free, output_folder, write_json
    from revision_jax.interop.weights import Weights, weights_dtype
    from revision_jax.parallel.mesh import make_mesh
    from revision_jax.report.model_card import model_card
    from revision_jax.runs.exporting import ADAPTER_FILES, WRITERS, check_folder
    from revision_jax.runs.grounder import fingerprints
    from revision_jax.runs.parts import restore_parts

    # ------------------------------------------------------------------------------- the run
    check_free(out)
    workdir = Path(workdir)
    config = configs.load_json(workdir / "config.json")
    parts = restore_parts(config, workdir, make_mesh(devices=jax.devices()[:1]))
    if form == "peft" and parts.lora is None:
        raise configs.ConfigError(f"{workdir} is a run of stage 'align', which has no LoRA to export")
    if not dtype:
        base = Weights(configs.resolve_path(config.base.llm))
        dtype = weights_dtype(base).name if form == "huggingface" else "float32"
    log.info("hashes the sources")  # of 13 GB at 7B: a minute
    identity = {
        "made_by": f"revision_jax {__version__}",
        "format": form,
        "stage": config.stage,
        "dtype": dtype,
        "shard_gib": shard_gib,
        "run": {"path": str(workdir), "step": parts.step, "sha256": fingerprint_trained(workdir / "checkpoints")},
        "base": fingerprints(config),
    }
    # ------------------------------------------------------------------------------- write, read back
    with output_folder(out, identity) as folder:
        WRITERS[form](config, parts, folder, jnp.dtype(dtype), int(shard_gib * 2**30))
        if check:
            log.info("reads back what was written, and compares it")
        found = check_folder(config, parts, folder, form, jnp.dtype(dtype)) if check else {}
        for level, comparison in found.items():
            log.info("check, %s level: %s", level, comparison)
        manifest = identity | {"check": {level: comparison.as_dict() for level, comparison in found.items()} or None}
        if form == "huggingface":
            adapters = [f"`{name}`" for name in ADAPTER_FILES.values() if (folder / name).is_file()]
            card = model_card(config, manifest, read_json(workdir / "eval" / "metrics.json"), adapters)
            (folder / "README.md").write_text(card)
        write_json(folder / MANIFEST, manifest)
    return manifest


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
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    logging.getLogger("revision_jax").setLevel(logging.INFO)
    from revision_jax.report.table import print_files
    from revision_jax.train import user_errors

    try:
        options = {"dtype": args.dtype, "shard_gib": args.shard_gib, "check": not args.no_check}
        export(args.workdir, args.out, args.format, **options)
        print_files(Path(args.out))
    except user_errors() as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
