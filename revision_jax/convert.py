"""Read PyTorch weights of others: `python -m revision_jax.convert --help`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

USAGE = """
A config can name many PyTorch files as they are: base.llm and base.clip a Hugging Face directory (safetensors or .bin),
base.projector VTimeLLM's mm_projector.bin, init.dense a PEFT LoRA (VTimeLLM's second stage). The rest is converted:

Formats:
  stage         a published ReVisionLLM stage directory, or a PEFT LoRA -> a run, to ground, evaluate, train on, export
  llama         a LlamaForCausalLM directory (Vicuna, Llama 2 and 3, TinyLlama, SmolLM2) -> safetensors shards
  gguf          a .gguf file of a Llama -> a Hugging Face directory with tokenizer
  clip          a Hugging Face CLIP directory -> safetensors
  openai-clip   OpenAI's ViT-L-14.pt -> a Hugging Face directory (its tokenizer comes from --tokenizer)
  projector     VTimeLLM's mm_projector.bin -> projector.safetensors

Examples:
  python -m revision_jax.convert --format stage --source checkpoints/dense --out runs/published-dense \\
      --config configs/stage1.py:mad --config.base.llm=vicuna-7b-v1.5 --config.base.clip=clip-vit-large-patch14 \\
      --config.base.projector=checkpoints/dense/mm_projector.bin
  python -m revision_jax.convert --format llama --source vicuna-7b-v1.5 --out vicuna --dtype bfloat16
  python -m revision_jax.convert --format gguf --source SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
  python -m revision_jax.convert --format clip --source clip-vit-large-patch14 --out clip
  python -m revision_jax.convert --format openai-clip --source ViT-L-14.pt --tokenizer clip-vit-large-patch14 --out clip
  python -m revision_jax.convert --format projector --source mm_projector.bin --out projector

Pickles are read as tensors only: no code in them is run. In the end what was written is read back and compared with the
source on a fixed input (a .gguf with transformers: five prompts and 32 greedy tokens each); DIR/manifest.json has the
numbers and the source's hash. docs/recipes.md has the published checkpoints' way in, line by line.
"""
NEXT = "{out} is a run: give it as --workdir to ground and evaluate, or to a later stage as --config.init.*={out}"
FORMATS = ("stage", "llama", "gguf", "clip", "openai-clip", "projector")
DTYPES = ("float32", "bfloat16", "float16")
log = logging.getLogger("revision_jax.convert")  # `__name__` is `__main__` for the verb


def convert(
    form: str, source: str | Path, out: str | Path, *, dtype: str = "", shard_gib: float = 1.0, tokenizer: str = "",
    check: bool = True, spec: str = "", overrides: Sequence[str] | dict[str, Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Writes `source` into the new folder `out`; returns what its manifest.json holds.

    Args:
      form: one of FORMATS.
      dtype: of the weights written; default the source's (gguf: float32). A stage and a projector are always float32.
      shard_gib: largest weight file, in GiB.
      tokenizer: a directory whose tokenizer files are copied.
      check: read back and compare; without it, the manifest says that nothing was checked.
      spec, overrides: for `stage`, the config of the run that is made, as `config.load` takes them.

    Raises:
      ValueError: files that are damaged, of another kind, or do not fit; nothing is left then.
      CheckError: what was written computes something else.
    """
    # Slow to import, and `--help` must be quick.
    from revision_jax import __version__
    from revision_jax.checkpoint import fingerprint
    from revision_jax.interop.conversion import CONVERTERS
    from revision_jax.interop.output import MANIFEST, check_free, copy_tokenizer, output_folder, write_json

    check_free(out)
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; expected what --format {form} names")
    log.info("hashes the source")
    identity = {
        "made_by": f"revision_jax {__version__}",
        "format": form,
        "dtype": dtype or "the source's, or float32",
        "shard_gib": shard_gib,
        "source": {"path": str(source), "sha256": fingerprint(source)},
    }
    with output_folder(out, identity | {"config": [spec, overrides]}) as folder:
        if form == "stage":
            checked = _stage(source, folder, spec, overrides)
        else:
            checked = CONVERTERS[form](source, folder, dtype, int(shard_gib * 2**30))
        if tokenizer and not copy_tokenizer(tokenizer, folder):
            raise ValueError(f"--tokenizer {tokenizer} holds no files of a tokenizer")
        if check:
            log.info("reads back what was written, and compares it")
        found = checked() if check else {}
        for name, comparison in found.items():
            log.info("check, %s: %s", name, comparison)
        manifest = identity | {"check": {name: comparison.as_dict() for name, comparison in found.items()} or None}
        write_json(folder / MANIFEST, manifest)
    return manifest


def _stage(source: Path, folder: Path, spec: str, overrides: Sequence[str] | dict[str, Any]):
    import jax

    from revision_jax import config as configs
    from revision_jax.parallel.mesh import make_mesh
    from revision_jax.runs.importing import check_import, import_stage

    config = configs.load(spec or configs.DEFAULT, overrides)
    mesh = make_mesh(devices=jax.devices()[:1])
    import_stage(config, source, folder, mesh)
    return lambda: check_import(config, source, folder, mesh)


# ------------------------------------------------------------------------------------------------- the verb
def make_parser() -> argparse.ArgumentParser:
    from revision_jax import config as configs

    parser = argparse.ArgumentParser(
        prog="python -m revision_jax.convert", description=__doc__.partition(":")[0] + ".", epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, required=True, help="what the source is, see below")
    parser.add_argument("--source", metavar="PATH", required=True, help="file or directory to read")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to make; for `stage` a run's work folder")
    configs.add_arguments(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="", help="of the weights (default: the source's)")
    parser.add_argument("--tokenizer", metavar="DIR", default="", help="copy the tokenizer of this directory")
    parser.add_argument("--shard-gib", type=float, default=1.0, metavar="GIB", help="largest weight file (default: 1)")
    parser.add_argument("--no-check", action="store_true", help="do not read back and compare")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    from revision_jax import config as configs

    parser = make_parser()
    args, overrides = configs.parse(parser, argv)
    if overrides and args.format != "stage":
        parser.error(f"--config.{overrides[0]} has no effect with --format {args.format}")
    if args.dtype and args.format in ("stage", "projector"):
        parser.error(f"--dtype has no effect with --format {args.format}: what is trained is float32")
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    logging.getLogger("revision_jax").setLevel(logging.INFO)
    from revision_jax.report.table import print_files
    from revision_jax.train import user_errors

    try:
        convert(
            args.format, args.source, args.out, dtype=args.dtype, shard_gib=args.shard_gib, tokenizer=args.tokenizer,
            check=not args.no_check, spec=args.config, overrides=overrides,
        )  # fmt: skip
        print_files(Path(args.out))
        if args.format == "stage":
            log.info(NEXT.format(out=args.out))
    except user_errors() as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
