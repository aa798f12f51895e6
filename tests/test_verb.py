"""The skeleton of all verbs: quick help, one line for what a person can mend, exit codes, flags that are refused."""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import revision_jax
from revision_jax import config as configs
from revision_jax import lazy, verb
from revision_jax.checkpoint import CheckpointError
from revision_jax.config import ConfigError
from revision_jax.data.video.frames import VideoError
from revision_jax.interop.check import CheckError
from revision_jax.parallel import multihost
from revision_jax.training.loop import NonFiniteLoss
from revision_jax.training.preemption import RESTART_CODE, Preempted

# Verb -> words that its help must hold.
HELP = {
    "train": ("--workdir", "vidchapters", "learning_rate=", "resumes", "report.html"),
    "evaluate": ("--workdir runs/", "calibration.json", "continues", "--protocol", "--budget"),
    "ground": ("--queries", "--depth", "--policy", "--keep", "--budget", "Exit code"),
    "prepare": ("vidchapters", "merge", "check", "report", "--shard"),
    "convert": ("--format llama", "--source", "docs/recipes.md"),
    "export": ("--format bundle", "--format peft", "--out"),
    "compile": ("--topology", "--program", "libtpu"),
    "plan": ("--gpus", "--compile", "docs/scale.md"),
    "demo": ("--videos", "--host", "--max_upload_mib", "no password", "[demo]"),
    "ablate": ("--list", "--dry-run", "--seeds", "results.json", "configs/ablation.py"),
}
SLOWLY = ["--config.data.train_videos=500"]  # hours of rendering before the first step
SLOW = ("jax", "flax", "transformers", "av", "torch")


@pytest.fixture
def act():
    """`act(error)` -> the exit code of a verb whose work raises it, with `--debug` or without."""

    def run(raised, debug=False):
        def work(args):
            if isinstance(raised, BaseException):
                raise raised
            return raised

        return verb.run(work, argparse.Namespace(debug=debug))

    return run


# ------------------------------------------------------------------------------------------------- help
@pytest.mark.parametrize("name", HELP)
def test_help_is_quick_and_teaches(name, tmp_path):
    """In a process of its own: less than a second of its processor time, and nothing slow is imported."""
    code = f"import sys\nfrom revision_jax.{name} import main\ntry: main(['--help'])\n"
    code += "finally: print(time.process_time() < 1, [x for x in SLOW if x in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"import time\nSLOW = {SLOW}\n{code}"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(revision_jax.__file__).parents[1])},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("True []\n"), done.stdout[-200:] + done.stderr
    for word in ("Examples:", "--debug", f"revision_jax.{name}", *HELP[name]):
        assert word in done.stdout, word


def test_every_verb_is_tested_here():
    root = Path(verb.__file__).parent
    assert {path.stem for path in root.glob("*.py") if "verb.run(" in path.read_text()} == set(HELP)


def test_a_lazy_module_is_imported_when_it_is_first_used():
    code = "from revision_jax import lazy\nimport sys\ntable = lazy.module('revision_jax.report.table')\n"
    code += "print('revision_jax.report.table' in sys.modules)\ntable.clock(3)\n"
    code += "print('revision_jax.report.table' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(Path(revision_jax.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "False\nTrue\n"
    with pytest.raises(AttributeError, match="nothing"):
        _ = lazy.module("revision_jax.units").nothing
    with pytest.raises(ModuleNotFoundError):
        _ = lazy.module("revision_jax.nowhere").anything


def test_a_search_waits_for_no_library_of_training_and_drawing():
    """They are slow to import, and `ground` imports this module at every start."""
    slow = ("grain", "matplotlib", "scipy", "tensorflow", "torch")
    code = f"import sys\nimport revision_jax.runs.asking\nprint([x for x in {slow} if x in sys.modules])"
    env = os.environ | {"PYTHONPATH": str(Path(revision_jax.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# ------------------------------------------------------------------------------------------------- exit codes
MENDABLE = [
    ValueError("a"), ConfigError("b"), OSError("c"), FileNotFoundError("d"), ImportError("e"), MemoryError("f"),
    NotImplementedError("g"), CheckpointError("h"), NonFiniteLoss("i"), multihost.Disagreement("j"),
    multihost.JoinError("k"), CheckError("l"), VideoError("m", "found", "expected", "do"),
]  # fmt: skip


@pytest.mark.parametrize("error", MENDABLE, ids=lambda error: type(error).__name__)
def test_what_a_person_can_mend_is_one_line(error, act, capsys):
    assert act(error) == 2
    assert capsys.readouterr().err == f"error: {error}\n"
    with pytest.raises(type(error)):
        act(error, debug=True)


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("b"), AssertionError("c")])
def test_a_fault_of_the_program_is_raised(error, act):
    with pytest.raises(type(error)):
        act(error)


def test_the_codes_of_what_a_verb_returns(act):
    assert (act(None), act(0), act(1)) == (0, 0, 1)


def test_ctrl_c_is_one_line_and_130(act, capsys):
    assert act(KeyboardInterrupt()) == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "the same command goes on" in err
    with pytest.raises(KeyboardInterrupt):
        act(KeyboardInterrupt(), debug=True)


@pytest.mark.parametrize("after_s", [0.15, 0.8, 2.5])
def test_ctrl_c_while_a_verb_starts(after_s, tmp_path):
    """While it is imported, and while it waits for its imports and files."""
    command = [sys.executable, "-m", "revision_jax.train", "--workdir", str(tmp_path / "run"), *SLOWLY]
    env = os.environ | {"PYTHONPATH": str(Path(revision_jax.__file__).parents[1]), "REVISION_JAX_CACHE": str(tmp_path)}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    while b"revision_jax.train" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
        pass  # not yet this program
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=45)
    assert process.returncode in (130, -signal.SIGINT), err  # a shell tells both as 130
    assert "Traceback" not in err and err.splitlines()[-1].startswith("interrupted"), err


def test_a_preempted_run_asks_to_be_started_again(act, capsys):
    assert act(Preempted(7)) == RESTART_CODE == 75
    assert capsys.readouterr().err == f"{Preempted(7)}\n"


def test_a_host_that_hangs_is_left_at_once(act, capsys, monkeypatch):
    """Without waiting for the devices, which the hung host would keep waiting for."""

    class Left(Exception):
        pass

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(multihost, "leave_at_once", leave)
    with pytest.raises(Left, match=str(RESTART_CODE)):
        act(multihost.HungHost("host 3 hangs"))
    assert "host 3 hangs" in capsys.readouterr().err


ARGUMENTS = {
    "evaluate": ["--workdir=R"],
    "ground": ["film.mp4", "a star"],
    "prepare": ["merge", "D"],
    "convert": ["--format=llama", "--source=S", "--out=O"],
    "export": ["--workdir=R", "--out=O", "--format=peft"],
    "compile": ["--topology=v5e-16"],
    "plan": ["--gpus=8xH100"],
}


@pytest.mark.parametrize("name", HELP)
def test_a_host_that_hangs_ends_every_verb_in_one_line(name, monkeypatch, capsys):
    module, left = importlib.import_module(f"revision_jax.{name}"), []

    def hung(args):
        raise multihost.HungHost("waited 5 s for process 1 (n2)")

    monkeypatch.setattr(module, "act", hung)
    monkeypatch.setattr(multihost, "leave_at_once", lambda code: left.append(code) or sys.exit(code))
    with pytest.raises(SystemExit):
        module.main(ARGUMENTS.get(name, []))
    assert left == [RESTART_CODE]
    assert capsys.readouterr().err == "error: waited 5 s for process 1 (n2)\n"


def test_a_host_that_was_lost_is_one_line(act, monkeypatch, capsys):
    import jax

    left = []
    monkeypatch.setattr(multihost, "leave_at_once", lambda code: left.append(code) or sys.exit(code))
    lost = jax.errors.JaxRuntimeError("INTERNAL: Gloo all-reduce failed: Connection closed by peer [1.2.3.4]:5\nstack")
    with pytest.raises(jax.errors.JaxRuntimeError):
        act(lost)  # a process alone has lost nobody
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(SystemExit):
        act(lost)
    err = capsys.readouterr().err
    assert left == [RESTART_CODE] and err.count("\n") == 1 and "another host of the run has ended" in err
    with pytest.raises(jax.errors.JaxRuntimeError):
        act(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))


# ------------------------------------------------------------------------------------------------- flags
def test_fields_of_the_config_are_gathered_with_their_sections():
    parser = verb.make_parser("x", "A verb: see.", "")
    argv = ["--config.train.steps=5", "--search.beam", "4", "--mesh.data=-1", "--model.attention=xla", "--debug"]
    args = verb.parse(parser, argv, ["config", "search", "mesh", "model"])
    assert args.debug and args.fields == {
        "train.steps": "5", "search.beam": "4", "mesh.data": "-1", "model.attention": "xla"
    }  # fmt: skip


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--nonsense"], "unknown argument '--nonsense'; see --help, --search.KEY"),
        (["--nonsense=3"], "unknown argument '--nonsense'"),
        (["stray"], "unknown argument 'stray'"),
        (["--config.train.steps=5"], "unknown argument '--config.train.steps'"),
        (["--search.beam"], "--search.beam has no value; expected --search.beam=VALUE"),
        (["--deb"], "unknown argument '--deb'"),
    ],
)
def test_what_a_verb_does_not_have_is_refused(argv, told, capsys):
    with pytest.raises(SystemExit) as left:
        verb.parse(verb.make_parser("x", "A verb: see.", ""), argv, ["search"])
    assert left.value.code == 2 and told in capsys.readouterr().err


# Verb -> (arguments that it needs, the sections of the config that it takes).
TAKES = {
    "train": ([], ["config"]),
    "evaluate": (["--workdir", "x"], ["search", "mesh", "model", "data"]),
    "ground": (["film.mp4", "a star"], ["search", "mesh", "model"]),
    "prepare": (["merge", "x"], []),
    "convert": (["--format", "stage", "--source", "x", "--out", "y"], ["config"]),
    "export": (["--workdir", "x", "--out", "y", "--format", "peft"], []),
    "compile": (["--topology", "v5e-1"], ["config"]),
    "plan": (["--gpus", "8xH100"], ["config"]),
    "demo": ([], ["search", "mesh", "model"]),
    "ablate": ([], ["config"]),
}


@pytest.mark.parametrize("section", verb.FLAGS)
@pytest.mark.parametrize("name", HELP)
def test_a_verb_takes_its_sections_and_refuses_the_others(name, section, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needed, takes = TAKES[name]
    main = importlib.import_module(f"revision_jax.{name}").main
    if section in takes:
        monkeypatch.setattr(verb, "run", lambda act, args, **_: args)
        key = "train.steps" if section == "config" else "field"
        assert main([*needed, f"--{section}.{key}=7"]).fields == {f"{verb.FLAGS[section]}{key}": "7"}
    else:
        with pytest.raises(SystemExit) as left:
            main([*needed, f"--{section}.field=7"])
        assert left.value.code == 2 and f"unknown argument '--{section}.field'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag, told",
    [
        ("--search.beams=4", "unknown config key 'search.beams'; did you mean search.beam"),
        ("--mesh.date=1", "unknown config key 'mesh.date'; did you mean mesh.data"),
        ("--model.attentions=xla", "unknown config key 'model.attentions'; did you mean model.attention"),
        ("--model.remat=full", "model.remat cannot be changed after training; expected one of"),
        ("--search.beam=many", "search.beam is 'many'; expected a whole number"),
    ],
)
@pytest.mark.parametrize("name", ["ground", "evaluate"])
def test_unknown_fields_are_refused_with_the_nearest_names(name, flag, told, trained_run, capsys):
    main = importlib.import_module(f"revision_jax.{name}").main
    given = [str(trained_run.video), "a star grows"] if name == "ground" else []
    assert main([*given, "--workdir", str(trained_run.workdir), flag]) == 2
    err = capsys.readouterr().err
    assert told in err and err.startswith("error: ") and "Traceback" not in err


@pytest.mark.parametrize("name, more", [("train", []), ("compile", ["--topology", "v5e-1"])])
def test_unknown_fields_of_a_config_are_refused_before_anything_is_made(name, more, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"revision_jax.{name}").main
    assert main([*more, "--config.train.step=3"]) == 2
    assert "unknown config key 'train.step'; did you mean train.steps" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_sections_are_those_of_the_config():
    known = {key.partition(".")[0] for key in configs.flatten(configs.load())}
    assert {prefix.removesuffix(".") for prefix in verb.FLAGS.values()} - {""} <= known
