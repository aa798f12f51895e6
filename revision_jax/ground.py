"""Find when an event happens in a video: `python -m revision_jax.ground --help`."""

import argparse
import sys
from collections.abc import Sequence

import rich.console

from revision_jax import lazy, verb

answers = lazy.module("revision_jax.runs.answers")
frames = lazy.module("revision_jax.data.video.frames")
prompts = lazy.module("revision_jax.prompts")
runs = lazy.module("revision_jax.runs.run")
text = lazy.module("revision_jax.text")

USAGE = """
Examples:
  python -m revision_jax.ground film.mp4 "a red circle moves to the left"
  python -m revision_jax.ground film.mkv "a blue star spins" "a star grows" --workdir runs/stage2-tiny --top 3
  python -m revision_jax.ground film.mp4 "a star grows" --workdir runs/stage2-tiny --depth 2 --policy bottom_up
  python -m revision_jax.ground film.mp4 "a star grows" --workdir runs/stage2-tiny --keep 0.5,0.2
  python -m revision_jax.ground film.mp4 --queries events.txt --json > moments.json

Any container, size and frame rate that FFmpeg reads. Several sentences share the work on the video. Prints the moments
of each event, surest first, or that it is not there: no answer is as sure as the threshold that `evaluate` chose on
validation videos for this way to search (RUN/eval/calibration.json); then what was looked at, level by level, and what
it cost. Without --workdir the newest run under ./runs that can answer is used.

--depth 1 asks all dense windows; 2 and 3 let upper levels choose windows first (a run of configs/stage2.py). --policy
says how: top_down, bottom_up, top_down_rescaled, fused, retrieve_then_ground. --keep: the share, or above 1 the number,
of windows that each level sends down, coarse first. Any other field of the search: --search.KEY VALUE. The devices that
are there are used: --mesh.data, --mesh.fsdp, --mesh.tensor and --model.attention choose.

Exit code 0, also when an event is not there; 2 after an error.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = verb.make_parser("ground", __doc__, USAGE)
    parser.add_argument("video", metavar="VIDEO", help="a video file")
    parser.add_argument("sentences", metavar="SENTENCE", nargs="*", help="an event, in quotes")
    parser.add_argument("--queries", metavar="FILE", help="a text file with one sentence a line")
    parser.add_argument("--workdir", metavar="RUN", help="a trained run, or a bundle (default: see below)")
    parser.add_argument("--depth", type=int, metavar="N", help="levels of the search (default: the run's search.depth)")
    parser.add_argument("--policy", metavar="NAME", help="what chooses windows (default: the run's search.policy)")
    parser.add_argument("--keep", metavar="SHARE,..", help="what each level sends down (default: the run's own)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="moments printed a query (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    return verb.run(act, verb.parse(make_parser(), argv, ["search", "mesh", "model"]), quiet=True)


def act(args: argparse.Namespace) -> None:
    sentences = read_sentences(args.sentences, args.queries)
    if args.top < 1:
        raise ValueError(f"--top is {args.top}; expected at least 1.")
    given = {"search.depth": args.depth, "search.policy": args.policy, "search.keep": args.keep}
    fields = args.fields | {key: str(value) for key, value in given.items() if value is not None}
    frames.probe(args.video)  # what is no video is told before anything is loaded
    console = rich.console.Console(stderr=True)
    with console.status("loads the run") as status:
        run = runs.load_run(args.workdir, fields)
        if args.workdir is None:
            console.print(f"uses {run.name}", highlight=False)
        run.check_sentences(sentences)
        status.update(f"reads {args.video}")
        features = run.encode(args.video)
        status.update(f"searches {features.duration_s:.0f} s")
        searched = run.search(features, sentences)
    found = answers.Answered(args.video, features.duration_s, searched, run.config, args.top)
    print(answers.as_json(found) if args.json else answers.describe(found))


def read_sentences(given: Sequence[str], file: str | None) -> list[str]:
    """The sentences of the command line and of the file.

    Raises:
      ValueError: there are none, or one is empty.
    """
    sentences = list(given)
    if file is not None:
        sentences += [line.strip() for line in text.read_lines(file) if line.strip()]
    if not sentences:
        raise ValueError(f"no sentence given{f' and none in {file}' if file else ''}; expected an event in quotes.")
    for sentence in sentences:
        prompts.normalize_event(sentence)
    return sentences


if __name__ == "__main__":
    sys.exit(main())
