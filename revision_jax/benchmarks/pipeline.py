"""Speed of the training pipeline, against a memory-mapped numpy loader and the raw ArrayRecord read.

    python -m revision_jax.benchmarks.pipeline --gigabytes 4
    python -m revision_jax.benchmarks.pipeline --data DIR                a prepared split, nothing is made
    python -m revision_jax.benchmarks.pipeline --groups --threads 1,2,4,8,16      batches of stage 2 instead

Windows of 125 s at 5 fps (625 stored frames, 250 of which are used) of features 768 wide in float16, in batches of
32, by one process. Cold: the files are first dropped from the page cache. Bytes over the bytes of the windows' spans,
from `/proc/self/io`: `read_ratio` of what was read by calls, `storage_ratio` of what came from the disk, also through
mapped files (other windows may have brought it before). `cpu_us_per_window` is the processor time of all threads, which
other load on the machine hardly changes. Memory: of the process alone, without the page cache, at a tenth of the
windows and at the end. `again`: a second pass of the same process; every record was verified in the first. With
`--groups`, batches of 8 groups of 100 windows, as stage 2 reads them, without the sentences' features; `again` is the
best of five passes.
"""

import argparse
import functools
import json
import os
import shutil
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from revision_jax.benchmarks.machine import processor
from revision_jax.config import resolve_path
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.annotations.rows import Annotations, Row
from revision_jax.data.annotations.table import SentencesById
from revision_jax.data.batches.clips import ClipKind, clip_stream
from revision_jax.data.batches.groups import GroupKind, group_streams
from revision_jax.data.batches.load_group import LoadGroup
from revision_jax.data.batches.query_tokens import QueryTokens
from revision_jax.data.batches.streams import Batching, join
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.builders.annotated import Imported
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video.extraction import Encoder
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import PromptEncoder, PromptTemplate
from revision_jax.tokenizer_files import load_tokenizer

FPS, WIDTH, MOVIE_S = 5.0, 768, 6600.0
HIERARCHY = Hierarchy(window_s=125.0, num_frames=250)
BATCH = 32
GROUPS, GROUP = 8, 100  # groups of a batch of stage 2, and their windows
Take = Callable[[str, np.ndarray, np.ndarray], object]  # video id, its frames [F] in order, the row [F, D] to fill
ARRAYS = "arrays"  # the same features as plain .npy files, for the memory-mapped loader


class RandomMovies:
    """Features of any number of movies, made when they are read: one block of random values, rotated."""

    def __init__(self, count: int):
        block = np.random.default_rng(0).normal(size=(4099, WIDTH)).astype(np.float16)
        self.count, self._first = count, np.resize(block, (int(MOVIE_S * FPS), WIDTH))

    def keys(self) -> list[str]:
        return [f"movie{n:03d}" for n in range(self.count)]

    def read(self, key: str) -> np.ndarray:
        return np.roll(self._first, 977 * int(key.removeprefix("movie")), axis=0)

    def identity(self) -> dict:
        return {"random": self.count}


def make_data(directory: Path, gigabytes: float) -> Path:
    """A split of that size, and its features as `.npy` files beside it."""
    source = RandomMovies(max(2, round(gigabytes * 1e9 / (MOVIE_S * FPS * WIDTH * 2))))
    rng = np.random.default_rng(1)
    starts = rng.uniform(200, MOVIE_S - 200, (source.count, 400))
    rows = [
        Row(f"{key}/{n}", key, f"{n} a man walks to the door and opens it", ((start, start + 4.1),))
        for key, own in zip(source.keys(), starts, strict=True)
        for n, start in enumerate(own)
    ]
    encoder = Encoder("random", "0" * 64, WIDTH, FPS)
    split = Imported(directory / "train", "train", encoder, Annotations(rows), source, name="random").prepare()
    (split / ARRAYS).mkdir(exist_ok=True)
    store = FeatureStore(split)
    for video_id in store.video_ids:
        if not (path := split / ARRAYS / f"{video_id}.npy").is_file():
            np.save(path, store.read_all(video_id))
    return split


def make_prompts(max_text_tokens: int = 40) -> PromptEncoder:
    return PromptEncoder(load_tokenizer(str(resolve_path("asset:tiny/llm"))), PromptTemplate(""), max_text_tokens)


def pipeline_batches(split: Path, threads: int, prefetch: int) -> Iterator[dict]:
    """The training pipeline, from (seed, index) to batches with tokens."""
    store = FeatureStore(split)
    data = TrainSplit(store, load_queries(split / QUERIES, store.durations))
    stream = clip_stream([data], HIERARCHY, make_prompts(), ClipKind(), Batching(BATCH, seed=0))
    yield from join([[stream]], read_threads=threads, prefetch=prefetch).batches


def _zeros(sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token features `[Q, 16, D]` float32 and their mask `[Q, 16]`, in place of an encoder's."""
    return np.zeros((len(sentences), 16, WIDTH), np.float32), np.ones((len(sentences), 16), bool)


def group_batches(split: Path, threads: int, prefetch: int) -> Iterator[dict]:
    """The training pipeline of stage 2: `GROUPS` groups of `GROUP` windows a batch."""
    store = FeatureStore(split)
    queries = load_queries(split / QUERIES, store.durations)
    no_encoder = types.SimpleNamespace(encode_query_tokens=_zeros)
    tokens = QueryTokens(no_encoder, queries.sentences, 16)
    load = LoadGroup(store, HIERARCHY, make_prompts(60), SentencesById(queries), tokens)
    streams = group_streams([(load, TrainSplit(store, queries))], (GROUP,), GroupKind(), Batching(GROUPS, seed=0))
    yield from join([streams], read_threads=threads, prefetch=prefetch).batches


def windows(split: Path) -> Iterator[tuple[str, float]]:
    """Random windows for the loaders that have no pipeline: video id and start in seconds."""
    rng, durations = np.random.default_rng(0), FeatureStore(split).durations
    video_ids = list(durations)
    while True:
        video_id = video_ids[rng.integers(len(video_ids))]
        yield video_id, rng.uniform(0, durations[video_id] - HIERARCHY.window_s)


def filled_batches(split: Path, take: Take) -> Iterator[np.ndarray]:
    """Batches `[BATCH, F, D]` of random windows' features alone, each window put into its row by `take`."""
    store, drawn = FeatureStore(split), windows(split)
    while True:
        batch = np.empty((BATCH, HIERARCHY.num_frames, store.manifest.width), store.manifest.dtype)
        for row in batch:
            video_id, start = next(drawn)
            count = store.manifest.videos[video_id].num_frames
            take(video_id, HIERARCHY.frame_indices(start, start + HIERARCHY.window_s, FPS, count), row)
        yield batch


def mapped_batches(split: Path) -> Iterator[np.ndarray]:
    """Plain numpy: memory-mapped arrays, the 250 frames copied into a batch."""
    arrays = {key: np.load(split / ARRAYS / f"{key}.npy", mmap_mode="r") for key in FeatureStore(split).video_ids}
    return filled_batches(split, lambda key, frames, row: np.take(arrays[key], frames, axis=0, out=row, mode="clip"))


def raw_batches(split: Path) -> Iterator[list[bytes]]:
    """The records of the same windows as ArrayRecord gives them: not parsed, not copied into a batch."""
    store, drawn = FeatureStore(split), windows(split)
    manifest, ends = store.manifest, np.cumsum([shard.records for shard in store.manifest.shards])
    options = "readahead_buffer_size:0,max_parallelism:0"
    readers = [array_record_module.ArrayRecordReader(str(split / s.path), options) for s in manifest.shards]
    while True:
        batch = []
        for _ in range(BATCH):
            video_id, start = next(drawn)
            info = manifest.videos[video_id]
            frames = HIERARCHY.frame_indices(start, start + HIERARCHY.window_s, FPS, info.num_frames)
            shard = int(np.searchsorted(ends, info.first_record, side="right"))
            offset = info.first_record - (ends[shard] - manifest.shards[shard].records)
            first, last = (int(offset + frame // manifest.chunk_frames) for frame in (frames[0], frames[-1]))
            batch += readers[shard].read(first, last + 1)
        yield batch


def drop_caches(split: Path) -> None:
    """Takes the split's files out of the page cache."""
    for path in split.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def measure(batches: Iterator, count: int, each: int = BATCH) -> dict[str, float]:
    """Speed over `count` windows after a first batch, bytes read a byte of span, and memory (MiB).

    each: windows of a batch; at least one batch is read.
    """
    next(batches)
    total = max(1, count // each)
    before, memory, started, busy = _bytes_read(), [], time.perf_counter(), time.process_time()
    for number in range(1, total + 1):
        next(batches)
        if number in (total // 10, total):
            memory.append(own_mib())
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    after = _bytes_read()
    done = total * each
    span = HIERARCHY.window_s * FPS * WIDTH * 2
    return {
        "windows_per_s": round(done / seconds, 1),
        "cpu_us_per_window": round(1e6 * busy / done),
        **{f"{kind}_ratio": round((after[kind] - before[kind]) / done / span, 3) for kind in before},
        "memory_mib": [round(m) for m in memory],
    }


def _bytes_read() -> dict[str, int]:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {"read": int(fields["rchar"]), "storage": int(fields["read_bytes"])}


def own_mib() -> float:
    """Memory that is the process's own: mapped files lie in the page cache."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**10


def run(split: Path, count: int, threads: list[int], prefetch: int) -> dict:
    """All loaders, cold, warm, and again."""
    pipelines = [f"pipeline_{number}_threads" for number in threads]
    loaders: dict[str, Callable[[], Iterator]] = {
        "memory_mapped": lambda: mapped_batches(split),
        "raw_records": lambda: raw_batches(split),
    } | {name: functools.partial(pipeline_batches, split, number, prefetch) for name, number in zip(pipelines, threads)}
    if not (split / ARRAYS).is_dir():
        del loaders["memory_mapped"]
    results = {}
    for name, make in loaders.items():
        drop_caches(split)
        results[name] = {"cold": measure(make(), max(BATCH, count // 10))}
        warm = make()
        results[name] |= {when: measure(warm, count) for when in ("warm", "again")}
        warm.close()
    size = sum(shard.bytes for shard in FeatureStore(split).manifest.shards)
    raw = results["raw_records"]["warm"]["windows_per_s"]
    return {
        "benchmark": "pipeline",
        "features_gb": round(size / 1e9, 2),
        "windows": count,
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        **results,
        "share_of_raw": {name: round(results[name]["warm"]["windows_per_s"] / raw, 3) for name in pipelines},
    }


def run_groups(split: Path, count: int, threads: list[int], prefetch: int) -> dict:
    """The pipeline of stage 2 with some numbers of threads, warm and again."""
    results = {}
    for number in threads:
        batches = group_batches(split, number, prefetch)
        warm = measure(batches, count, GROUPS * GROUP)
        again = [measure(batches, count, GROUPS * GROUP) for _ in range(5)]
        results[f"groups_{number}_threads"] = {
            "warm": warm, "again": max(again, key=lambda found: found["windows_per_s"]),
            "least_cpu_us_per_window": min(found["cpu_us_per_window"] for found in again),
        }  # fmt: skip
        batches.close()
    about = {"benchmark": "pipeline", "windows": count, "cores": len(os.sched_getaffinity(0))}
    return about | {"processor": processor(), **results}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="features to make (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="a prepared split to read instead")
    parser.add_argument("--folder", type=Path, help="where to make them; deleted afterwards (default: a temporary one)")
    parser.add_argument("--windows", type=int, default=20_000, help="windows of a warm run (default: %(default)s)")
    parser.add_argument("--groups", action="store_true", help="measure batches of groups, stage 2's, instead")
    parser.add_argument("--threads", default="1,2", help="data.read_threads, each is measured (default: %(default)s)")
    parser.add_argument("--prefetch", type=int, default=4, help="data.prefetch (default: %(default)s)")
    args = parser.parse_args(argv)
    threads = [int(number) for number in args.threads.split(",")]
    measured = run_groups if args.groups else run
    if args.data:
        print(json.dumps(measured(args.data, args.windows, threads, args.prefetch)))
        return
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        split = make_data(folder, args.gigabytes)
        print(json.dumps(measured(split, args.windows, threads, args.prefetch)))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
