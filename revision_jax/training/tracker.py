"""Where a run can be watched beside `metrics.jsonl`: TensorBoard's events, and Weights & Biases if it is chosen."""

import hashlib
import html
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from revision_jax.config import ConfigError

WANDB = "wandb"


class Tracker(Protocol):
    """Takes numbers, texts and pictures as they come; of several hosts the first one alone has any."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by names such as `train/loss`."""

    def write_text(self, step: int, name: str, text: str) -> None:
        """A text in Markdown."""

    def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture `[H, W, 3]` uint8."""

    def flush(self) -> None:
        """What was written can be seen now."""

    def close(self) -> None: ...


class TensorBoard:
    """Events in the work folder.

    Args:
      step: the step the run continues from; events after it are dropped.
    """

    def __init__(self, workdir: Path, step: int):
        from tensorboardX import SummaryWriter  # it imports PyTorch where that is installed, which takes seconds

        self._events = SummaryWriter(str(workdir), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def write_text(self, step: int, name: str, text: str) -> None:
        self._events.add_text(name, text, step)

    def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._events.add_image(name, pixels, step, dataformats="HWC")

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases:
    """A run of the project `revision_jax` there; its own settings (WANDB_MODE, WANDB_PROJECT, ...) count.

    It belongs to the work folder: a run that goes on writes to the same one, which drops steps that it has already.
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        import wandb  # optional

        self._wandb = wandb
        name = str(workdir.absolute())
        self._run = wandb.init(
            dir=str(workdir), config=config.to_dict(), name=workdir.name, resume="allow",
            id=hashlib.sha256(name.encode()).hexdigest()[:16],
        )  # fmt: skip

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def write_text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: self._wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def flush(self) -> None:
        """It sends what it has in its own time."""

    def close(self) -> None:
        self._run.finish()


def check_tracker(track: str) -> None:
    """Raises ConfigError where the package of `track` is not there."""
    if track == WANDB and importlib.util.find_spec(WANDB) is None:
        raise ConfigError(
            "track is 'wandb', and that package is not installed; pip install wandb (the extra `wandb`), or leave "
            "--config.track out: TensorBoard's events are always written."
        )


def open_trackers(workdir: Path, step: int, config: ConfigDict | None = None) -> list[Tracker]:
    """TensorBoard, and what the config's `track` names beside it."""
    trackers: list[Tracker] = [TensorBoard(workdir, step)]
    return trackers + ([WeightsAndBiases(workdir, config)] if config is not None and config.track == WANDB else [])
