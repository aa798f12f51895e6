"""Find when an event happens in a video: `python -m revision_jax.ground --help`."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

USAGE = """
Examples:
  python -m revision_jax.ground film.mp4 "a red circle moves to the left"
  python -m revision_jax.ground film.mkv "a blue star spins" "a star grows" --workdir runs/stage1-tiny --top 3
  python -m revision_jax.ground film.mp4 --queries events.txt --json > moments.json

Any container, size and frame rate that FFmpeg reads. Several sentences share the work on the video. Prints the
moments of each event, surest first, or that it is not there: no answer is as sure as the threshold that
`evaluate` chose on validation videos (RUN/eval/calibration.json).

Exit code 0, also when an event is not there; 2 after an error.
"""


def ground(video: str | Path, sentences: str | Sequence[str], run=None) -> list:
    """Results (`search.result.Result`), one a sentence; `run` is an `api.Run`, a work folder or None (newest)."""
    from revision_jax.api import Run, load_run  # slow to import

    run = run if isinstance(run, Run) else load_run(run)
    return run.ground(video, sentences)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m revision_jax.ground", description=__doc__.partition(":")[0] + ".", epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("video", metavar="VIDEO", help="a video file")
    parser.add_argument("sentences", metavar="SENTENCE", nargs="*", help="an event, in quotes")
    parser.add_argument("--queries", metavar="FILE", help="a text file with one sentence a line")
    parser.add_argument("--workdir", metavar="RUN", help="work folder of a trained run (default: the newest in ./runs)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="moments printed a query (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    from revision_jax.train import user_errors

    try:
        sentences = read_sentences(args.sentences, args.queries)
        if args.top < 1:
            raise ValueError(f"--top is {args.top}; expected at least 1.")
        show(args, *_search(args.video, sentences, args.workdir))
    except user_errors() as error:
        if args.debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def read_sentences(given: Sequence[str], file: str | None) -> list[str]:
    """The sentences of the command line and of the file.

    Raises:
      ValueError: there are none, or one is empty.
    """
    from revision_jax.prompts import normalize_event

    sentences = list(given)
    if file is not None:
        sentences += [line.strip() for line in Path(file).read_text().splitlines() if line.strip()]
    if not sentences:
        raise ValueError(f"no sentence given{f' and none in {file}' if file else ''}; expected an event in quotes.")
    for sentence in sentences:
        normalize_event(sentence)
    return sentences


def _search(video: str, sentences: Sequence[str], workdir: str | None):
    from rich.console import Console

    from revision_jax.data.video.frames import probe

    probe(video)  # what is no video is told before anything is loaded
    with Console(stderr=True).status("loads the run") as status:
        from revision_jax.api import load_run

        logging.getLogger("revision_jax").setLevel(logging.WARNING)
        run = load_run(workdir)
        run.check(sentences)
        status.update(f"reads {video}")
        features = run.encode(video)
        status.update(f"searches {features.duration_s:.0f} s")
        return features.duration_s, run.ground(features, sentences)


def show(args: argparse.Namespace, duration_s: float, results: Sequence) -> None:
    """Prints results as text or JSON."""
    if args.json:
        found = {"video": args.video, "duration_s": duration_s, "queries": as_json(results, args.top)}
        print(json.dumps(found, indent=2))
        return
    for i, result in enumerate(results):
        print(("\n" if i else "") + describe(result, args.top))


def as_json(results: Sequence, top: int) -> list[dict]:
    """A dict a query: its sentence, whether it is present, the threshold, the moments at or above it."""
    keys = ("start_s", "end_s", "confidence")
    return [
        {
            "sentence": result.sentence,
            "present": result.present,
            "threshold": result.threshold,
            "moments": [dict(zip(keys, moment)) for moment in result.found[:top].tolist()],
        }
        for result in results
    ]


def describe(result, top: int) -> str:
    """The answer to one query in lines of text."""
    from revision_jax.report.table import clock

    if not result.present:
        best = f" (surest answer: {result.score:.2f}, needed: {result.threshold:.2f})" if len(result.moments) else ""
        return f"{result.sentence}\n  not in this video{best}"
    lines = [
        f"  {rank}. {clock(start)} - {clock(end)}   confidence {confidence:.2f}"
        for rank, (start, end, confidence) in enumerate(result.found[:top], 1)
    ]
    return "\n".join([result.sentence, *lines])


if __name__ == "__main__":
    sys.exit(main())
