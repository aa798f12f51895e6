"""What a second question about an hour costs against the first: `ground` twice, in processes of their own.

    python -m revision_jax.benchmarks.second_question --workdir runs/stage1-tiny
    python -m revision_jax.benchmarks.second_question --workdir runs/stage1-tiny --width 1920 --height 1080

Minutes of Shapes as a recording has them: 1280 x 720 at 25 frames a second by default, one minute encoded and repeated
to the length. The cache folder is empty before the first question, of features and of compiled programs. Seconds are
those of a person who waits, from the start of the command to its end, with the parts that `--timings` tells; beside
them the seconds of processors, which other work on the machine changes less. Prints one JSON line.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from revision_jax.data.builders import shapes_world as world
from revision_jax.data.video.frames import write_video
from revision_jax.text import split_lines

SENTENCES = ("a red circle moves to the left", "a blue star appears")


class Form(NamedTuple):
    """Of a video file: width and height in pixels, frames a second."""

    width: int
    height: int
    fps: int


def make_film(path: Path, form: Form, minutes: int) -> None:
    """Shapes in that form as an H.264 file: the square picture in the middle, one minute repeated."""
    part = path.with_name(f"part-{path.name}")
    encode_seconds(part, form, 60)
    with av.open(str(path), "w") as target:
        stream = None
        for number in range(minutes):
            with av.open(str(part)) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                shift = round(60 * number / source.streams.video[0].time_base)
                for packet in source.demux(video=0):
                    if packet.dts is None:  # the end
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    target.mux(packet)
    part.unlink()


def encode_seconds(path: Path, form: Form, seconds: int) -> None:
    """The first seconds of a video of Shapes in that form as an H.264 file: the square picture in the middle."""
    video, side = world.make_video("test", 0), min(form.width, form.height)
    top, left = (form.height - side) // 2, (form.width - side) // 2
    scaler = VideoReformatter()

    def pictures() -> Iterator[np.ndarray]:
        for second in range(seconds):
            batch = np.zeros((form.fps, form.height, form.width, 3), np.uint8)
            for whole, small in zip(batch, video.frames(second + np.arange(form.fps) / form.fps)):
                frame = av.VideoFrame.from_ndarray(small, format="rgb24")
                whole[top : top + side, left : left + side] = scaler.reformat(frame, side, side, "rgb24").to_ndarray()
            yield batch

    write_video(path, pictures(), form.fps)


def timings(told: str) -> dict[str, float]:
    """Seconds of each part, of the line that `ground --timings` writes."""
    return {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([\d.]+) s\b", told)}


def ask(video: Path, sentence: str, workdir: Path, cache: Path) -> dict[str, Any]:
    """One question, as typed into a terminal.

    Raises:
      RuntimeError: the command failed; the message is its own.
    """
    command = [sys.executable, "-m", "revision_jax.ground", video, sentence, "--workdir", workdir, "--timings"]
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"REVISION_JAX_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": processor, "parts": timings(split_lines(done.stderr)[-1])}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the film and asks twice; see `main` for the arguments."""
    form = Form(args.width, args.height, args.fps)
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        make_film(film, form, args.minutes)
        size = film.stat().st_size
        first, second = (ask(film, sentence, args.workdir, Path(folder) / "cache") for sentence in SENTENCES)
    return {
        "benchmark": "second_question",
        "workdir": str(args.workdir),
        "film": form._asdict() | {"minutes": args.minutes, "bytes": size},
        "first": first,
        "second": second,
        "times": first["seconds"] / second["seconds"],
        "times_of_processors": first["processor_seconds"] / second["processor_seconds"],
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="a run that can answer")
    add("--width", type=int, default=1280, help="of the pictures, even (default: %(default)s)")
    add("--height", type=int, default=720, help="of the pictures, even (default: %(default)s)")
    add("--fps", type=int, default=25, help="pictures a second (default: %(default)s)")
    add("--minutes", type=int, default=60, help="length of the film (default: %(default)s)")
    print(json.dumps(measure(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
