"""Addresses such as gs:// are refused at once, wherever a path may be given, with what works."""

import argparse
from pathlib import Path

import pytest

from revision_jax import compile as compile_verb
from revision_jax import config as configs
from revision_jax import convert, evaluate, export, ground, prepare, train
from revision_jax.rules import ConfigError, is_remote
from revision_jax.runs.run import Run, load_run

ADDRESS = "gs://bucket/mad"
WORKS = "a path on a disk that every host sees"
VERBS = {
    "train": train, "evaluate": evaluate, "ground": ground, "prepare": prepare, "convert": convert, "export": export,
    "compile": compile_verb,
}  # fmt: skip
# What each verb needs beside the flag that is tried, so that the parser is content.
NEEDED = {
    "train": [],
    "evaluate": ["--workdir=R"],
    "ground": ["film.mp4", "a star"],
    "prepare mad": ["--annotations=A", "--features=F", "--out=O", "--split=val"],
    "prepare msrvtt": ["--annotations=A", "--features=F", "--out=O", "--split=val", "--csv=C"],
    "prepare merge": ["D"],
    "prepare check": ["D"],
    "prepare report": ["D"],
    "convert": ["--format=llama", "--source=S", "--out=O"],
    "export": ["--workdir=R", "--out=O", "--format=peft"],
    "compile": ["--topology=v5e-16"],
}
WORDS = ("PATH", "DIR", "FILE", "RUN", "VIDEO")  # metavars of what is a path


def _parser(name: str) -> argparse.ArgumentParser:
    verb, _, command = name.partition(" ")
    parser = VERBS[verb].make_parser()
    if command:
        (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = commands.choices[command]
    return parser


def _paths(name: str) -> list[argparse.Action]:
    """The flags of a verb that take a path, by what stands behind them in its help."""
    return [action for action in _parser(name)._actions if str(action.metavar or "").startswith(WORDS)]


def _with(name: str, action: argparse.Action) -> list[str]:
    """A verb's arguments in which one path is an address."""
    needed = list(NEEDED[name])
    if not action.option_strings:
        return [ADDRESS, *needed[1:]]
    return [part for part in needed if not part.startswith(f"{action.option_strings[0]}=")] + [
        f"{action.option_strings[0]}={ADDRESS}"
    ]


CASES = [(name, action) for name in NEEDED for action in _paths(name)]


@pytest.mark.parametrize("name, action", CASES, ids=[f"{name} {action.dest}" for name, action in CASES])
def test_no_flag_of_any_verb_takes_an_address(name, action, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    verb, *command = name.split()
    argv = _with(name, action)
    if action.dest == "videos":
        argv = [part for part in argv if not part.startswith("--features")]
    assert VERBS[verb].main([*command, *argv]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and ADDRESS in told and WORKS in told
    assert not list(tmp_path.iterdir()), "a folder was made"


def test_every_path_of_every_verb_was_tried():
    assert {name.split()[0] for name, _ in CASES} == set(VERBS)
    assert len(CASES) >= 30


@pytest.mark.parametrize(
    "key, value",
    [
        *((key, ADDRESS) for key in ("base.llm", "base.encoder", "base.projector", "init.dense", "init.sparse")),
        *((key, "s3://bucket/x") for key in ("data.dir", "data.mined")),
        ("data.mixture", ((ADDRESS, 0.5),)),
    ],
)
def test_no_path_of_the_config_is_an_address(key, value):
    with pytest.raises(ConfigError, match=f"{key} is .*{WORKS}"):
        configs.load("configs/stage1.py", {key: value})


def test_nor_does_python_take_one(monkeypatch):
    with pytest.raises(ConfigError, match=WORKS):
        load_run(ADDRESS)
    with pytest.raises(ConfigError, match=WORKS):
        Run(configs.load(), Path(ADDRESS))  # pathlib makes gs:/bucket of it
    monkeypatch.setenv("REVISION_JAX_CACHE", ADDRESS)
    with pytest.raises(ConfigError, match="REVISION_JAX_CACHE is"):
        configs.resolve_data_dir(configs.load())


def test_what_is_no_address():
    assert not any(map(is_remote, ("asset:tiny/llm", "C:/data", "/mnt/bucket", "a b://c", "", None, 3, ("gs://x", 1))))
