"""The commands of `prepare`: make a split or list its gaps beforehand, merge shards, check, and report."""

import argparse
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import rich.console
import rich.progress
import rich.table
import rich.text

from revision_jax.config import resolve_path
from revision_jax.data import check
from revision_jax.data.annotations.gaps import GAPS, Gap, in_order, load_gaps, save_gaps, summarise
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.annotations.rows import accept
from revision_jax.data.batches.train_split import too_long
from revision_jax.data.builders.annotated import QUERY_TOKENS, Annotated, Imported
from revision_jax.data.builders.base import QUERIES, SHARDS
from revision_jax.data.builders.merge import merge_shards
from revision_jax.data.frame_rate import rate_note
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.store.manifest import Manifest
from revision_jax.data.video.extraction import identify
from revision_jax.data.video.frames import VideoError, probe
from revision_jax.disk import room_in
from revision_jax.preparation.inputs import make_builder, make_query_builder
from revision_jax.preparation.page import write_page
from revision_jax.prompts import (
    YES,
    PromptEncoder,
    PromptTemplate,
    group_answer,
    span_answer,
    video_answer,
)
from revision_jax.report.table import clock, print_rows
from revision_jax.tokenizer_files import load_tokenizer

TOO_LONG = "too_long.jsonl"  # queries that `check --llm` found
LONGEST = {"dense": span_answer(249, 249), "sparse": YES, "group": group_answer(99, 100), "retrieval": video_answer(99)}
SHOWN = 30  # gaps in the table; all of them are in the file
WIDTH = 80  # of a table that goes into a file or pipe
log = logging.getLogger(__name__)


def make(args: argparse.Namespace) -> int:
    """`prepare DATASET` makes a split or a shard: 0, or 1 if it has gaps."""
    builder = make_builder(args)
    queries = make_query_builder(args, builder.annotations)
    for note in builder.annotations.notes:
        log.info("%s", note)
    if args.dry_run:
        return _tell(f"{args.command} {args.split}, before it is made", {args.split: look(builder)})
    with progress("videos") as on_video:
        directory = builder.prepare(on_video)
    if queries is not None:
        with progress("sentences") as on_query:
            queries.prepare(on_query)
    if args.shard[1] > 1:
        log.info("%s is there; when all are: python -m revision_jax.prepare merge %s", directory, directory.parents[1])
    annotated = any(row.duration_s for row in builder.annotations.rows)
    return _tell_split(directory, annotated)


def look(builder: Annotated) -> list[Gap]:
    """`--dry-run`: the gaps of the annotations and features or videos; reads features, opens videos, writes nothing."""
    gaps, durations = list(builder.annotations.gaps), {}
    with progress("looking") as on_video:
        video_ids = builder.video_ids()
        for number, video_id in enumerate(video_ids, 1):
            found = _length(builder, video_id)
            if isinstance(found, Gap):
                gaps.append(found)
            else:
                durations[video_id] = found
            on_video(number, len(video_ids))
    return in_order([*gaps, *accept(builder.annotations.rows, durations)[1]])


def _length(builder: Annotated, video_id: str) -> float | Gap:
    """Seconds of a video by its file or features, or the gap that says what is wrong with it."""
    if isinstance(builder, Imported):
        found = next(iter(builder.extract([video_id])))[1]
        return found if isinstance(found, Gap) else found.duration_s
    if video_id not in builder.files:
        return Gap("video missing", f"annotated, not among {len(builder.files)} files", video_id)
    try:
        return probe(builder.files[video_id]).duration_s or float("inf")
    except VideoError as error:
        return Gap("video unreadable", str(error), video_id)


def merge(args: argparse.Namespace) -> int:
    """`prepare merge DIR`: joins the shards of a split."""
    for folder in (Path(args.directory), Path(args.directory) / QUERY_TOKENS):
        if (folder / SHARDS).is_dir() or folder == Path(args.directory):
            with progress(f"verifying {folder.name}") as on_video:
                merge_shards(folder, on_video)
    return _tell_split(Path(args.directory))


def run_check(args: argparse.Namespace) -> int:
    """`prepare check DIR`: 1 if there is any gap."""
    splits = check.find_splits(args.directory)
    encoder = identify(resolve_path(args.encoder), args.fps or _fps(splits)) if args.encoder else None
    with contextlib.ExitStack() as stack:
        bars = {split: stack.enter_context(progress(f"checking {split}")) for split in splits} if not args.fast else {}
        on_video = lambda split, done, total: bars[split](done, total)
        gaps = check.check_splits(splits, deep=not args.fast, encoder=encoder, on_video=on_video)
    for split, directory in splits.items():
        if (manifest := check.read_manifest(directory)) is not None:
            _tell_rate(split, manifest)
        if not args.fast:
            with room_in(directory):
                check.save_verdict(directory, gaps[split])
    if args.llm:
        gaps = {split: [*found, *_long_queries(splits[split], args)] for split, found in gaps.items()}
    return _tell(f"check of {args.directory}", gaps)


def _long_queries(directory: Path, args: argparse.Namespace) -> list[Gap]:
    """The queries of a split that a prompt of so many tokens has no room for; all of them are in `TOO_LONG`.

    Another LLM may count otherwise: training does not read them, but counts itself.
    """
    prompts = PromptEncoder(load_tokenizer(str(resolve_path(args.llm))), PromptTemplate(), args.text_tokens)
    queries = check.sound_queries(directory, ())
    found: dict[str, str] = {}
    for level, longest in LONGEST.items():
        found = too_long(queries, prompts, longest, level) | found
    video = {query.query_id: query.video_id for query in queries}
    gaps = [Gap("annotation", detail, video[query_id], query_id) for query_id, detail in found.items()]
    with room_in(directory / TOO_LONG):
        save_gaps(directory / TOO_LONG, gaps)
    if gaps:
        log.info("%s lists %d queries that are too long", directory / TOO_LONG, len(gaps))
    return gaps


def _fps(splits: Mapping[str, Path]) -> float:
    """The frame rate of the first split that has a manifest, else 1."""
    return next((m.fps for path in splits.values() if (m := check.read_manifest(path)) is not None), 1.0)


def run_report(args: argparse.Namespace) -> int:
    """`prepare report DIR`: one HTML page about every split."""
    with room_in(Path(args.directory)):
        path = write_page(args.directory, check.find_splits(args.directory), seed=args.seed)
    log.info("report: %s", path)
    return 0


def _tell_split(directory: Path, annotated: bool = True) -> int:
    """Prints what a split holds and lacks."""
    store = FeatureStore(directory)
    queries = load_queries(directory / QUERIES, store.durations)
    frames = sum(info.num_frames for info in store.manifest.videos.values())
    size = sum(shard.bytes for shard in store.manifest.shards) / 2**20
    rows = [
        ["videos", f"{len(store.video_ids)}"],
        ["length", clock(sum(store.durations.values()))],
        ["queries", f"{len(queries)}"],
        ["frames", f"{frames} of {store.manifest.width} at {store.manifest.fps:g} a second"],
        ["features", f"{size:.1f} MiB from {store.manifest.encoder}"],
    ]
    print_rows(str(directory), "", ["", "found"], rows)
    _tell_rate(directory.name, store.manifest, annotated)
    return _tell("what was left out", {directory.name: load_gaps(directory / GAPS)})


def _tell_rate(split: str, manifest: Manifest, annotated: bool = True) -> None:
    if note := rate_note(manifest, annotated=annotated):
        log.warning("%s: %s", split, note)


def _tell(title: str, gaps: Mapping[str, Sequence[Gap]]) -> int:
    """Prints a table of gaps; 1 if there are any."""
    rows = [[split, gap.kind, gap.video_id, gap.query_id, gap.detail] for split, own in gaps.items() for gap in own]
    total = [gap for own in gaps.values() for gap in own]
    if not total:
        log.info("%s: no gaps", title)
        return 0
    note = summarise(total) + (f"; the first {SHOWN} are shown" if len(rows) > SHOWN else "")
    table = rich.table.Table(title=title, caption=rich.text.Text(note))
    for heading in ("split", "gap", "video", "query"):
        table.add_column(heading, overflow="fold")
    table.add_column("found and expected", ratio=1, overflow="fold")
    for row in rows[:SHOWN]:
        table.add_row(*(rich.text.Text(cell) for cell in row))  # sentences and paths are not markup
    console = rich.console.Console()
    (console if console.is_terminal else rich.console.Console(width=WIDTH)).print(table)
    return 1


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line now and then elsewhere; gives `on_video(done, total)`."""
    console = rich.console.Console(stderr=True)
    named = rich.progress.TextColumn(what.replace("{", "{{").replace("}", "}}"), markup=False)
    columns = [named, rich.progress.BarColumn(), "{task.completed}/{task.total}"]
    columns.append(rich.progress.TimeRemainingColumn())
    with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def on_video(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and (done == total or done % max(1, total // 10) == 0):
                log.info("%s: %d of %d", what, done, total)

        yield on_video
