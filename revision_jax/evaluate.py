"""Score a trained run on held-out videos: `python -m revision_jax.evaluate --help`."""

import argparse
import sys

from revision_jax import config as configs
from revision_jax import lazy, verb
from revision_jax.config import ConfigError
from revision_jax.evaluation.options import Options
from revision_jax.evaluation.protocols import PROTOCOLS

evaluation = lazy.module("revision_jax.evaluation.evaluate")
multihost = lazy.module("revision_jax.parallel.multihost")
runs = lazy.module("revision_jax.runs.run")

USAGE = """
A run is scored by what its stage learned. A run that answers a search (stages dense, long, unified) answers the queries
of a split by several methods: all windows (depth 1), one pass over the whole video (depth 0), CLIP frame retrieval; a
run of configs/stage2.py also through its upper levels (depths 2 and 3), by every policy: top-down, bottom-up,
top-down with confidences rescaled by the upper levels, fused with CLIP similarity, and similarity alone. A second table
says what each level sent down. Stages align, sparse and long are asked their own questions about held-out frames,
windows and groups; a run that chooses among short videos (stage2.py:retrieval) ranks them. What counts as absent, the
temperature of confidences and the variant of CLIP retrieval are chosen on the validation split.

Methods share their work: a window that several of them ask is asked once. So seconds are told only of the method that
is served and of those that ask all windows. To time another, name it: --methods NAME --out NAME.

Examples:
  python -m revision_jax.evaluate --workdir runs/stage1-tiny               the config's split (test)
  python -m revision_jax.evaluate --workdir runs/stage1-tiny --split val
  python -m revision_jax.evaluate --workdir runs/stage2-tiny               every depth; it knows its dense run
  python -m revision_jax.evaluate --workdir runs/stage1-tiny --data data/mine/test      made by `prepare folder`
  python -m revision_jax.evaluate --workdir RUN --data data/mine/test --data.faults drop      without what has gaps
  python -m revision_jax.evaluate --workdir RUN --wide                     with mAP, as QVHighlights defines it
  python -m revision_jax.evaluate --workdir RUN --diagnose                 what fails, by its signature, and a remedy
  python -m revision_jax.evaluate --workdir RUN --data data/qvhighlights/test --submission moment_detr
  python -m revision_jax.evaluate --workdir RUN --data data/mine/test --score preds.jsonl --score other.json
  python -m revision_jax.evaluate --workdir RUN --methods depth1,depth1_retrieve_then_ground --out eval-clip
  python -m revision_jax.evaluate --workdir RUN --queries 60 --out eval-some     60 of the queries, at even distances
  python -m revision_jax.evaluate --workdir RUN --budget 0.15 --out budget15     looks at 15 % of the windows
  python -m revision_jax.evaluate --workdir RUN --protocol released --out eval-released
  python -m revision_jax.evaluate --workdir RUN --out eval-beam --search.beam 4 --search.confidence sequence_likelihood
  python -m revision_jax.evaluate --workdir RUN --mesh.data 2 --mesh.tensor 2 --model.attention xla

RUN/eval holds metrics.json, predictions.jsonl, questions.jsonl, calibration.json (which `ground` uses), report.html
and its pictures; for another split than test with its name (metrics_val.json). The same command continues a stopped
evaluation, video by video. Another protocol or search goes to another folder, --out. --budget tries all policies and a
few shares on val, scores the best of them alone, and keeps it in RUN/eval/budgets for `ground --budget`. --submission
writes the answers of the method that `ground` uses for a benchmark's own evaluator, submission_moment_detr.jsonl
(QVHighlights, VidChapters), submission_cone.jsonl (MAD) or submission_ego4d_nlq.json; --score reads all of them. An
option that a run's stage cannot honour is refused. All devices of this machine are used; several hosts (processes of
jax.distributed, JAX_COORDINATOR_ADDRESS set) share the videos, and the work folder must be one that all of them see.
"""


SUBMISSIONS = (
    "moment_detr",
    "cone",
    "ego4d_nlq",
)  # evaluation.submissions.FORMS, whose imports `--help` does not wait for


def make_parser() -> argparse.ArgumentParser:
    parser = verb.make_parser("evaluate", __doc__, USAGE)
    parser.add_argument("--workdir", metavar="RUN", required=True, help="work folder of a training run")
    parser.add_argument("--split", choices=("val", "test"), default="", help="default: the config's eval.split")
    parser.add_argument("--data", metavar="DIR", default="", help="another prepared split to score, of any domain")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="ours", help="default: ours")
    parser.add_argument("--methods", metavar="NAME,NAME", default="", help="default: all; those named are timed")
    says = "share of the dense windows to look at: policy and shares are chosen on val"
    parser.add_argument("--budget", type=float, metavar="SHARE", help=says)
    parser.add_argument("--out", metavar="NAME", default="eval", help="folder in RUN (default: %(default)s)")
    parser.add_argument("--memory_gib", type=float, default=0.0, help="what a device may use (default: all it has)")
    parser.add_argument("--queries", type=int, default=0, metavar="N", help="ask at most N (default: all; needs --out)")
    parser.add_argument("--wide", action="store_true", help="all columns, and mAP at IoU .5, .75, .5 to .95")
    parser.add_argument("--diagnose", action="store_true", help="name what fails, with evidence and what to try")
    parser.add_argument("--submission", choices=SUBMISSIONS, default="", help="also write the answers for a benchmark")
    parser.add_argument(
        "--score",
        metavar="FILE",
        action="append",
        default=[],
        help="another program's answers, scored beside; repeatable",
    )
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    return verb.run(act, verb.parse(make_parser(), argv, ["search", "mesh", "model", "data"]))


def act(args: argparse.Namespace) -> None:
    multihost.initialize()
    search = {key.removeprefix("search."): text for key, text in args.fields.items() if key.startswith("search.")}
    places = {key: text for key, text in args.fields.items() if not key.startswith("search.")}
    strangers = [key for key in places if key.startswith("data.") and key != "data.faults"]
    if strangers:
        raise ConfigError(f"--{strangers[0]} has no effect on an evaluation: of data.* only data.faults may differ")
    run = runs.Run.load(args.workdir, places)
    methods = tuple(name for name in args.methods.split(",") if name)
    options = Options(
        args.split, args.data, args.out, args.protocol, configs.section(run.config, "search", search), methods,
        args.memory_gib, args.wide, args.submission, tuple(args.score), args.diagnose, args.queries, args.budget,
    )  # fmt: skip
    evaluation.evaluate(run, options)


if __name__ == "__main__":
    sys.exit(main())
