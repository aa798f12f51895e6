"""The Python API of a trained run: `revision_jax.load_run("runs/stage1-tiny").ground("film.mp4", "a red ball")`."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax.config import ConfigError
from revision_jax.data.video.extraction import Extractor, VideoFeatures
from revision_jax.evaluation.methods import make_searcher
from revision_jax.evaluation.predictions import read_json
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs.grounder import restore_grounder
from revision_jax.runs.splits import make_extractor
from revision_jax.search.result import Result
from revision_jax.search.searcher import Searcher
from revision_jax.search.sentences import Sentences

log = logging.getLogger(__name__)
HOW_TO_TRAIN = "make one with `python -m revision_jax.train --config configs/stage1.py`"


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run, ready to search videos.

    Attributes:
      workdir: its work folder.
      threshold: the least confidence that counts as present, chosen on val by `evaluate`; 0, every answer
        counts, where the run was not evaluated.
    """

    workdir: Path
    config: ConfigDict
    searcher: Searcher
    extractor: Extractor
    threshold: float

    def ground(self, video: str | Path | VideoFeatures, sentences: str | Sequence[str]) -> list[Result]:
        """When do the events happen? One result a sentence, its moments in seconds, surest first.

        Args:
          video: a file that FFmpeg reads, or what `encode` made of one.
          sentences: one query or several; several share the work on the video.

        Raises:
          VideoError: the file cannot be used as a video.
          ValueError: a sentence is empty or too long.
        """
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        self.check(sentences)
        features = video if isinstance(video, VideoFeatures) else self.encode(video)
        with jax.set_mesh(self.searcher.mesh):
            return self.searcher.search(features, Sentences(sentences), threshold=self.threshold).results

    def encode(self, video: str | Path) -> VideoFeatures:
        """The features of a video file, to be searched several times."""
        return self.extractor.encode_video(video)

    def check(self, sentences: Sequence[str]) -> None:
        """Raises ValueError for a sentence that cannot be asked; warns of words that the model does not know."""
        if not sentences:
            raise ValueError("there is no query; expected at least one sentence.")
        unknown = self.searcher.prompts.tokenizer.unk_token_id
        for sentence in sentences:
            if unknown is not None and unknown in self.searcher.question(sentence):
                log.warning("%r holds words that this run's language model does not know", sentence)


def load_run(workdir: str | Path | None = None) -> Run:
    """The newest checkpoint of a work folder; without one, of the newest run under `./runs`.

    Raises:
      ConfigError: there is no trained run there.
      CheckpointError: its files changed.
    """
    workdir = newest_run() if workdir is None else Path(workdir)
    if not (workdir / "config.json").is_file() or not any((workdir / "checkpoints").glob("[0-9]*")):
        raise ConfigError(f"{workdir} holds no trained run (config.json and checkpoints/); {HOW_TO_TRAIN}.")
    config = configs.load_json(workdir / "config.json")
    mesh = make_mesh(**config.mesh)
    grounder, _ = restore_grounder(config, workdir, mesh)
    calibration = read_json(workdir / "eval" / "calibration.json")
    if calibration is None:
        log.warning("%s was not evaluated, so that every answer counts; run `python -m revision_jax.evaluate "
                    "--workdir %s` for a threshold", workdir, workdir)  # fmt: skip
    threshold = 0.0 if calibration is None else calibration["depth1"]["threshold"]
    searcher = make_searcher(config, grounder, mesh)
    return Run(workdir, config, searcher, make_extractor(config, mesh), threshold)


def newest_run(folder: str | Path = "runs") -> Path:
    """The run under `folder` whose checkpoints changed last.

    Raises:
      ConfigError: there is none.
    """
    runs = [path.parent for path in Path(folder).glob("*/checkpoints") if any(path.glob("[0-9]*"))]
    if not runs:
        raise ConfigError(f"there is no trained run under {Path(folder)}/; {HOW_TO_TRAIN}, or give --workdir RUN.")
    return max(runs, key=lambda run: (run / "checkpoints").stat().st_mtime)
