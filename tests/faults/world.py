"""A tiny run and what it is made from, for verbs that are killed, or run out of disk: made in the server's children."""

import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from revision_jax import config as configs
from revision_jax import train

sys.path += [str(Path(__file__).parents[1] / "runs")]
from tiny_base import config_of, make_base

CHANGES = {"train__steps": 12, "train__checkpoint_every": 2, "data__val_videos": 1, "data__test_videos": 2}


def make(argv: Sequence[str]) -> int:
    """Makes `FOLDER/base`, `FOLDER/data`, the run `FOLDER/run` that ends with its evaluation, and `FOLDER/films`."""
    folder = Path(argv[0])
    make_base(folder / "base")
    films(folder / "films")
    return train.main(train_argv(folder, folder / "run"))


def train_argv(folder: Path, workdir: Path, **changes) -> list[str]:
    """The command of the run, for a work folder."""
    config = config_of(folder / "base", folder / "data", **CHANGES, **changes)
    changed = configs.differences(configs.load(), config)
    return ["--workdir", str(workdir), *(f"--config.{key}={value}" for key, (_, value) in changed.items())]


def prepare_argv(folder: Path, out: Path) -> list[str]:
    """`prepare` of the films."""
    given = ["--videos", folder / "films", "--annotations", folder / "films.jsonl", "--encoder", folder / "base/clip"]
    return ["folder", *map(str, given), "--out", str(out), "--split", "test"]


def films(folder: Path) -> None:
    """Six films of a minute, and their annotations."""
    folder.mkdir()
    rng, lines = np.random.default_rng(0), []
    for number in range(6):
        write_film(folder / f"film{number}.mp4", rng, seconds=60)
        lines.append(
            f'{{"query_id": "q{number}", "video_id": "film{number}", "sentence": "a red ball", "moments": [[5, 9]]}}'
        )
    folder.with_suffix(".jsonl").write_text("\n".join(lines) + "\n")


def write_film(path: Path, rng: np.random.Generator, *, seconds: int, rate: int = 5, **options: str) -> None:
    """A video of coloured squares that move."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        colour, start = rng.integers(0, 255, 3), rng.integers(0, 32)
        for number in range(seconds * rate):
            picture = np.full((48, 64, 3), 60, np.uint8)
            at = (start + number) % 44
            picture[10:30, at : at + 20] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
