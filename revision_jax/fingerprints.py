"""What files are known by: content hashes of pretrained parts, and of what a run trained."""

import functools
import hashlib
from pathlib import Path

WEIGHTS = (".safetensors", ".bin", ".pt", ".json", ".model", ".txt")  # what a pretrained part is made of
LARGE = 2**26  # bytes


def fingerprint(path: str | Path) -> str:
    """sha256 over the names and contents of a file, or of the weight and config files of a directory."""
    path = Path(path)
    files = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.suffix in WEIGHTS)
    if not files:
        raise FileNotFoundError(f"no weights at {path}; expected a file, or a directory that holds some.")
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}:{_file_sha256(file)}\n".encode())
    return total.hexdigest()


def _file_sha256(file: Path) -> str:
    """sha256 of a file's content. A large file (a base LLM has 13 GB) is hashed once a process."""
    stat = file.stat()
    if stat.st_size < LARGE:
        return _hashed(file)
    return _hashed_once(file.absolute(), stat.st_size, stat.st_mtime_ns)


def _hashed(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def _hashed_once(file: Path, size: int, mtime_ns: int) -> str:
    return _hashed(file)


def finished_steps(directory: str | Path) -> list[int]:
    """The steps whose checkpoints are whole, in order; a write that a kill cut short has another name."""
    return sorted(int(path.name) for path in Path(directory).glob("*") if path.name.isdigit())


def fingerprint_trained(directory: str | Path, step: int | None = None) -> str:
    """sha256 over the trained parameters of one step in a run's checkpoints.

    Args:
      directory: the run's `checkpoints/`.
      step: None is the newest one.

    Raises:
      FileNotFoundError: there is no such finished step.
    """
    steps = finished_steps(directory)
    if not steps or step not in (None, *steps):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise FileNotFoundError(f"no {wanted} in {directory}; expected those of a trained run.")
    params = Path(directory) / str(steps[-1] if step is None else step) / "params"
    total = hashlib.sha256()
    for file in sorted(path for path in params.rglob("*") if path.is_file()):
        total.update(f"{file.relative_to(params)}:{_hashed(file)}\n".encode())
    return total.hexdigest()
