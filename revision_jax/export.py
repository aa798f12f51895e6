"""Write a trained run as PyTorch weights, or as a bundle: `python -m revision_jax.export --help`."""

import argparse
import sys
from pathlib import Path

from revision_jax import lazy, verb

exporting = lazy.module("revision_jax.runs.exporting")
table = lazy.module("revision_jax.report.table")

USAGE = """
Formats:
  revisionllm   a stage directory as published: a PEFT LoRA (adapter_config.json, adapter_model.safetensors),
                non_lora_trainables.bin (what was trained beside it) and mm_projector.bin (the frozen adapter)
  huggingface   the LLM with its LoRA merged, as sharded safetensors with config.json and tokenizer; the adapters as
                safetensors; a model card with the run's metrics
  peft          the LoRA alone
  bundle        the run itself in one folder, with its base, its predecessors and its calibration, and nothing outside:
                for `ground --workdir`, `evaluate --workdir` and load_run on another machine

Examples:
  python -m revision_jax.export --workdir runs/stage1-tiny --out out/stage1 --format revisionllm
  python -m revision_jax.export --workdir runs/stage1-mad --out out/merged --format huggingface --dtype bfloat16
  python -m revision_jax.export --workdir runs/stage2-mad --out out/lora --format peft
  python -m revision_jax.export --workdir runs/stage2-tiny --out out/finder --format bundle

Memory holds one tensor and one shard at a time, never the model; a stopped export goes on with the same command.
In the end what was written is read back, and its logits and answer tokens on a fixed input are compared with the
run's; DIR/manifest.json has the numbers and the hashes of all sources. docs/recipes.md shows how to load each format.
"""
FORMATS = ("revisionllm", "huggingface", "peft", "bundle")
DTYPES = ("float32", "bfloat16", "float16")


def make_parser() -> argparse.ArgumentParser:
    parser = verb.make_parser("export", __doc__, USAGE)
    parser.add_argument("--workdir", metavar="RUN", required=True, help="work folder of a training run")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to make")
    parser.add_argument("--format", choices=FORMATS, required=True, help="see below")
    default = "default: the base LLM's for huggingface, else float32"
    parser.add_argument("--dtype", choices=DTYPES, default="", help=f"of the weights ({default})")
    help_text = "largest weight file of huggingface (default: 1)"
    parser.add_argument("--shard-gib", type=float, default=0.0, metavar="GIB", help=help_text)
    parser.add_argument("--no-check", action="store_true", help="do not read back and compare")
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    return verb.run(act, verb.parse(make_parser(), argv))


def act(args: argparse.Namespace) -> None:
    options = {"dtype": args.dtype, "shard_gib": args.shard_gib, "check": not args.no_check}
    exporting.export(args.workdir, args.out, args.format, **options)
    table.print_files(Path(args.out))


if __name__ == "__main__":
    sys.exit(main())
