"""How well `ground` does on files that are not like the training's: other sizes, frame rates, containers, codecs.

    python -m revision_jax.benchmarks.ground_files --workdir runs/stage1-tiny

Each held-out video of the run's test split is encoded again in another format, and its share of the queries is
asked of the new file. Found: the answer counts as present and its surest moment has IoU > 0.3 with a true one.
False alarm: an event that never happens is said to be present.
"""

import argparse
import itertools
import json
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import jax
import numpy as np

from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.store.features import FeatureStore
from revision_jax.metrics.grounding import best_iou
from revision_jax.runs.run import load_run

# (suffix, codec, width, height, frames a second)
FORMATS = ((".mkv", "libx264", 160, 120, 12.5), (".avi", "mpeg4", 96, 96, 4.0), (".webm", "libvpx", 128, 96, 10.0))

FAST = {"libx264": {"preset": "ultrafast"}, "libvpx": {"deadline": "realtime", "cpu-used": "8"}}


def convert(source: Path, target: Path, codec: str, width: int, height: int, fps: float) -> None:
    """Encodes a video again at another size and frame rate; wider frames get bars, so that shapes keep their form."""
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(source)) as file, av.open(str(target), "w") as out:
        stream = out.add_stream(codec, rate=rate, options=FAST.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 400_000
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        shown = 0
        for frame in file.decode(video=0):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[top : top + side, left : left + side] = frame.reformat(side, side, "rgb24").to_ndarray()
            # A source frame stands until the next one: repeated or left out by its time.
            while shown / rate < frame.time + 1 / file.streams.video[0].average_rate:
                if shown / rate >= frame.time - 1e-6:
                    encoded = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    encoded.pts, encoded.time_base = shown, 1 / rate
                    out.mux(stream.encode(encoded))
                shown += 1
        out.mux(stream.encode())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Asks the run about its held-out videos in other formats; see `main` for the arguments."""
    changes = {} if args.depth is None else {"search.depth": args.depth}
    run, present, absent = load_run(args.workdir, changes), args.present, args.absent
    directory = run.directories(["test"])["test"]
    queries = load_queries(directory / QUERIES, FeatureStore(directory).durations)
    rng = np.random.default_rng(args.seed)
    kinds = {True: [q for q in queries if q.present], False: [q for q in queries if not q.present]}
    chosen = [q for is_present, n in ((True, present), (False, absent)) for q in rng.permutation(kinds[is_present])[:n]]
    videos = sorted({query.video_id for query in chosen})
    outcomes: dict[bool, list[bool]] = {True: [], False: []}
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for video_id, (suffix, *form) in zip(videos, itertools.cycle(FORMATS)):
            target = Path(folder) / f"{video_id}{suffix}"
            convert(directory / "videos" / f"{video_id}.mp4", target, *form)
            asked = [query for query in chosen if query.video_id == video_id]
            searched = run.search(run.encode(target), [query.sentence for query in asked])
            shares.append(searched.cost.frame_share)
            for query, result in zip(asked, searched.results):
                hit = not query.present or bool((best_iou(result.moments[:1], query.moments) > 0.3).any())
                outcomes[query.present].append(result.present and hit)
    return {
        "benchmark": "ground_files",
        "workdir": str(args.workdir),
        "depth": run.config.search.depth,
        "dense_frames_percent": float(np.mean(shares)),
        "formats": [f"{codec} {width}x{height} at {fps} fps in {s[1:]}" for s, codec, width, height, fps in FORMATS],
        "present": len(outcomes[True]),
        "found_percent": 100 * float(np.mean(outcomes[True])),
        "absent": len(outcomes[False]),
        "false_alarm_percent": 100 * float(np.mean(outcomes[False])),
        "device": jax.devices()[0].device_kind,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="an evaluated run on Shapes")
    parser.add_argument("--present", type=int, default=20, help="queries that happen (default: %(default)s)")
    parser.add_argument("--absent", type=int, default=20, help="queries that never do (default: %(default)s)")
    parser.add_argument("--depth", type=int, help="levels of the search (default: the run's search.depth)")
    parser.add_argument("--seed", type=int, default=0, help="which queries are drawn")
    print(json.dumps(measure(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
