"""Checkpoints: pytrees, the data iterator and what they belong to, in one atomic step. Knows no model.

A step holds the trained parameters, the optimizer, the Grain iterator and a `meta` record. Orbax writes it in
the background into a temporary directory and renames that when all is written, so a kill loses at most the
steps since the last finished save. Frozen weights are not copied: `meta` names them by path and content hash. It also
holds a checksum of everything else, which is verified when a step is read.
"""

import contextlib
import itertools
import json
import logging
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from revision_jax import disk
from revision_jax.checkpoint_record import (
    UNSUMMED,
    Meta,
    base_of,
    config_changes,
    is_whole,
    listed,
    make_record,
    mismatches,
)
from revision_jax.checksums import checksums, differing, plain_sha256
from revision_jax.config_rules import flatten
from revision_jax.fingerprints import finished_steps
from revision_jax.parallel import multihost

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or does not belong to this run."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that is not what was saved: something is missing, unreadable or changed."""


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last write.

    Args:
      directory: made when missing; unfinished writes of a killed run are removed from it.
      meta: what new steps belong to, and what a restored step must match.
      keep: newest steps that stay.
      keep_best: the step with the lowest validation loss stays beside them.
      free: keys of the config in which this run may differ from its checkpoint, as `config_changes` takes them.
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
        if not read_only:
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
        logging.getLogger("absl").addFilter(_is_no_traceback)
        self._open_metrics()
        with self._explained("open"):
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def _open_metrics(self) -> None:
        """Steps whose validation loss cannot be read are damaged; Orbax reads them all before anything else."""
        steps = finished_steps(self.directory)
        bad = [step for step in steps if _metrics_are_garbage(self.directory / str(step))]
        if bad and (self.read_only or len(bad) == len(steps)):
            raise self._damage(bad[-1], "its metrics are no JSON")
        for step in bad:
            log.warning("%s", self._damage(step, "its metrics are no JSON"))
            if multihost.is_first():
                put_aside(self.directory, step)
        if bad:
            multihost.exchange("checkpoint/metrics", True)

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
        place, metrics = iterator.get_state(), {"val_loss": val_loss}
        sums = {"optimizer": checksums(optimizer), "iterator": plain_sha256(place)}
        with self._explained(f"save step {step} to"):
            self._manager.save(
                step,
                metrics=metrics,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    optimizer=ocp.args.StandardSave(optimizer),
                    iterator=ocp.args.JsonSave(place),
                    meta=ocp.args.JsonSave(make_record(self.meta, params, metrics, sums)),
                ),
            )

    def save_weights(self, step: int, params: Any) -> None:
        """Writes a step that holds parameters alone, for weights that were trained elsewhere."""
        with self._explained(f"save step {step} to"):
            metrics = {"val_loss": None}
            meta = ocp.args.JsonSave(make_record(self.meta, params, metrics, {}))
            args = ocp.args.Composite(params=ocp.args.StandardSave(params), meta=meta)
            self._manager.save(step, metrics=metrics, args=args)

    def restore(self, params: Any, optimizer: Any, iterator: Any) -> tuple[int, Any, Any] | None:
        """The newest whole step as (step, params, optimizer), `iterator` moved to its place; None if there is none.

        Damaged steps after it are told, and kept aside as `damaged-STEP`.

        Args:
          params, optimizer: arrays (or shapes with shardings) of the expected tree; restored to those
            shardings, whatever the mesh was that saved them.
          iterator: the Grain iterator of this run.

        Raises:
          CheckpointError: a config that differs in more than `free`, other base weights or other parameters, each
            with both sides; weights without an optimizer; steps of which none is whole.
        """
        damaged: dict[int, DamagedCheckpoint] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            got, error = self._try(step, params, optimizer)
            # Hosts that go on from different steps would compute nonsense.
            if all(multihost.exchange(f"checkpoint/{step}", error is None)):
                break
            damaged[step] = error or DamagedCheckpoint(f"{self.directory / str(step)} is damaged on another host")
            log.warning("%s", damaged[step])
        else:
            if damaged:
                raise CheckpointError(
                    "\n".join(map(str, damaged.values()))
                    + f"\nNo checkpoint in {self.directory} is whole; nothing was "
                    "changed. Put a copy of one there, or give another --workdir to start again."
                )
            return None
        if damaged:
            self._put_aside(damaged)
            log.warning("goes on from step %d, the newest whole checkpoint", step)
        changed, arrays = got
        iterator.set_state(arrays.iterator)
        if changed:
            log.info("the config changed since step %d: %s", step, "; ".join(listed(changed)))
        return step, arrays.params, arrays.optimizer

    def _try(self, step: int, params: Any, optimizer: Any) -> tuple[Any, DamagedCheckpoint | None]:
        """((changes of the config, what the step holds), None), or (None, how it is damaged)."""
        folder = self.directory / str(step)
        alone = not any((folder / part).exists() for part in ("optimizer", "iterator"))
        if alone and (folder / "params").exists() and len(self._manager.all_steps()) == 1:
            raise CheckpointError(
                f"{folder} holds weights that were converted, with no optimizer to go on from; "
                "start a new run from this one (init.dense, init.sparse) in another --workdir."
            )
        try:
            saved = self._record_of(step)
            changed = self._check(step, saved, params)
            args = ocp.args.Composite(
                params=_restore_as(params), optimizer=_restore_as(optimizer), iterator=ocp.args.JsonRestore()
            )
            got = self._read(step, args)
            self._verify(
                step, saved, params=checksums(got.params), optimizer=checksums(got.optimizer),
                iterator=plain_sha256(got.iterator),
            )  # fmt: skip
        except DamagedCheckpoint as error:
            return None, error
        return (changed, got), None

    def _put_aside(self, steps: Iterable[int]) -> None:
        """Renames damaged steps, so that nothing takes them for checkpoints and a person can look at them."""
        for step in steps if multihost.is_first() else ():
            put_aside(self.directory, step)
        multihost.exchange("checkpoint/put aside", True)
        self._manager.reload()

    def restore_params(self, params: Any, *, best: bool = False) -> tuple[int, Any]:
        """(step, trained parameters) of the newest step, or of the best one, for evaluation.

        Args:
          params: as `restore` takes them.
          best: of the step with the lowest validation loss.

        Raises:
          DamagedCheckpoint: the step is not what was saved.
          CheckpointError: no such step, a config that differs in more than `free`, other base weights or other
            parameters, each with both sides.
        """
        step = self.latest_step
        if step is None:
            raise CheckpointError(f"{self.directory} holds no checkpoint; train first.")
        if best and (step := self.best_step()) is None:
            raise CheckpointError(
                f"{self.directory} holds no checkpoint with a validation loss, which train.keep_best chooses by; give "
                "train.keep_best=false, or train on with train.eval_every."
            )
        saved = self._record_of(step)
        self._check(step, saved, params)
        got = self._read(step, ocp.args.Composite(params=_restore_as(params)))
        self._verify(step, saved, params=checksums(got.params))
        return step, got.params

    def _record_of(self, step: int) -> dict[str, Any]:
        """What a step says of itself, verified."""
        saved = self._read(step, ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        if isinstance(saved, dict) and set(saved) == UNSUMMED:
            log.warning("%s was saved without checksums: damage to it cannot be seen", self.directory / str(step))
            return saved
        faults = [] if is_whole(saved) else ["meta"]
        if not faults and saved["sums"]["metrics"] != plain_sha256(dict(self._manager.metrics(step) or {})):
            faults.append("metrics")
        self._refuse_damage(step, faults)
        return saved

    def _read(self, step: int, args: ocp.args.Composite) -> Any:
        """Parts of a step. Whatever Orbax finds wrong with them is damage, unless this process lacks something."""
        try:
            return self._manager.restore(step, args=args)
        except (MemoryError, PermissionError):
            raise
        except Exception as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise CheckpointError(f"no memory to read {self.directory / str(step)}: {error}") from error
            raise self._damage(step, f"{type(error).__name__}: {error}".partition("\n")[0]) from error

    def _verify(self, step: int, saved: Mapping[str, Any], **found: Mapping[str, str] | str) -> None:
        """Raises DamagedCheckpoint where parts do not have the checksums that were saved with them."""
        faults = []
        for part, sums in found.items() if "sums" in saved else ():
            expected = saved["sums"].get(part)
            if isinstance(sums, str) or expected is None:
                faults += [] if sums == expected else [part]
            else:
                faults += [f"{part}/{name}" for name in differing(expected, sums)]
        self._refuse_damage(step, faults)

    def _refuse_damage(self, step: int, faults: Sequence[str]) -> None:
        if faults:
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise self._damage(step, f"{', '.join(faults[:3])}{more} changed since it was saved")

    def _damage(self, step: int, what: str) -> DamagedCheckpoint:
        todo = "`train` with the run's own command goes on from the newest whole one and keeps this one aside"
        todo = f"{todo}; of an exported bundle, make it again." if self.read_only else "It is not used."
        return DamagedCheckpoint(f"the checkpoint {self.directory / str(step)} is damaged: {what}. {todo}")

    def _check(self, step: int, saved: Mapping[str, Any], params: Any) -> dict[str, tuple[Any, Any]]:
        """Raises CheckpointError with both sides of every mismatch between a saved step and this run.

        The changes of the config that are allowed are returned.
        """
        allowed, refused = config_changes(saved["config"], self.meta.config, self.free)
        # A reader needs only some of a run's files (no training data); a training that goes on needs all of them.
        roles = self.meta.base if self.read_only else base_of(saved) | self.meta.base
        faults = listed(refused) + mismatches(saved, self.meta, params, sorted(roles))
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
            if disk.is_full(error):
                raise CheckpointError(f"cannot {what} {self.directory}: {disk.told(error, self.directory)}") from error
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


def _metrics_are_garbage(folder: Path) -> bool:
    path = folder / "metrics" / "metrics"
    try:
        return path.exists() and "val_loss" not in json.loads(path.read_text())
    except (ValueError, TypeError):
        return True


def put_aside(directory: Path, step: int) -> None:
    """`checkpoints/300` -> `checkpoints/damaged-300`, or with a number behind it where that is taken."""
    names = itertools.chain([f"damaged-{step}"], (f"damaged-{step}-{number}" for number in itertools.count(2)))
    aside = next(directory / name for name in names if not (directory / name).exists())
    (directory / str(step)).rename(aside)
    log.warning("%s is kept as %s", directory / str(step), aside)


def _is_no_traceback(record: logging.LogRecord) -> bool:
    """For Orbax, which logs the traceback of a failed save and then raises the error, too: that one is told."""
    return not record.exc_info


def _restore_as(tree: Any) -> ocp.args.StandardRestore:
    return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))
