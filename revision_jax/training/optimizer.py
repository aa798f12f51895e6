"""What is trained, and how: an ordered table of path patterns, and AdamW under a cosine schedule."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optax
from ml_collections import ConfigDict

FROZEN = "frozen"
Table = Sequence[tuple[str, float | str]]


def assign(paths: Iterable[str], table: Table) -> dict[str, float | str]:
    """Path of every parameter -> its learning-rate multiplier, or `FROZEN`.

    A row is (regular expression for the whole path, multiplier or "frozen"); the first row that matches wins,
    so every parameter belongs to exactly one.

    Raises:
      ValueError: parameters that no row matches, rows that are left without a parameter, or nothing to train.
    """
    paths = list(paths)
    chosen = {path: _row(path, table) for path in paths}
    unmatched = [path for path, row in chosen.items() if row is None]
    if unmatched:
        raise ValueError(f"no row of `trainable` matches {unmatched}; add a row (multiplier or 'frozen').")
    idle = [table[i][0] for i in range(len(table)) if i not in chosen.values()]
    if idle:
        raise ValueError(
            f"rows of `trainable` that match no parameter (or come after a row that takes theirs): {idle}; "
            f"the parameters are {paths}."
        )
    result = {path: table[row][1] for path, row in chosen.items()}
    if all(value == FROZEN for value in result.values()):
        raise ValueError("`trainable` freezes every parameter; give at least one row a multiplier.")
    return result


def _row(path: str, table: Table) -> int | None:
    """The number of the row that a parameter belongs to, None if there is none."""
    return next((i for i, (pattern, _) in enumerate(table) if re.fullmatch(pattern, path)), None)


def trained_by(table: Table, paths: Iterable[str]) -> list[str]:
    """Those of `paths` that a table trains; paths that it does not name are not."""
    rows = {path: _row(path, table) for path in paths}
    return [path for path, row in rows.items() if row is not None and table[row][1] != FROZEN]


def describe_table(arrays: Mapping[str, Any], table: Table) -> str:
    """The trainable table in lines of text: of each row what becomes of it, its arrays and their parameters.

    Args:
      arrays: path -> array, every parameter of the model.
    """
    rows = {path: _row(path, table) for path in arrays}
    width = max(len(pattern) for pattern, _ in table)
    lines = [f"{'parameters':{width}}  {'learning rate':>13}  {'arrays':>6}  {'count':>13}"]
    trained = frozen = 0
    for number, (pattern, value) in enumerate(table):
        sizes = [array.size for path, array in arrays.items() if rows[path] == number]
        trained, frozen = (trained, frozen + sum(sizes)) if value == FROZEN else (trained + sum(sizes), frozen)
        rate = value if value == FROZEN else f"x {value:g}"
        lines.append(f"{pattern:{width}}  {rate:>13}  {len(sizes):6}  {sum(sizes):13,}")
    return "\n".join([*lines, f"{trained:,} trained, {frozen:,} frozen"])


def make_schedule(train: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate of step 0, 1, ...: linear warm-up over `warmup_ratio` of the steps, then cosine to 0."""
    warmup = math.ceil(train.warmup_ratio * steps)
    peak = train.learning_rate
    # The ramp starts above 0: a first step that moves nothing would be wasted.
    return optax.warmup_cosine_decay_schedule(peak / (warmup + 1), peak, warmup, max(steps, warmup + 1))


def make_optimizer(
    train: ConfigDict, schedule: optax.Schedule, multipliers: Mapping[str, float]
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; decay acts on every trained parameter, as PyTorch's does.

    Args:
      multipliers: path -> factor on the learning rate, for every trained parameter.
    """
    by_path = lambda updates, _: {path: update * multipliers[path] for path, update in updates.items()}
    return optax.chain(
        optax.clip_by_global_norm(train.clip_norm),
        optax.scale_by_adam(train.b1, train.b2, train.eps),
        optax.add_decayed_weights(train.weight_decay),
        optax.stateless(by_path),
        optax.scale_by_learning_rate(schedule),
    )


def updates_done(opt_state: Any) -> Any:
    """How many updates `make_optimizer`'s state has seen, an int32 scalar; fewer than steps where some were skipped."""
    return opt_state[-1].count
