"""Find when events happen in videos: `python -m revision_jax.ground --help`."""

import argparse
import sys
import time

import rich.console

from revision_jax import lazy, verb

answers = lazy.module("revision_jax.runs.answers")
asking = lazy.module("revision_jax.runs.asking")
finding = lazy.module("revision_jax.data.video.finding")
progress = lazy.module("rich.progress")
runs = lazy.module("revision_jax.runs.run")

USAGE = """
Examples:
  python -m revision_jax.ground film.mp4 "a red circle moves to the left"
  python -m revision_jax.ground lectures/ "a proof on the blackboard" --skip-broken      which video, and when
  python -m revision_jax.ground film.mkv "a blue star spins" "a star grows" --workdir runs/stage2-tiny --top 3
  python -m revision_jax.ground film.mp4 "a star grows" --workdir runs/stage2-tiny --depth 2 --policy bottom_up
  python -m revision_jax.ground film.mp4 "a star grows" --workdir runs/stage2-tiny --budget 0.15
  python -m revision_jax.ground film.mp4 --queries events.txt --json > moments.json
  python -m revision_jax.ground film.mp4 "a star grows" --clips found/ --vtt found/ --csv found.csv

Any container, size and frame rate that FFmpeg reads; of a folder all files below it that end like videos. What is a
file, a folder or ends like a video is a video, all else a sentence; the first is a video. Several sentences share the
work on a video, and its features are kept in the cache folder (~/.cache/revision_jax/features, 4 GiB), so that the next
question reads no video again. Prints the moments of each event, surest first over all videos, or that it is not
there: no answer is as sure as the threshold that `evaluate` chose on validation videos for this way to search
(RUN/eval/calibration.json); then what was looked at, level by level, and what it cost. Without --workdir the newest run
under ./runs that can answer is used.

--depth 1 asks all dense windows; 2 and 3 let upper levels choose windows first (a run of configs/stage2.py). --policy
says how: top_down, bottom_up, top_down_rescaled, fused, cascade, retrieve_then_ground. --keep: the share, or above 1
the number, of windows that each level sends down, coarse first. --budget sets all of these, and the threshold, as
`evaluate --budget` chose them for this share of the dense windows. Any other field of the search: --search.KEY VALUE.
The devices that are there are used: --mesh.data, --mesh.fsdp, --mesh.tensor and --model.attention choose.

Exit code 0, also when an event is not there; 2 after an error.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = verb.make_parser("ground", __doc__, USAGE, '%(prog)s VIDEO|FOLDER ... "SENTENCE" ... [flags]')
    add = parser.add_argument
    add("asked", metavar="VIDEO|SENTENCE", nargs="+", help="videos or folders of them, then events, each in quotes")
    add("--queries", metavar="FILE", help="a text file with one sentence a line")
    add("--workdir", metavar="RUN", help="a trained run, or a bundle (default: see below)")
    verb.add_search(parser)
    add("--skip-broken", action="store_true", help="tell and leave out files that are no whole videos")
    add("--cache", choices=("on", "off"), default="on", help="keep the features of videos (default: on)")
    add("--json", action="store_true", help="print JSON (docs/data.md has its keys)")
    add("--csv", metavar="FILE", help="write the moments as a table")
    add("--vtt", metavar="DIR", help="write chapters of each video as WebVTT")
    add("--edl", metavar="FILE", help="write an edit decision list (CMX 3600, 25 frames a second)")
    add("--clips", metavar="DIR", help="write each moment as a video, from the key frame before it")
    add("--exact", action="store_true", help="with --clips: from and to the frame, encoded anew, without sound")
    add("--timings", action="store_true", help="tell where the time went")
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    return verb.run(act, verb.parse(make_parser(), argv, ["search", "mesh", "model"]), quiet=True)


def act(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    if args.exact and not args.clips:
        raise ValueError("--exact is about clips; give --clips DIR too, or leave it out.")
    if args.top < 1:
        raise ValueError(f"--top is {args.top}; expected at least 1.")
    paths = [asked for number, asked in enumerate(args.asked) if number == 0 or finding.is_path(asked)]
    sentences = asking.read_sentences([asked for asked in args.asked[1:] if not finding.is_path(asked)], args.queries)
    fields, least = verb.searched(args)
    # What is no video is told before anything is loaded.
    videos, broken = asking.sound_videos(finding.find_videos(paths), args.skip_broken)
    console = rich.console.Console(stderr=True)
    with progress.Progress(*_columns(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loads the run", total=len(videos))
        run = runs.load_run(args.workdir, fields, args.budget)
        if args.workdir is None:
            console.print(f"uses {run.name}", highlight=False, markup=False)
        run.check_sentences(sentences)
        how = asking.Asking(args.top, least, args.skip_broken, args.cache == "on")
        loaded = time.perf_counter()
        tell = lambda done, doing: bar.update(task, completed=done, description=doing)
        asked = asking.ask(run, videos, sentences, how, tell)
    asked.skipped[:0] = broken
    for error in asked.skipped:
        console.print(f"skipped: {error}", highlight=False, markup=False, soft_wrap=True)
    print(answers.as_json(asked.answered, asked.skipped) if args.json else answers.describe(asked.answered))
    files = asking.Files(args.csv, args.vtt, args.edl, args.clips, args.exact)
    asking.write_files(files, answers.moments(asked.answered))
    if args.timings:
        parts = {"start": loaded - started, **asked.seconds, "all": time.perf_counter() - started}
        console.print("  ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items()), highlight=False)


def _columns() -> tuple:
    named = progress.TextColumn("{task.description}", markup=False)  # a video's name may hold brackets
    return (named, progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())


if __name__ == "__main__":
    sys.exit(main())
