"""The work folder of a run: `config.json`, `metrics.jsonl`, TensorBoard events, `checkpoints/`, `eval/`."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from revision_jax.checkpoint_record import config_changes
from revision_jax.config import ConfigError, load_json, save_json
from revision_jax.files import write_text
from revision_jax.fingerprints import finished_steps
from revision_jax.logs import read_metrics
from revision_jax.training.examples import Example, as_picture, as_table
from revision_jax.training.tracker import open_trackers

# What may differ when a run goes on: it changes how fast a run is, what it keeps and what is done with it afterwards,
# not what it learns. A name that ends with a dot stands for all fields that begin with it.
FREE = (
    "mesh.", "search.", "eval.", "model.remat", "model.attention", "model.unroll", "model.window_chunk",
    "data.read_threads", "data.prefetch", "train.accumulate", "train.log_every", "train.checkpoint_every",
    "train.keep_checkpoints", "train.eval_every", "train.keep_best", "train.skip_nonfinite", "sparse.precision",
    "track",
)  # fmt: skip
# What else may differ where a trained run is read: where files lie (they are compared by content), and which data.
READ_FREE = (*FREE, "base.", "init.", "data.dir", "data.mined", "data.mixture", "data.faults")
log = logging.getLogger(__name__)


def check_workdir(path: Path, config: ConfigDict) -> None:
    """Whether a run of this config may go on in a work folder; anything may where nothing was saved yet.

    Raises:
      ConfigError: it belongs to a config that differs in more than `FREE`; names every such key with both values.
    """
    _, refused = _changes(path, config)
    if refused:
        listed = "\n".join(f"  {key}: {old!r} there, {new!r} now" for key, (old, new) in refused.items())
        raise ConfigError(
            f"the work folder {path} belongs to another config:\n{listed}\n"
            "Give the same config to resume, or another --workdir."
        )


def _changes(path: Path, config: ConfigDict) -> tuple[dict, dict]:
    """What differs from the config of a work folder: (what may, what may not), key -> (there, now)."""
    saved = path / "config.json"
    if not saved.exists() or not finished_steps(path / "checkpoints"):
        return {}, {}
    return config_changes(load_json(saved).to_dict(), config.to_dict(), FREE)


def open_workdir(path: str | os.PathLike, config: ConfigDict) -> Path:
    """Makes a work folder, or enters one that the same config made: then the run resumes.

    Raises:
      ConfigError: the folder belongs to another config, or cannot be written.
    """
    path = Path(path)
    check_workdir(path, config)
    allowed, _ = _changes(path, config)
    if jax.process_index() > 0:
        return path  # on a shared disk: the first host makes it
    if allowed:
        told = ", ".join(f"{key} {new!r} (was {old!r})" for key, (old, new) in allowed.items())
        log.info("goes on with %s", told)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: a kill here must not leave half a config.
        save_json(config, path / "config.json.tmp")
        os.replace(path / "config.json.tmp", path / "config.json")
    except OSError as error:
        raise ConfigError(f"cannot write the work folder {path}: {error}; give another --workdir.") from error
    return path


class MetricsLog:
    """Metrics of every step, as JSON lines and where else the run is watched; of several hosts the first one writes.

    Only what the config determines goes into `metrics.jsonl`, so that an interrupted and resumed run leaves
    the same file as an uninterrupted one, to the bit; timings go to the trackers.

    Args:
      workdir: the run's folder.
      step: the step the run continues from; lines and events after it are dropped.
      config: says where else the run is watched (`track`); None = TensorBoard alone.
    """

    def __init__(self, workdir: Path, step: int, config: ConfigDict | None = None):
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        self.path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in kept))
        self._file = self.path.open("a")
        self._trackers = open_trackers(workdir, step, config)

    def write(self, rows: list[dict[str, float]], timings: dict[str, float]) -> None:
        """Appends one line a step (`{"step": 7, "loss": ...}`, exact float32); `timings` at the last one."""
        if not self._writes:
            return
        for row in rows:
            self._file.write(json.dumps(row) + "\n")
            self._track(row["step"], {f"train/{key}": value for key, value in row.items() if key != "step"})
        if rows:
            self._track(rows[-1]["step"], {f"time/{key}": value for key, value in timings.items()})
        self._flush()

    def write_validation(self, step: int, values: dict[str, float]) -> None:
        """Appends the line of a validation, `{"step": 100, "val_loss": ..., "val_accuracy": ...}`."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._track(step, {f"val/{key.removeprefix('val_')}": value for key, value in values.items()})
        self._flush()

    def show(self, step: int, examples: Sequence[Example]) -> None:
        """Answers of held-out rows against the right ones, as text and as a picture, in the trackers alone."""
        if not (self._writes and examples):
            return
        table, picture = as_table(examples), as_picture(examples)
        for tracker in self._trackers:
            tracker.write_text(step, "val/answers", table)
            tracker.write_image(step, "val/timelines", picture)
        self._flush()

    def _track(self, step: int, values: dict[str, float]) -> None:
        for tracker in self._trackers:
            tracker.write(step, values)

    def _flush(self) -> None:
        self._file.flush()
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        if self._writes:
            self._file.close()
            for tracker in self._trackers:
                tracker.close()
