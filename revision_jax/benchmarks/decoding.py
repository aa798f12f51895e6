"""Speed of a video file to sampled, scaled pictures: our reader beside the program ffmpeg, on the same cores.

    python -m revision_jax.benchmarks.decoding --width 1920 --height 1080 --codec h264
    python -m revision_jax.benchmarks.decoding --width 320 --height 240 --codec h264,hevc,av1 --seconds 60

A film at 25 frames a second: moving shapes before a background with detail and grain that move, too, in the codec's
usual settings (pictures that refer to later ones among them). Ours reads it as the extractor does: pictures of 224 x
224, bicubic. ffmpeg does the same with its filters fps, scale and crop, into no file. Both may use all cores. `decode
alone` is PyAV that decodes every picture and converts none. Before the clock, both must give as many pictures. One JSON
line.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from revision_jax.benchmarks.machine import machine, same_priority
from revision_jax.benchmarks.side_by_side import Claim, Program, compare, take_turns
from revision_jax.data.builders import shapes_world as world
from revision_jax.data.video.frames import read_frames

FILM_FPS, SIZE = 25, 224  # frames a second of the film; pixels of a sampled picture
CODECS = {
    "h264": ("libx264", {"preset": "veryfast"}),
    "hevc": ("libx265", {"preset": "veryfast", "x265-params": "log-level=none"}),
    "av1": ("libsvtav1", {"preset": "10"}),
}
DETAIL, PAN = 24, 2  # levels of grey that the background differs by; pixels that it moves a picture
GRAIN = 2.0  # standard deviation, in levels of grey, of noise that is another in each picture, as of a camera


def background(width: int, height: int) -> np.ndarray:
    """Grey with detail of several sizes, as wide again as a picture: uint8 `[height, 2 * width]`."""
    rng, found = np.random.default_rng(0), np.full((height, 2 * width), 96.0)
    for size in (4, 16, 64):
        coarse = rng.normal(size=(-(-height // size), -(-2 * width // size)))
        found += DETAIL / 2 * coarse.repeat(size, 0).repeat(size, 1)[:height, : 2 * width]
    return found.clip(0, 255).astype(np.uint8)


def film_pictures(width: int, height: int, seconds: int) -> Iterator[np.ndarray]:
    """RGB `[height, width, 3]`, one after the other: the shapes in the middle, enlarged by whole pixels."""
    video, behind = world.make_video("test", 0), background(width, height)
    grain = np.random.default_rng(1).normal(0, GRAIN, (2 * height, 2 * width)).round().astype(np.int16)
    place = np.random.default_rng(2)
    for number in range(seconds * FILM_FPS):
        start = number * PAN % width
        y, x = place.integers(height), place.integers(width)
        grey = behind[:, start : start + width] + grain[y : y + height, x : x + width]
        shown = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        small = next(iter(video.frames(np.array([number / FILM_FPS]))))
        factor = max(1, min(width, height) // (2 * len(small)))
        shapes = small.repeat(factor, 0).repeat(factor, 1)[:height, :width]
        top, left = (height - shapes.shape[0]) // 2, (width - shapes.shape[1]) // 2
        shown[top : top + shapes.shape[0], left : left + shapes.shape[1]] = shapes
        yield shown


def make_film(path: Path, codec: str, width: int, height: int, seconds: int) -> None:
    """Writes the film in the settings of `CODECS`."""
    encoder, options = CODECS[codec]
    with same_priority(), av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=Fraction(FILM_FPS), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for shown in film_pictures(width, height, seconds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())


def run_ffmpeg(program: str, film: Path, fps: float) -> int:
    """Number of pictures that the program ffmpeg makes.

    Raises:
      RuntimeError: it failed, or it told no number; the message is its own.
    """
    filters = f"fps={fps:g},scale={SIZE}:{SIZE}:force_original_aspect_ratio=increase:flags=bicubic,crop={SIZE}:{SIZE}"
    command = [
        program,
        "-nostdin",
        "-hide_banner",
        "-i",
        film,
        "-an",
        "-vf",
        f"{filters},format=rgb24",
        "-f",
        "null",
        "-",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    counts = re.findall(r"frame=\s*(\d+)", done.stderr)
    if done.returncode or not counts:
        raise RuntimeError(f"{program} failed with {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    return int(counts[-1])


def decode_all(film: Path) -> int:
    """Number of pictures, each decoded by all threads."""
    with av.open(str(film)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def measure(args: argparse.Namespace, codec: str, folder: Path) -> dict[str, Any]:
    """One film, read by all; see `main` for the arguments.

    Raises:
      ValueError: ours and ffmpeg's differ by more than one picture.
    """
    film = folder / f"{codec}.mp4"
    make_film(film, codec, args.width, args.height, args.seconds)
    ours = lambda: sum(map(len, read_frames(film, args.fps, SIZE)))
    count, theirs = ours(), run_ffmpeg(args.ffmpeg, film, args.fps)
    if abs(count - theirs) > 1:
        raise ValueError(f"ours samples {count} pictures of {film.name}, {args.ffmpeg} {theirs}; expected as many")
    programs = {
        "ours": Program(ours, args.seconds),
        "ffmpeg": Program(lambda: run_ffmpeg(args.ffmpeg, film, args.fps), args.seconds),
        "decode alone": Program(lambda: decode_all(film), args.seconds),
    }
    work = f"film to pictures, {args.width} x {args.height} {codec}, {args.fps:g} of {FILM_FPS} frames a second"
    seconds = take_turns(programs, args.repeat, rest_s=args.rest)
    return {
        "codec": codec,
        "bytes": film.stat().st_size,
        "pictures": count,
        "beside": compare(Claim(work, "ms a second of film", "ours"), seconds),
    }


def version(program: str) -> str:
    """Of ffmpeg: the third word that it says."""
    try:
        told = subprocess.run([program, "-version"], capture_output=True, text=True).stdout.split()
    except FileNotFoundError as error:
        raise SystemExit(
            f"error: no program {program}; expected FFmpeg's; install it, or name it with --ffmpeg"
        ) from error
    return told[2] if len(told) > 2 else "?"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--codec", default="h264", help=f"some of {', '.join(CODECS)}, with commas (default: %(default)s)")
    add("--width", type=int, default=1280, help="of the film's pictures, even (default: %(default)s)")
    add("--height", type=int, default=720, help="of the film's pictures, even (default: %(default)s)")
    add("--seconds", type=int, default=20, help="of the film (default: %(default)s)")
    add("--fps", type=float, default=5.0, help="pictures a second to sample (default: %(default)s)")
    add("--ffmpeg", default="ffmpeg", help="FFmpeg's program (default: %(default)s)")
    add("--repeat", type=int, default=5, help="rounds in which they take turns (default: %(default)s)")
    add("--rest", type=float, default=0.2, help="seconds of rest before each turn (default: %(default)s)")
    args = parser.parse_args(argv)
    codecs = args.codec.split(",")
    if strangers := set(codecs) - CODECS.keys():
        parser.error(f"--codec has {', '.join(sorted(strangers))}; expected some of {', '.join(CODECS)}")
    about = {"benchmark": "decoding", "ffmpeg": version(args.ffmpeg), **machine()}
    with tempfile.TemporaryDirectory() as folder:
        films = [measure(args, codec, Path(folder)) for codec in codecs]
    beside = [row for film in films for row in film.pop("beside")]
    print(json.dumps({**about, "films": films, "beside": beside}))


if __name__ == "__main__":
    main()
