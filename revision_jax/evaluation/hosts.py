"""Several hosts on one evaluation: each answers its own videos and writes its own log; then all logs are read."""

from collections.abc import Sequence
from pathlib import Path

import jax

from revision_jax.parallel import multihost


def own_share(videos: Sequence[str]) -> list[str]:
    """The videos of this host: every n-th of them."""
    return list(videos)[jax.process_index() :: jax.process_count()]


def log_path(path: Path) -> Path:
    """Where this host writes what the evaluation keeps in `path`: there, or beside it for all hosts but the first."""
    return path if multihost.is_first() else path.with_suffix(f".host{jax.process_index()}{path.suffix}")


def host_logs(path: Path) -> list[Path]:
    """What other hosts than the first wrote beside `path`, in this evaluation or in one that was stopped."""
    return sorted(path.parent.glob(f"{path.stem}.host*{path.suffix}"))
