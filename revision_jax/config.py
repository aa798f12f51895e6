"""Configs: plain values from a file, overridden by flags, checked before anything runs.

`load("configs/stage1.py:mad", ["train.steps=50"])` gives a frozen `ml_collections` dict. The file lists every
field once, with its default; an override takes the type of that default; `config_rules` says what each may
hold.
"""

import ast
import contextlib
import copy
import dis
import inspect
import json
import os
import re
import runpy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from revision_jax.cache import cache_folder
from revision_jax.config_rules import ADDED, flatten, validate
from revision_jax.rules import RENAMED, ConfigError, check_local, unknown_key
from revision_jax.text import read_object, read_text

__all__ = [
    "ConfigError",
    "as_mapping",
    "derive",
    "describe",
    "differences",
    "find_config",
    "finish",
    "flatten",
    "load",
    "load_json",
    "presets",
    "resolve_data_dir",
    "resolve_path",
    "save_json",
    "section",
    "validate",
]
PACKAGE = Path(__file__).parent
DEFAULT = "configs/stage1.py"
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a tuple"}


# --------------------------------------------------------------------------------------------- loading
def load(spec: str = DEFAULT, overrides: Iterable[str] | Mapping[str, Any] = ()) -> FrozenConfigDict:
    """A validated config.

    Args:
      spec: `path.py[:preset]`; a path that does not exist is looked up among the built-in configs by name.
      overrides: `key=value` texts, or a dict from dotted key to value.

    Raises:
      ConfigError: no such file or preset, an unknown key, a value of another type or outside its rule; a study.
    """
    config = _read(spec)
    if "rows" in config:
        raise ConfigError(f"{spec} is a study, of several stages: python -m revision_jax.ablate --config {spec}")
    return finish(config, overrides)


def derive(spec: str, changes: Mapping[str, Any]) -> ConfigDict:
    """The config of another file, changed: how a stage's file says only what it does differently.

    Args:
      spec: `path.py[:preset]`, as `load` takes it.
      changes: dotted key -> value.

    Raises:
      ConfigError: no such file, preset or key.
    """
    config = _read(spec)
    known = flatten(config)
    for key in changes:
        if key not in known:
            raise ConfigError(unknown_key(key, known))
    config.update_from_flattened_dict(changes)
    return config


def _read(spec: str) -> ConfigDict:
    path, _, preset = spec.partition(":")
    module = _run_file(find_config(path))
    preset = preset or presets(path)[0]
    if preset not in module["PRESETS"]:
        raise ConfigError(f"{path} has no preset {preset!r}; expected one of {', '.join(module['PRESETS'])}.")
    return module["get_config"](preset)


def presets(path: str) -> list[str]:
    """Names of a config file's presets, the default first."""
    return list(_run_file(find_config(path))["PRESETS"])


def load_json(path: str | os.PathLike, overrides: Iterable[str] | Mapping[str, Any] = ()) -> FrozenConfigDict:
    """The config that a run saved as `config.json` (JSON has no tuples: its lists become tuples).

    A field that is younger than the run has the value that changes nothing (`config_rules.ADDED`); one that had another
    name then has its name of now (`rules.RENAMED`).
    """
    try:
        values = read_object(path)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; expected the work folder of a training run.") from None
    except ValueError as error:
        raise ConfigError(f"{error}; expected a training run's config.json.") from error
    config = ConfigDict(_to_tuples(values))
    for old, new in RENAMED.items():
        (section, field), (_, now) = old.split("."), new.split(".")
        if isinstance(config.get(section), ConfigDict) and field in config[section]:
            config[section][now] = config[section][field]
            del config[section][field]
    for key, value in ADDED.items():
        section, _, field = key.rpartition(".")
        within = config.get(section) if section else config
        if isinstance(within, ConfigDict) and field not in within:
            within[field] = value
    config = _beside(config, Path(path).parent)
    try:
        return finish(copy.deepcopy(config), overrides)
    except ConfigError:
        with _named(path):  # where the file itself is at fault
            finish(config)
        raise


@contextlib.contextmanager
def _named(path: str | os.PathLike) -> Iterator[None]:
    """Puts a file's name before what is wrong with its fields."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


BUNDLED = "bundle:"  # begins a path within the work folder itself, as an exported bundle has them


def _beside(config: ConfigDict, folder: Path) -> ConfigDict:
    """The config with its `bundle:` paths made whole: they are relative to the folder that it was read from."""
    for section in ("base", "init"):
        values = config.get(section)
        for key, value in values.items() if isinstance(values, ConfigDict) else ():
            if isinstance(value, str) and value.startswith(BUNDLED):
                config[section][key] = os.path.normpath(folder.absolute() / value.removeprefix(BUNDLED))
    return config


def save_json(config: ConfigDict, path: str | os.PathLike) -> None:
    Path(path).write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def finish(config: ConfigDict, overrides: Iterable[str] | Mapping[str, Any] = ()) -> FrozenConfigDict:
    """Applies overrides, validates and freezes."""
    known, values = flatten(config), {}
    for key, value in as_mapping(overrides).items():
        if key not in known:
            raise ConfigError(unknown_key(key, known))
        values[key] = _coerce(key, value, known[key])
    # Of plain values: a frozen config keeps the one that it was made of, and would be changed by the overrides.
    config = ConfigDict(config.to_dict())
    config.update_from_flattened_dict(values)
    validate(config)
    return FrozenConfigDict(config)


def as_mapping(changes: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """`key=value` texts, or a mapping already, as dotted key -> value."""
    return dict(changes) if isinstance(changes, Mapping) else dict(map(_split, changes))


def section(config: ConfigDict, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of one section of a config, given as text, in the types of its values: {"beam": "4"} -> {"beam": 4}.

    Raises:
      ConfigError: an unknown field, or a value of another type.
    """
    known, values = flatten(config), {}
    for key, text in fields.items():
        if f"{name}.{key}" not in known:
            raise ConfigError(unknown_key(f"{name}.{key}", known))
        values[key] = _coerce(f"{name}.{key}", text, known[f"{name}.{key}"])
    return values


def _run_file(path: Path) -> dict[str, Any]:
    """The names of a config file; one that defines no config is not run."""
    if path.suffix != ".py":
        raise ConfigError(f"{path} is no config; expected a Python file, NAME.py, such as configs/stage1.py.")
    try:
        code = compile(read_text(path), str(path), "exec")  # ast.parse failed once beside another thread (CPython 3.11)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path} is no config: it is not Python ({error}); see configs/stage1.py.") from error
    defined = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME"}
    missing = {"PRESETS", "get_config", "defaults"} - defined
    if missing:
        raise ConfigError(f"{path} defines no {', '.join(sorted(missing))}; see configs/stage1.py.")
    return runpy.run_path(str(path))


def find_config(path: str) -> Path:
    """The file at `path`, or the built-in config of that name (shipped, or beside the package in a clone)."""
    folders = [PACKAGE / "configs", PACKAGE.parent / "configs"]
    for candidate in [Path(path)] + [folder / Path(path).name for folder in folders]:
        if candidate.is_file():
            return candidate
    shipped = sorted({file.name for folder in folders for file in folder.glob("*.py")} - {"__init__.py"})
    raise ConfigError(f"no config file at {path}; built-in configs are {', '.join(shipped)}.")


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"cannot read the override {text!r}; expected key=value.")
    return key, value


def _coerce(key: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`; text is parsed, anything else must already have the type."""
    kind = type(default)
    if isinstance(value, str) and kind is not str:
        try:
            value = _literal(value, kind)
        except (KeyError, ValueError, SyntaxError):
            raise ConfigError(f"{key} is {value!r}; expected {KINDS[kind]} such as {default!r}.") from None
    if kind is tuple and isinstance(value, list | tuple):
        return _to_tuples(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{key} is {value!r}; expected {KINDS[kind]} such as {default!r}.")
    return value


def _literal(text: str, kind: type) -> Any:
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    if kind is tuple and re.fullmatch(r"[a-z]\w*(,[a-z]\w*)*,?", text, re.IGNORECASE):
        return tuple(text.strip(",").split(","))  # a,b,c without quotes
    return ast.literal_eval(text) if kind is tuple else kind(text)


def _to_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_tuples(item) for key, item in value.items()}
    return tuple(map(_to_tuples, value)) if isinstance(value, list | tuple) else value


def differences(one: ConfigDict, other: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both values (None where a key is missing)."""
    a, b = flatten(one), flatten(other)
    return {key: (a.get(key), b.get(key)) for key in sorted(a | b) if a.get(key) != b.get(key)}


# ----------------------------------------------------------------------------------------------- paths
def resolve_path(path: str) -> Path:
    """A path of a config: `asset:tiny/llm` is a part shipped with the package, `~` is the home directory."""
    check_local("a path", path)
    if path.startswith("asset:"):
        return PACKAGE / "assets" / path.removeprefix("asset:")
    return Path(path).expanduser()


def resolve_data_dir(config: ConfigDict) -> Path:
    """`data.dir`, or a place in the cache folder."""
    if config.data.dir:
        return resolve_path(config.data.dir)
    return cache_folder() / "data" / config.data.name


def describe(spec: str = DEFAULT) -> str:
    """What a config file says of itself: its docstring and its fields with their defaults, for `--help`."""
    module = _run_file(find_config(spec.partition(":")[0]))
    fields = inspect.getsource(module["defaults"])
    return f"{module['__doc__'].strip()}\n\nFields (set as --config.train.steps=50):\n\n{fields}"
