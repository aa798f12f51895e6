"""Speed of random windows from a store like MAD's: the training pipeline beside loaders of HDF5 and LMDB.

    python -m revision_jax.benchmarks.loaders --gigabytes 1 --repeat 5

One process each, batches of 32 windows of 125 s at 5 fps (625 stored frames, 250 of which are used) of features 768
wide in float16, in the page cache. The same features in four forms:

  ours          ArrayRecord, by the training pipeline: drawn by seed and number, prompts and answers tokenized, batched
  h5py          a data set a movie, as MAD publishes it; the window's span read, its frames taken
  LMDB, npz     an npz a movie, as CONE publishes it; the movie read, its frames taken
  LMDB, raw     a movie's bytes as one value, its frames taken in place: the fastest that LMDB allows

The peers only fill the batch's features. Before the clock every form must give the same frames. One JSON line.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np

from revision_jax.benchmarks.machine import machine
from revision_jax.benchmarks.pipeline import BATCH, Take, filled_batches, make_data, pipeline_batches
from revision_jax.benchmarks.side_by_side import Claim, Program, compare, take_turns
from revision_jax.data.store.features import FeatureStore

PREFETCH = 1  # batches ahead of ours: what it reads while others have their turn


def hdf5_loader(store: FeatureStore, folder: Path) -> Take:
    """One .h5 with a data set a movie, and its loader."""
    path = folder / "features.h5"
    with h5py.File(path, "w") as file:
        for movie in store.video_ids:
            file[movie] = store.read_all(movie)
    movies = h5py.File(path, "r")

    def take(movie: str, frames: np.ndarray, row: np.ndarray) -> None:
        span = movies[movie][frames[0] : frames[-1] + 1]
        np.take(span, frames - frames[0], axis=0, out=row, mode="clip")

    return take


def _lmdb(store: FeatureStore, path: Path, value: Callable[[np.ndarray], bytes]) -> lmdb.Environment:
    size = sum(shard.bytes for shard in store.manifest.shards)
    with lmdb.open(str(path), map_size=2 * size + (64 << 20)) as written, written.begin(write=True) as change:
        for movie in store.video_ids:
            change.put(movie.encode(), value(store.read_all(movie)))
    return lmdb.open(str(path), readonly=True, lock=False, readahead=False)


def npz_loader(store: FeatureStore, folder: Path) -> Take:
    """An LMDB with an npz a movie, and its loader."""

    def npz(features: np.ndarray) -> bytes:
        np.savez(stream := io.BytesIO(), features=features)
        return stream.getvalue()

    read = _lmdb(store, folder / "npz", npz).begin(buffers=True)

    def take(movie: str, frames: np.ndarray, row: np.ndarray) -> None:
        features = np.load(io.BytesIO(read.get(movie.encode())))["features"]
        np.take(features, frames, axis=0, out=row, mode="clip")

    return take


def raw_loader(store: FeatureStore, folder: Path) -> Take:
    """An LMDB with a movie's bytes, and its loader."""
    read = _lmdb(store, folder / "raw", np.ndarray.tobytes).begin(buffers=True)
    dtype, width = store.manifest.dtype, store.manifest.width

    def take(movie: str, frames: np.ndarray, row: np.ndarray) -> None:
        features = np.frombuffer(read.get(movie.encode()), dtype).reshape(-1, width)
        np.take(features, frames, axis=0, out=row, mode="clip")

    return take


def store_loader(store: FeatureStore, _: Path) -> Take:
    """Our store, its frames alone."""
    return lambda movie, frames, row: store.read(movie, frames, out=row)


PIPELINE, STORE = "ours, the pipeline", "ours, frames alone"
NPZ, SLOWER = "LMDB, npz", 25  # it gets a 25th of the windows
PEERS = {"h5py": hdf5_loader, NPZ: npz_loader, "LMDB, raw": raw_loader}


def check_equal(batches: dict[str, Iterator[np.ndarray]]) -> None:
    """Raises ValueError where the first batches of the loaders differ."""
    found = {name: next(own) for name, own in batches.items()}
    for name, batch in found.items():
        if not np.array_equal(batch, found[STORE]):
            raise ValueError(f"the loader {name!r} gives other features than our store; expected the same windows")


def next_of(batches: Iterator, count: int) -> Callable[[], None]:
    """A call that takes the next `count` batches."""

    def take() -> None:
        for _ in range(count):
            next(batches)

    return take


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All loaders on one set of features; see `main` for the arguments."""
    split = make_data(folder, args.gigabytes)
    store = FeatureStore(split)
    takes = {STORE: store_loader(store, folder)} | {name: make(store, folder) for name, make in PEERS.items()}
    batches = {name: filled_batches(split, take) for name, take in takes.items()}
    check_equal(batches)
    pipeline = pipeline_batches(split, args.threads, PREFETCH)
    records = sum(shard.records for shard in store.manifest.shards)
    for own in (batches[STORE], pipeline):  # a record is verified when it is first read; a window has ten of them
        next_of(own, -(-records // BATCH))()
    count = max(1, args.windows // BATCH)
    programs = {PIPELINE: Program(next_of(pipeline, count), count, ready=next_of(pipeline, PREFETCH + args.threads))}
    for name, own in batches.items():
        turn = max(1, count // SLOWER) if name == NPZ else count
        programs[name] = Program(next_of(own, turn), turn)
    seconds = take_turns(programs, args.repeat, rest_s=args.rest)
    pipeline.close()
    rows = []
    for ours, says in ((PIPELINE, "the whole training pipeline"), (STORE, "frames alone")):
        beside = {name: seconds[name] for name in (ours, *PEERS)}
        rows += compare(Claim(f"random windows, ours {says}", f"ms a batch of {BATCH}", ours), beside)
    return {
        "benchmark": "loaders",
        "features_gb": round(sum(shard.bytes for shard in store.manifest.shards) / 1e9, 2),
        "windows": count * BATCH,
        "threads": args.threads,
        **machine(),
        "beside": rows,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gigabytes", type=float, default=0.5, help="features to make, on disk five times (default: %(default)s)")
    add("--windows", type=int, default=1600, help="windows of a turn (default: %(default)s; LMDB, npz: a 25th)")
    add("--threads", type=int, default=1, help="data.read_threads of ours (default: %(default)s)")
    add("--repeat", type=int, default=5, help="rounds in which the loaders take turns (default: %(default)s)")
    add("--rest", type=float, default=0.3, help="seconds of rest before each turn (default: %(default)s)")
    add("--folder", type=Path, help="where the features are made; deleted afterwards (default: a temporary one)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(json.dumps(measure(args, Path(folder))))


if __name__ == "__main__":
    main()
