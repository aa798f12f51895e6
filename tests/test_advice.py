"""What a message recommends is done, and works. Every recommendation of the sources names the test that follows it."""

import ast
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from revision_jax import config as configs
from revision_jax import evaluate, ground, prepare, train, verb
from revision_jax.data.builders.datasets import DATA_SETS
from revision_jax.interop.output import output_folder
from revision_jax.runs import predecessors
from revision_jax.runs import run as runs
from revision_jax.studies.grid import load as load_study

ROOT = Path(__file__).parents[1]
ADVICE = re.compile(r"python -m revision_jax\.[a-z]\w+|(?<![\w-])--[a-z][\w-]*[a-z](?:\.[a-zA-Z_]+)*(?:=[a-z]+)?")
COMMAND = re.compile(r"python -m revision_jax\.(\w+)((?: [^\s`;]+)*)")
FOLDED = "interop/test_folding.py::test_a_folded_base_has_pefts_logits"
CHAIN = "test_advice.py::test_commands_that_train"
NEXT = "test_convert.py::test_a_converted_run_does_not_resume_but_a_stage_starts_from_it"
SKIPS = "training/test_loop.py::test_a_run_goes_on_without_nonfinite_steps_as_its_message_says"
CHECKS = "test_long_queries.py::test_check_counts_tokens"
DROPS = "test_advice.py::test_gaps_of_a_training_are_dropped_as_its_message_says"
THRESHOLD = "test_advice.py::test_the_threshold_that_ground_misses"
SHARDS = "test_advice.py::test_shards_and_the_rate_of_frames"
OTHER = "test_advice.py::test_another_work_folder"
EXAMPLES = "test_advice.py::test_every_example_of_the_help_is_understood"
SUBMITTED = "evaluation/test_benchmarks.py::test_hidden_times_are_submitted_and_missing_ids_refused"
PAGE = "page/test_library.py::test_too_much_is_refused_and_deleted"
JOINED = "studies/test_ablate.py::test_seeds_of_another_machine_are_joined"
STUDIED = "studies/test_ablate.py::test_a_study_runs_goes_on_and_tells_what_failed"
BUDGET = "evaluation/test_budget.py::test_ground_takes_it_over_with_its_threshold"
LEAVES = "test_advice.py::test_an_evaluation_of_other_methods_within_a_budget"
# file -> what its messages recommend -> the test that does it; None: it only says what was given
RECOMMENDED = {
    "checkpoint.py": {"--workdir": OTHER},
    "compile.py": dict.fromkeys(("--config", "--config.KEY", "--topology"), EXAMPLES),
    "ablate.py": dict.fromkeys(("--config", "--config.KEY", "--list", "--dry-run", "--seeds", "--workdir"), STUDIED)
    | {"--join": JOINED},
    "config.py": {
        "--config.train.steps": OTHER,
        **dict.fromkeys(("python -m revision_jax.ablate", "--config"), STUDIED),
    },
    "convert.py": {
        **dict.fromkeys(("--dtype", "--config"), None),
        **dict.fromkeys(("--workdir", "--config.init"), NEXT),
        **dict.fromkeys(("--format", "--adapter"), FOLDED),
    },
    "data/batches/train_split.py": {
        "--config.data.faults=drop": "test_long_queries.py::test_a_training_leaves_them_out",
        **dict.fromkeys(("python -m revision_jax.prepare", "--llm"), CHECKS),
    },
    "data/builders/merge.py": {"--shard": SHARDS},
    "data/frame_rate.py": {"--fps": SHARDS},
    "data/annotations/rows.py": {"--submission": SUBMITTED},
    "evaluation/clips.py": {"--methods": None},
    "evaluation/diagnosis.py": {"python -m revision_jax.prepare": CHECKS},
    "evaluation/methods.py": {"--methods": None},
    "evaluation/moments.py": {"--submission": None},
    "evaluation/others.py": {"--score": None},
    "evaluation/options.py": {
        "--out": LEAVES,
        **dict.fromkeys(("--split", "--data", "--queries", "--budget", "--methods")),
    },
    "data/video/clips.py": {
        "--exact": "data/video/test_clips.py::test_what_cannot_be_copied_is_encoded_anew_as_its_message_says"
    },
    "ground.py": {"--top": None, "--exact": None, "--clips": "test_ground.py::test_moments_as_files"},
    "interop/output.py": {"--out": "test_advice.py::test_another_folder"},
    "interop/peft_config.py": dict.fromkeys(("--format", "--source", "--adapter"), FOLDED),
    "known_keys.py": {"--allow-unknown": "interop/test_hostile.py::test_the_verbs_refuse_and_allow"},
    "preparation/commands.py": {"python -m revision_jax.prepare": SHARDS},
    "page/library.py": {"--videos": None, **dict.fromkeys(("--max_upload_mib", "--max_minutes"), PAGE)},
    "page/server.py": dict.fromkeys(("--host", "--port"), "page/test_service.py::test_what_the_verb_refuses"),
    "plan.py": {
        "--steps": None,
        **dict.fromkeys(("--config", "--config.KEY", "--compile", "--topology", "--gpus", "--cpu"), EXAMPLES),
    },
    "planning/compiled.py": {"python -m revision_jax.compile": "test_compile.py::test_a_program_that_fits"},
    "planning/machine.py": dict.fromkeys(("--gpus", "--cpu"), EXAMPLES),
    "planning/recipe.py": {"--steps": "test_plan.py::test_chosen_steps_on_gpus_with_sizes_of_ones_own"},
    "report/table.py": {
        "--wide": "report/test_report.py::test_a_wide_table_and_the_columns_of_a_benchmark",
        "--methods": "test_recursion.py::test_seconds_are_told_of_what_is_served_and_of_what_does_all_windows",
    },
    "runs/base.py": {"--config.KEY": DROPS},
    "runs/budgets.py": dict.fromkeys(("python -m revision_jax.evaluate", "--workdir", "--budget", "--out"), BUDGET),
    "runs/calibration.py": dict.fromkeys(("python -m revision_jax.evaluate", "--workdir"), THRESHOLD),
    "runs/converting.py": dict.fromkeys(("--format", "--tokenizer"), None),
    "runs/exporting.py": dict.fromkeys(("--format", "--dtype", "--shard-gib", "--no-check"), None),
    "runs/predecessors.py": dict.fromkeys(
        ("python -m revision_jax.train", "--config", "--config.init", "--workdir"), CHAIN
    ),
    "runs/run.py": dict.fromkeys(("python -m revision_jax.train", "--config", "--workdir"), CHAIN),
    "runs/sizing.py": {
        **dict.fromkeys(
            ("--config.data.dir", "--config.FIELD"), "runs/test_sizing.py::test_what_is_given_decides_the_rest"
        ),
        **dict.fromkeys(("python -m revision_jax.prepare", "--out", "--annotations"), SHARDS),
    },
    "runs/splits.py": {
        "--config.data.faults=drop": DROPS,
        "--data.faults=drop": "test_advice.py::test_gaps_of_an_evaluation_are_dropped_as_its_message_says",
        **dict.fromkeys(("python -m revision_jax.prepare", "--help"), "test_advice.py::test_every_data_set_has_help"),
    },
    "studies/facts.py": {"--show-toplevel": None, "--porcelain": None},  # git's
    "studies/grid.py": {"--seeds": STUDIED},
    "studies/joined.py": {"--join": JOINED},
    "runs/training.py": {
        "--config.base.projector": "runs/test_training.py::test_a_stage_trains_its_part_alone_and_resumes_to_the_bit"
    },
    "search/memory.py": dict.fromkeys(
        ("--memory_gib", "--methods", "--search.beam", "--mesh.fsdp", "--mesh.tensor"), LEAVES
    ),
    "train.py": dict.fromkeys(("python -m revision_jax.evaluate", "--workdir"), THRESHOLD),
    "training/tracker.py": {"--config.track": None},
    "training/loop.py": {"--config.train.skip_nonfinite": SKIPS, "--workdir": OTHER},
    "training/workdir.py": {"--workdir": OTHER},
    "verb.py": dict.fromkeys(("--help", "--config.KEY"), "test_verb.py::test_help_is_quick_and_teaches"),
}


# ------------------------------------------------------------------------------------------------- none is forgotten
def messages(path):
    """The texts of a file but docstrings, help and its examples; 0 for what is filled in."""
    nodes, passed_over = [*ast.walk(ast.parse(path.read_text()))], set()
    for node in nodes:
        match node:
            case ast.Expr(value=ast.Constant()) | ast.Assign(targets=[ast.Name(id="USAGE")]):
                passed_over.add(node.value)
            case ast.Call(func=ast.Attribute(attr="add_argument") | ast.Name(id="add")):
                passed_over |= {*node.args, *(given.value for given in node.keywords)}
            case ast.Call(func=ast.Attribute(attr="make_parser")):
                passed_over |= {*node.args}
            case ast.JoinedStr():
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
                passed_over |= {*node.values}
    yield from (
        n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and n not in passed_over
    )


def test_every_recommendation_names_a_test():
    """One that is new, or gone, is told here: run it by a test, and name that in `RECOMMENDED`."""
    found = {}
    for path in sorted((ROOT / "revision_jax").rglob("*.py")):
        name = str(path.relative_to(ROOT / "revision_jax"))
        if not name.startswith(("benchmarks/", "pretrain/")):
            advice = {match for text in messages(path) for match in ADVICE.findall(text)}
            found |= {name: advice} if advice else {}
    assert found == {name: {*advice} for name, advice in RECOMMENDED.items()}
    for place in {test for advice in RECOMMENDED.values() for test in advice.values() if test}:
        file, _, test = place.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), place


VERBS = ("train", "evaluate", "ground", "prepare", "convert", "export", "compile", "plan", "ablate")


@pytest.mark.parametrize("name", VERBS)
def test_every_example_of_the_help_is_understood(name, monkeypatch):
    module = importlib.import_module(f"revision_jax.{name}")
    seen = []
    monkeypatch.setattr(verb, "run", lambda act, args, **_: seen.append(args) or 0)
    usage = re.sub(r"\\\n +", "", module.USAGE)
    examples = re.findall(rf"^  python -m revision_jax\.{name}(.*)$", usage, re.MULTILINE)
    for example in examples:  # a remark stands behind some spaces
        words = shlex.split(re.split(r" {5,}| \.\.\.| > ", example)[0])
        assert module.main(words) == 0, example
        if "config" in seen[-1] and seen[-1].config and not getattr(seen[-1], "list", False):
            (load_study if name == "ablate" else configs.load)(seen[-1].config, seen[-1].fields)
    assert len(examples) == len(seen) > 1


@pytest.fixture
def gaps(trained_run, tmp_path):
    """A copy of the run's splits; a query of `test` and of `train` ends after its video."""
    for split, directory in trained_run.directories.items():
        copy = shutil.copytree(directory, tmp_path / "data" / split)
        lines = (copy / "queries.jsonl").read_text().split("\n")
        row = json.loads(lines[0])
        row["moments"] = [[0.0, 9999.0]]
        (copy / "queries.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]))
    return tmp_path / "data"


def recommended(err, verb):
    """The flag that a message names for a verb."""
    return re.search(rf"(--\S+)\s+\(`{verb}`\)", err)[1]


def test_gaps_of_an_evaluation_are_dropped_as_its_message_says(trained_run, gaps, tmp_path, capsys):
    run = shutil.copytree(trained_run.workdir, tmp_path / "run")
    argv = ["--workdir", str(run), "--data", str(gaps / "test"), "--out", "other"]
    assert evaluate.main(argv) == 2
    err = capsys.readouterr().err
    assert "the data has gaps" in err and recommended(err, "evaluate") == "--data.faults=drop"
    assert evaluate.main([*argv, recommended(err, "evaluate")]) == 0
    scored = json.loads((run / "other/metrics_data-test.json").read_text())
    assert scored["queries"] == trained_run.metrics["queries"] - 1
    assert prepare.main(["check", "--fast", str(gaps / "test")]) == 1  # the other thing it recommends


def test_gaps_of_a_training_are_dropped_as_its_message_says(trained_run, gaps, tmp_path, capsys):
    changed = configs.differences(configs.load(), trained_run.config)
    flags = [f"--config.{key}={value}" for key, (_, value) in changed.items() if key != "data.dir"]
    argv = ["--workdir", str(tmp_path / "run"), *flags, f"--config.data.dir={gaps}", "--config.data.name=folder"]
    argv.append("--config.eval.after_training=false")
    assert train.main(argv) == 2
    assert train.main([*argv, recommended(capsys.readouterr().err, "train")]) == 0


def test_other_fields_of_the_data_cannot_be_changed_after_training(trained_run, capsys):
    for key in ("fps", "faultss", "dir"):
        assert evaluate.main(["--workdir", str(trained_run.workdir), f"--data.{key}=2"]) == 2
        assert f"--data.{key} has no effect on an evaluation: of data.* only data.faults" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- commands
def follow(text):
    """Runs the commands that a message holds."""
    commands = COMMAND.findall(text)
    codes = [importlib.import_module(f"revision_jax.{name}").main(shlex.split(words)) for name, words in commands]
    assert codes and not any(codes), text


def run_flags(trained_run):
    changed = configs.differences(configs.load(), trained_run.config)
    return [f"--config.{key}={value}" for key, (_, value) in changed.items()]


def test_the_threshold_that_ground_misses(trained_run, tmp_path, caplog):
    run = shutil.copytree(trained_run.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("calibration.json"))
    argv = [str(trained_run.video), "a star grows", "--workdir", str(run)]
    assert ground.main(argv) == 0
    assert f"{run} was not evaluated, so that every answer counts" in caplog.text
    follow(caplog.messages[-1])
    caplog.clear()
    assert ground.main(argv) == 0 and "was not evaluated" not in caplog.text


def test_an_evaluation_of_other_methods_within_a_budget(trained_run, tmp_path, capsys):
    run = shutil.copytree(trained_run.workdir, tmp_path / "run")
    argv = ["--workdir", str(run), "--methods", "depth1", "--search.beam", "1", "--mesh.fsdp=1", "--mesh.tensor=1"]
    assert evaluate.main(argv) == 2 and "give --out NAME" in capsys.readouterr().err
    argv += ["--out", "other"]
    assert evaluate.main([*argv, "--memory_gib", "0.00001"]) == 2
    err = capsys.readouterr().err
    assert "To go on, raise --memory_gib, lower --search.beam, divide the model (--mesh.fsdp, --mesh.tensor)" in err
    assert evaluate.main([*argv, "--memory_gib", "4"]) == 0


def test_another_work_folder(trained_run, tmp_path, capsys):
    run = shutil.copytree(trained_run.workdir, tmp_path / "run")
    argv = [*run_flags(trained_run), "--config.train.learning_rate=0.5", "--config.eval.after_training=false"]
    assert train.main([*argv, "--workdir", str(run)]) == 2
    assert "or another --workdir" in capsys.readouterr().err
    assert train.main([*argv, "--workdir", str(tmp_path / "other"), "--config.train.steps=1"]) == 0


def test_another_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(ValueError, match="or give another --out"), output_folder(tmp_path / "out", {}):
        pass
    with output_folder(tmp_path / "other", {}):
        pass
    assert (tmp_path / "other").is_dir()


def test_commands_that_train(monkeypatch):
    """Understood, of a config that is valid; what they would do is what `chain` and `long_run` of conftest.py do."""
    told, trained = [], []
    for stage, needed in {"stage1_sparse": ("dense",), "stage2": ("dense", "sparse"), "stage2:mad": ("dense",)}.items():
        file, colon, preset = stage.partition(":")
        config = configs.load(f"configs/{file}.py{colon}{preset}", {f"init.{name}": "" for name in needed})
        told += predecessors.missing_predecessors(config)
    told.append(runs.HOW_TO_TRAIN)
    told.append("python -m revision_jax.train --config configs/stage2.py")  # of a run that chooses among short videos
    monkeypatch.setattr(train, "train", lambda config, workdir, **_: trained.append((config.stage, str(workdir))))
    follow("\n".join(told))
    assert {stage for stage, _ in trained} == {"dense", "sparse", "long"}


@pytest.mark.parametrize("name", [name for name, data_set in DATA_SETS.items() if data_set.read is not None])
def test_every_data_set_has_help(name, capsys):
    with pytest.raises(SystemExit) as left:
        prepare.main([name, "--help"])
    assert left.value.code == 0 and f"revision_jax.prepare {name}" in capsys.readouterr().out


def test_shards_and_the_rate_of_frames(tmp_path, caplog, capsys):
    """Films of 300 s whose features are of 4.975 frames a second, and said to be of 5; in two shards."""
    (tmp_path / "features").mkdir()
    rows = []
    for name in ("a", "b"):
        np.save(tmp_path / f"features/{name}.npy", np.ones((1492, 128), np.float16) * len(rows))
        rows.append({"query_id": name, "query": "a star", "duration": 300.0, "clip_id": name, "video_id": name})
        rows[-1]["timestamps"] = [1.0, 2.0]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["cone", "--annotations", str(tmp_path / "rows.jsonl"), "--features", str(tmp_path / "features")]
    argv += ["--split", "test"]
    first = [*argv, "--out", str(tmp_path / "first"), "--fps", "5"]
    with caplog.at_level("INFO", "revision_jax"):
        assert prepare.main([*first, "--shard", "0/2"]) in (0, 1)
        assert prepare.main(["merge", str(tmp_path / "first/test")]) == 2
        missing = re.search(r"`prepare` again with (--shard) (1/2)", capsys.readouterr().err)
        assert prepare.main([*first, *missing.groups()]) in (0, 1)
        follow(next(text for text in caplog.messages if "when all are: " in text))
        rate = re.search(r"would fill its 300.0 s at (\S+) a second \((--fps)\)", caplog.text + capsys.readouterr().out)
        caplog.clear()
        assert prepare.main([*argv, "--out", str(tmp_path / "second"), rate[2], rate[1]]) == 0
    assert "would fill" not in caplog.text + capsys.readouterr().out
