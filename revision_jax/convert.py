"""Read PyTorch weights of others: `python -m revision_jax.convert --help`."""

import argparse
import logging
import sys
from pathlib import Path

from revision_jax import config as configs
from revision_jax import lazy, verb

converting = lazy.module("revision_jax.runs.converting")
table = lazy.module("revision_jax.report.table")

USAGE = """
A config can name many PyTorch files as they are: base.llm and base.encoder a Hugging Face directory (safetensors or
.bin), base.projector VTimeLLM's mm_projector.bin, init.dense a PEFT LoRA (VTimeLLM's second stage). The rest is
converted:

Formats:
  stage         a published ReVisionLLM stage directory, or a PEFT LoRA -> a run, to ground, evaluate, train on, export
  llama         the directory of an LLM: Llama (Vicuna, TinyLlama, SmolLM2), Mistral, Qwen2, Qwen3 -> safetensors shards
  gguf          a .gguf file of such an LLM -> a Hugging Face directory with tokenizer
  clip, siglip  a Hugging Face directory of a CLIP or SigLIP -> safetensors
  openai-clip   OpenAI's ViT-L-14.pt -> a Hugging Face directory (its tokenizer comes from --tokenizer)
  projector     VTimeLLM's mm_projector.bin -> projector.safetensors

Examples:
  python -m revision_jax.convert --format stage --source checkpoints/dense --out runs/published-dense \\
      --config configs/stage1.py:mad --config.base.llm=vicuna-7b-v1.5 --config.base.encoder=clip-vit-large-patch14 \\
      --config.base.projector=checkpoints/dense/mm_projector.bin
  python -m revision_jax.convert --format llama --source vicuna-7b-v1.5 --out vicuna --dtype bfloat16
  python -m revision_jax.convert --format llama --source vicuna-7b-v1.5 --adapter dora --out vicuna-dora
  python -m revision_jax.convert --format gguf --source SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
  python -m revision_jax.convert --format clip --source clip-vit-large-patch14 --out clip
  python -m revision_jax.convert --format siglip --source siglip2-base-patch16-224 --out siglip
  python -m revision_jax.convert --format openai-clip --source ViT-L-14.pt --tokenizer clip-vit-large-patch14 --out clip
  python -m revision_jax.convert --format projector --source mm_projector.bin --out projector

Pickles are read as tensors only: no code in them is run. In the end what was written is read back and compared with the
source on a fixed input (a .gguf with transformers: five prompts and 32 greedy tokens each); DIR/manifest.json has the
numbers and the source's hash. docs/recipes.md has the published checkpoints' way in, line by line.
"""
NEXT = "{out} is a run: give it as --workdir to ground and evaluate, or to a later stage as --config.init.*={out}"
FORMATS = ("stage", "llama", "gguf", "clip", "siglip", "openai-clip", "projector")
DTYPES = ("float32", "bfloat16", "float16")
log = logging.getLogger("revision_jax.convert")  # `__name__` is `__main__` for the verb


def make_parser() -> argparse.ArgumentParser:
    parser = verb.make_parser("convert", __doc__, USAGE)
    parser.add_argument("--format", choices=FORMATS, required=True, help="what the source is, see below")
    parser.add_argument("--source", metavar="PATH", required=True, help="file or directory to read")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to make; for `stage` a run's work folder")
    verb.add_config(parser, configs.DEFAULT)
    parser.add_argument("--dtype", choices=DTYPES, default="", help="of the weights (default: the source's)")
    parser.add_argument("--tokenizer", metavar="DIR", default="", help="copy the tokenizer of this directory")
    parser.add_argument("--adapter", metavar="DIR", default="", help="of llama: fold this adapter of PEFT into it")
    parser.add_argument("--shard-gib", type=float, default=1.0, metavar="GIB", help="largest weight file (default: 1)")
    parser.add_argument("--no-check", action="store_true", help="do not read back and compare")
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    parser = make_parser()
    args = verb.parse(parser, argv, ["config"])
    if args.fields and args.format != "stage":
        parser.error(f"--config.{next(iter(args.fields))} has no effect with --format {args.format}")
    if args.dtype and args.format in ("stage", "projector"):
        parser.error(f"--dtype has no effect with --format {args.format}: what is trained is float32")
    if args.adapter and args.format != "llama":
        parser.error(f"--adapter has no effect with --format {args.format}; expected --format llama")
    return verb.run(act, args)


def act(args: argparse.Namespace) -> None:
    options = {"dtype": args.dtype, "shard_gib": args.shard_gib, "tokenizer": args.tokenizer}
    options |= {"adapter": args.adapter, "check": not args.no_check}
    converting.convert(args.format, args.source, args.out, options=options, spec=args.config, fields=args.fields)
    table.print_files(Path(args.out))
    if args.format == "stage":
        log.info(NEXT.format(out=args.out))


if __name__ == "__main__":
    sys.exit(main())
