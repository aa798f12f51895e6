"""Checkpoints: pytrees, the data iterator and what they belong to, in one atomic step. Knows no model.

A step holds the trained parameters, the optimizer, the Grain iterator and a `meta` record. Orbax writes it in
the background into a temporary directory and renames that when all is written, so a kill loses at most the
steps since the last finished save. Frozen weights are not copied: `meta` names them by path and content hash.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from revision_jax.config_rules import flatten

log = logging.getLogger(__name__)

WEIGHTS = (".safetensors", ".bin", ".pt", ".json", ".model", ".txt")  # what a pretrained part is made of
LARGE = 2**26  # bytes


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or does not belong to this run."""


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint belongs to.

    Attributes:
      config: the run's config as plain values.
      base: role ("llm") -> {"path", "sha256"} of a frozen part.
    """

    config: Mapping[str, Any]
    base: Mapping[str, Mapping[str, str]]


def config_changes(
    saved: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str] = ()
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """The keys in which two configs differ: (those that may, those that may not), key -> (saved, now).

    Args:
      saved, now: nested plain values; lists and tuples count as equal, None stands where a key is missing.
      free: keys that may differ; one that ends with a dot ("search.") frees all keys that begin with it.
    """
    a, b = (flatten(json.loads(json.dumps(config))) for config in (saved, now))
    changed = {key: (a.get(key), b.get(key)) for key in sorted(a | b) if a.get(key) != b.get(key)}
    prefixes = tuple(key for key in free if key.endswith("."))
    allowed = {key: pair for key, pair in changed.items() if key in free or key.startswith(prefixes)}
    return allowed, {key: pair for key, pair in changed.items() if key not in allowed}


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


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last write.

    Args:
      directory: made when missing; unfinished writes of a killed run are removed from it.
      meta: what new steps belong to, and what a restored step must match.
      keep: newest steps that stay.
      keep_best: the step with the lowest validation loss stays beside them.
      free: keys of the config in which a resumed training may differ from its checkpoint, as `config_changes`
        takes them.
      read_only: for readers of a finished run; nothing is made or removed.

    Raises:
      CheckpointError: the directory cannot be made or read.
      ValueError: `free` names a key that the config does not have.
    """

    def __init__(
        self,
        directory: str | Path,
        meta: Meta,
        *,
        keep: int = 1,
        keep_best: bool = False,
        free: Sequence[str] = (),
        read_only: bool = False,
    ):
        self.directory, self.meta, self.read_only = Path(directory).absolute(), meta, read_only
        self.free = tuple(free)
        _check_free(self.free, meta.config)
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "optimizer": ocp.StandardCheckpointHandler(),
            # One position of all hosts (data/batches/streams.py), so that any number of them can go on from it.
            "iterator": ocp.JsonCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        kept = [policies.LatestN(None if read_only else keep)]
        if keep_best:
            kept.append(policies.BestN(get_metric_fn=_val_loss, reverse=True, n=1))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            best_fn=_val_loss,
            best_mode="min",
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        with self._explained("open"):
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the lowest validation loss, of those that are kept; None if none of them has one."""
        self.wait()
        with self._explained("read the validation losses in"):
            step = self._manager.best_step()
            found = step is not None and math.isfinite(_val_loss(self._manager.metrics(step)))
        return step if found else None

    def save(self, step: int, params: Any, optimizer: Any, iterator: Any, *, val_loss: float | None = None) -> None:
        """Starts to write a step; returns when the arrays are copied off the device.

        Args:
          step: updates done; must be greater than that of any step before.
          params, optimizer: pytrees of arrays.
          iterator: the Grain iterator; its position is saved.
          val_loss: validation loss of these parameters, the same on all hosts; None if it was not measured, and
            a step with NaN is never the best.

        Raises:
          CheckpointError: this write, or the one before it in the background, failed (a full disk, say).
        """
        with self._explained(f"save step {step} to"):
            self._manager.save(
                step,
                metrics={"val_loss": val_loss},
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    optimizer=ocp.args.StandardSave(optimizer),
                    iterator=ocp.args.JsonSave(iterator.get_state()),
                    meta=ocp.args.JsonSave(_plain(self.meta, params)),
                ),
            )

    def save_weights(self, step: int, params: Any) -> None:
        """Writes a step that holds parameters alone, for weights that were trained elsewhere."""
        with self._explained(f"save step {step} to"):
            meta = ocp.args.JsonSave(_plain(self.meta, params))
            args = ocp.args.Composite(params=ocp.args.StandardSave(params), meta=meta)
            self._manager.save(step, metrics={"val_loss": None}, args=args)

    def restore(self, params: Any, optimizer: Any, iterator: Any) -> tuple[int, Any, Any] | None:
        """The newest step as (step, params, optimizer), `iterator` moved to its place; None if there is none.

        Args:
          params, optimizer: arrays (or shapes with shardings) of the expected tree; restored to those
            shardings, whatever the mesh was that saved them.
          iterator: the Grain iterator of this run.

        Raises:
          CheckpointError: a config that differs in more than `free`, other base weights or other parameters, each
            with both sides; weights without an optimizer; a step that cannot be read.
        """
        step = self.latest_step
        if step is None:
            return None
        if not (self.directory / str(step) / "optimizer").exists():
            raise CheckpointError(
                f"{self.directory / str(step)} holds weights that were converted, with no optimizer to go on from; "
                "start a new run from this one (init.dense, init.sparse) in another --workdir."
            )
        changed = self._check(step, params, resumes=True)
        with self._explained(f"restore step {step} from"):
            got = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=_restore_as(params),
                    optimizer=_restore_as(optimizer),
                    iterator=ocp.args.JsonRestore(),
                ),
            )
            iterator.set_state(got.iterator)
        if changed:
            log.info("the config changed since step %d: %s", step, "; ".join(_listed(changed)))
        return step, got.params, got.optimizer

    def restore_params(self, params: Any, *, best: bool = False) -> tuple[int, Any]:
        """(step, trained parameters) of the newest step, or of the best one, for evaluation.

        Args:
          params: as `restore` takes them.
          best: of the step with the lowest validation loss.

        Raises:
          CheckpointError: no such step, other base weights or other parameters, each with both sides.
        """
        step = self.latest_step
        if step is None:
            raise CheckpointError(f"{self.directory} holds no checkpoint; train first.")
        if best and (step := self.best_step()) is None:
            raise CheckpointError(
                f"{self.directory} holds no checkpoint with a validation loss, which train.keep_best chooses by; give "
                "train.keep_best=false, or train on with train.eval_every."
            )
        self._check(step, params)
        with self._explained(f"restore step {step} from"):
            got = self._manager.restore(step, args=ocp.args.Composite(params=_restore_as(params)))
        return step, got.params

    def _check(self, step: int, params: Any, *, resumes: bool = False) -> dict[str, tuple[Any, Any]]:
        """Raises CheckpointError with both sides of every mismatch between a saved step and this run.

        The config is compared for a training that goes on; the changes that are allowed are returned.
        """
        with self._explained(f"read step {step} of"):
            saved = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        allowed, refused = config_changes(saved["config"], self.meta.config, self.free) if resumes else ({}, {})
        faults = _listed(refused)
        # A reader needs only some of a run's files (no training data); a training that goes on needs all of them.
        for role in sorted(self.meta.base if self.read_only else saved["base"] | self.meta.base):
            old, new = saved["base"].get(role, {}), self.meta.base.get(role, {})
            if old.get("sha256") != new.get("sha256"):
                faults.append(f"{role}: trained on {_named(old)}, found {_named(new)}")
        old, new = saved["params"], _shapes(params)
        for path in sorted(old | new):
            if old.get(path) != new.get(path):
                faults.append(f"parameter {path}: saved {old.get(path)}, expected {new.get(path)}")
        if faults:
            raise CheckpointError(
                f"the checkpoint {self.directory / str(step)} does not belong to this run:\n  "
                + "\n  ".join(faults)
                + "\nGive the config and the files it was trained on, or train in a new work folder."
            )
        return allowed

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with self._explained("finish a save to"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        with self._explained("finish a save to"):
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        # Orbax and TensorStore report a full disk as OSError, ValueError or RuntimeError, depending on the place.
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            near = next(p for p in [self.directory, *self.directory.parents] if p.exists())
            free = shutil.disk_usage(near).free / 2**20
            raise CheckpointError(
                f"cannot {what} {self.directory}: {error}\n{free:.0f} MiB are free there. Once this is "
                "mended, the same command resumes from the last whole step; or give another --workdir."
            ) from error


def _check_free(free: Sequence[str], config: Mapping[str, Any]) -> None:
    known = flatten(config)
    for name in free:
        if name not in known and not (name.endswith(".") and any(key.startswith(name) for key in known)):
            raise ValueError(f"{name!r} may differ on resume, but no key of the config has that name or beginning.")


def _val_loss(metrics: Mapping[str, float | None]) -> float:
    """For ranking steps: infinity where the loss is NaN or was not measured."""
    value = metrics["val_loss"]
    return math.inf if value is None or math.isnan(value) else value


def _listed(changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{key}: saved {old!r}, now {new!r}" for key, (old, new) in changed.items()]


def _plain(meta: Meta, params: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(meta), "params": _shapes(params)}


def _shapes(params: Any) -> dict[str, list]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves}


def _restore_as(tree: Any) -> ocp.args.StandardRestore:
    return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))


def _named(part: Mapping[str, str]) -> str:
    return f"{part['path']} (sha256 {part['sha256'][:12]})" if part else "nothing"
