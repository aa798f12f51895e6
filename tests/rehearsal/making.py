"""What the rehearsal runs on: `python -m tests.rehearsal.making DIR FPS`, where DIR/packages holds both packages."""

import sys
from pathlib import Path

from tests.rehearsal import films, random_parts
from tests.rehearsal import tokenizers_of_others as others


def make(folder: Path, fps: float) -> None:
    """`vicuna/`, `clip/`, `mm_projector.bin`, `mad/`, `film.mp4`.

    Args:
      fps: rows of the films' features a second.
    """
    random_parts.write_llm(folder / "vicuna")
    others.write_llama(folder / "packages", folder / "vicuna")
    random_parts.write_clip(folder / "clip")
    others.write_clip(folder / "packages", folder / "clip")
    random_parts.write_projector(folder / "mm_projector.bin")
    films.write_mad(folder / "mad", fps)
    films.write_video(folder / "film.mp4")


if __name__ == "__main__":
    make(Path(sys.argv[1]), float(sys.argv[2]))
