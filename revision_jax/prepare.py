"""Make data sets for training and evaluation: `python -m revision_jax.prepare --help`."""

import argparse
import sys

from revision_jax import lazy, verb
from revision_jax.data.builders.datasets import DATA_SETS, DataSet

commands = lazy.module("revision_jax.preparation.commands")

USAGE = """
Examples:
  python -m revision_jax.prepare mad --annotations MAD_train.json --features CLIP_L14_frames_features_5fps.h5 \\
      --fps 5 --encoder CLIP_DIR --out data/mad --split train
  python -m revision_jax.prepare cone --annotations test.jsonl --features LMDB_DIR --fps 5 --encoder CLIP_DIR \\
      --out data/ego4d --split test
  python -m revision_jax.prepare vidchapters --annotations chapters_vmr_val.json --ids val.json --features NPY_DIR \\
      --fps 2 --encoder CLIP_DIR --out data/vidchapters --split val
  python -m revision_jax.prepare msrvtt --annotations MSRVTT_data.json --csv MSRVTT_train.9k.csv --videos DIR \\
      --fps 5 --encoder CLIP_DIR --out data/msrvtt --split train
  python -m revision_jax.prepare qvhighlights --annotations highlight_val_release.jsonl --features NPY_DIR \\
      --fps 0.5 --encoder CLIP_DIR --out data/qvhighlights --split val
  python -m revision_jax.prepare folder --videos DIR --annotations queries.jsonl --out data/mine --split test
  ... --shard 0/8                                       one of eight processes; afterwards:
  python -m revision_jax.prepare merge data/mad/train
  python -m revision_jax.prepare check data/mad         all gaps in one table, exit code 1 if there are any
  python -m revision_jax.prepare check data/mad --llm LLM_DIR       queries that are too long for the prompt, too
  python -m revision_jax.prepare report data/mad        a page with histograms and samples

The same command continues a killed one. docs/data.md describes every format, its cost, and the result.
Exit code 0; 1 if there are gaps (what could be used is there); 2 after an error.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = verb.make_parser("prepare", __doc__, USAGE)
    subcommands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = lambda name, text: subcommands.add_parser(name, help=text, description=text, allow_abbrev=False)
    for name, data_set in DATA_SETS.items():
        if data_set.read is not None:
            _add_data(add(name, data_set.help), data_set)
    merge = add("merge", "join the shards of a split, each verified to the last record")
    merge.add_argument("directory", metavar="DIR", help="the split's directory, which holds shards/")
    check = add("check", "list every gap of a data set; exit code 1 if there are any")
    check.add_argument("directory", metavar="DIR", help="a split, or the folder of its splits")
    check.add_argument("--fast", action="store_true", help="do not read the features")
    check.add_argument("--encoder", metavar="DIR", help="the encoder that the features must be from")
    check.add_argument("--fps", type=float, help="the frame rate that they must have (with --encoder; default: theirs)")
    check.add_argument("--llm", metavar="DIR", help="also count the tokens of every query with its tokenizer")
    check.add_argument("--text-tokens", type=int, default=96, metavar="N", help="the run's prompt.max_text_tokens")
    verb.add_unknown(check)
    report = add("report", "a page with histograms, samples and similarity strips")
    report.add_argument("directory", metavar="DIR", help="a split, or the folder of its splits")
    report.add_argument("--seed", type=int, default=0, help="which samples are shown")
    for command in subcommands.choices.values():
        verb.add_debug(command)
    return parser


def _add_data(parser: argparse.ArgumentParser, data_set: DataSet) -> None:
    needed = data_set.needs_annotations
    parser.add_argument("--annotations", metavar="FILE", required=needed, help="the sentences and their times")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--features", metavar="PATH", help="a .h5 file, an LMDB, or a folder of .npy files")
    given.add_argument("--videos", metavar="DIR", help="a folder of video files, to be encoded here")
    for flag in data_set.flags:
        parser.add_argument(f"--{flag.name}", metavar="FILE", required=flag.required, help=flag.help)
    parser.add_argument("--query-features", metavar="PATH", help="token features of the sentences, as --features")
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="data.dir of a run; the split becomes a folder in it"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), required=True)
    parser.add_argument("--fps", type=float, default=1.0, help="frames a second (default: %(default)s)")
    parser.add_argument(
        "--encoder", metavar="DIR", default="asset:tiny/clip",
        help="the CLIP or SigLIP that encodes the videos, or that the features come from (default: the shipped one)",
    )  # fmt: skip
    parser.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="this process's part, from 0")
    parser.add_argument("--batch", type=int, help="frames a call of the encoder (default: 128, on a CPU 16)")
    parser.add_argument("--decoders", type=int, default=1, help="videos decoded at once (default: %(default)s)")
    verb.add_unknown(parser)
    parser.add_argument("--dry-run", action="store_true", help="list the gaps of what is given, write nothing")


def shard(text: str) -> tuple[int, int]:
    """`2/8` -> (2, 8)."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}; expected I/N with I from 0 to N - 1, such as 0/8")
    return int(index), int(count)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, 1 if the data has gaps, or 2 after one clear error line."""
    return verb.run(act, verb.parse(make_parser(), argv))


def act(args: argparse.Namespace) -> int:
    verbs = {"merge": commands.merge, "check": commands.run_check, "report": commands.run_report}
    return (commands.make if args.command in DATA_SETS else verbs[args.command])(args)


if __name__ == "__main__":
    sys.exit(main())
