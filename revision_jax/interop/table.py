"""Weight names and layouts, PyTorch <-> JAX: one table a model serves import and export.

Ours: a parameter's path, the '/'-joined keys of its module tree (`layers/self_attn/q_proj/kernel`), with layers stacked
as [L, ...]. Theirs: the PyTorch state-dict key, with layers numbered (`model.layers.3...`). An import lists every
disagreement in one error.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

LAYER = "{layer}"

# (path, parameter, array) -> the array where it belongs, for example in its shards by the parameter's `axes`.
Place = Callable[[str, nnx.Param, np.ndarray], jax.Array]


@dataclasses.dataclass(frozen=True)
class Transform:
    """A layout change and its inverse, on one layer's array."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda x: x, lambda x: x)
TRANSPOSED = Transform(lambda x: x.T, lambda x: x.T)  # [out, in] <-> [in, out]
CONVOLUTION = Transform(  # [out, in, height, width] <-> [height, width, in, out]
    lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)


@dataclasses.dataclass(frozen=True)
class Row:
    """`theirs`, a state-dict key that may hold `{layer}` once, is `ours`, a path, after `transform`."""

    theirs: str
    ours: str
    transform: Transform = SAME

    @property
    def stacked(self) -> bool:
        return LAYER in self.theirs

    def match(self, key: str) -> re.Match | None:
        pattern = re.escape(self.theirs).replace(re.escape(LAYER), r"(\d+)")
        return re.fullmatch(pattern, key)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows, and patterns of keys in files that carry no weights of ours (buffers)."""

    rows: tuple[Row, ...]
    ignored: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("theirs", "ours"):
            values = [getattr(row, name) for row in self.rows]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"ambiguous table: {name} {twice} stand in more than one row")

    def rows_of(self, key: str) -> list[Row]:
        return [row for row in self.rows if row.match(key)]

    def is_ignored(self, key: str) -> bool:
        return any(re.fullmatch(pattern, key) for pattern in self.ignored)


class TableError(ValueError):
    """A checkpoint and a model disagree; the message lists every disagreement."""


def flat_params(module: nnx.Module) -> dict[str, nnx.Param]:
    """Every parameter of a module under its path."""
    return {path_of(keys): param for keys, param in nnx.to_flat_state(nnx.state(module, nnx.Param))}


def path_of(keys: Iterable[Any]) -> str:
    return "/".join(map(str, keys))


def import_params(
    table: Table,
    tensors: Mapping[str, Any],
    params: Mapping[str, nnx.Param],
    place: Place | None = None,
    *,
    source: str | Path = "the checkpoint",
) -> None:
    """Fills `params` (arrays or abstract shapes) from `tensors` (key -> numpy array or LazyTensor).

    Arrays take each parameter's dtype. One parameter at a time is read and given to `place`, so that host
    memory holds one of them; without `place` arrays go to the default device. `source` names the file in errors.
    Raises TableError listing all ambiguous, unmapped, unfilled and misshapen keys, before anything is filled.
    """
    sources = match(table, tensors, params, source)
    place = place or (lambda path, param, array: jnp.asarray(array))
    for row in table.rows:
        param = params[row.ours]
        param.set_value(place(row.ours, param, _read(row, sources[row.ours], tensors, param)))


def import_arrays(
    table: Table, tensors: Mapping[str, Any], params: Mapping[str, nnx.Param], *, source: str | Path
) -> dict[str, np.ndarray]:
    """As `import_params` for abstract `params`, but gives the arrays, path -> numpy array, and fills nothing else."""
    arrays = {}

    def keep(path: str, param: nnx.Param, array: np.ndarray) -> np.ndarray:
        arrays[path] = array
        return array

    import_params(table, tensors, params, keep, source=source)
    return arrays


def export_params(table: Table, arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Path -> array to state-dict key -> contiguous numpy array. Raises TableError on paths without a row."""
    known = {row.ours for row in table.rows}
    problems = [f"no row for our {path}" for path in arrays if path not in known]
    problems += [f"no array for our {path}" for path in known if path not in arrays]
    if problems:
        raise TableError("export failed:\n  " + "\n  ".join(sorted(problems)))
    tensors = {}
    for row in table.rows:
        array = np.asarray(arrays[row.ours])
        layers = enumerate(array) if row.stacked else [("", array)]
        for index, layer in layers:
            key = row.theirs.replace(LAYER, str(index))
            tensors[key] = np.array(row.transform.to_theirs(layer), order="C")
    return tensors


def match(
    table: Table, tensors: Mapping[str, Any], params: Mapping[str, nnx.Param], source: str | Path = "the checkpoint"
) -> dict[str, dict[int | None, str]]:
    """path -> {layer index or None: key}; raises one TableError with all that is wrong. Only shapes are looked at."""
    problems = []
    sources: dict[str, dict[int | None, str]] = {row.ours: {} for row in table.rows}
    for key in tensors:
        rows = table.rows_of(key)
        if len(rows) > 1:
            problems.append(f"ambiguous: {key} matches the rows of {[row.ours for row in rows]}")
        elif rows:
            index = int(rows[0].match(key).group(1)) if rows[0].stacked else None
            sources[rows[0].ours][index] = key
        elif not table.is_ignored(key):
            problems.append(f"unmapped: {key} has no row")
    problems += [f"unfilled: {path} has no row" for path in params if path not in sources]
    for row in table.rows:
        if row.ours not in params:
            problems.append(f"unmapped: the model has no {row.ours} (from {row.theirs})")
        else:
            problems += _check(row, sources[row.ours], tensors, params[row.ours].shape)
    if problems:
        raise TableError(f"{len(problems)} disagreements between {source} and the model:\n  " + "\n  ".join(problems))
    return sources


def _check(row: Row, keys: dict[int | None, str], tensors: Mapping[str, Any], shape: tuple[int, ...]) -> list[str]:
    wanted = range(shape[0]) if row.stacked else [None]
    missing = [row.theirs.replace(LAYER, str(index)) for index in wanted if index not in keys]
    problems = [f"unfilled: {row.ours} needs {key}" for key in missing]
    problems += [f"unmapped: {keys[index]} is beyond {row.ours} {shape}" for index in set(keys) - set(wanted)]
    layer_shape = shape[1:] if row.stacked else shape
    # The inverse transform of a view that takes no memory tells the shape that the file must have.
    expected = row.transform.to_theirs(np.broadcast_to(np.zeros((), np.int8), layer_shape)).shape
    for key in keys.values():
        if tuple(tensors[key].shape) != expected:
            problems.append(f"misshapen: {key} is {tuple(tensors[key].shape)}, {row.ours} needs {expected}")
    return problems


def _read(row: Row, keys: dict[int | None, str], tensors: Mapping[str, Any], param: nnx.Param) -> np.ndarray:
    if not row.stacked:
        return row.transform.to_ours(np.asarray(tensors[keys[None]])).astype(param.dtype)
    array = np.empty(param.shape, param.dtype)
    for index, key in keys.items():
        array[index] = row.transform.to_ours(np.asarray(tensors[key]))
    return array
