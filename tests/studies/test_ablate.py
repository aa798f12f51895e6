"""The verb on a study of tiny runs: what rows share is trained once, the command goes on, a failed row is told."""

import json
from pathlib import Path

import pytest
from study_file import dense, row, stage, write_study
from tiny_base import GROUPS, overrides_of

from revision_jax import ablate
from revision_jax import config as configs
from revision_jax.studies import chain as chains
from revision_jax.training.preemption import Preempted

BROKEN = {"base.llm": "nowhere/llm"}


def rows():
    """The dense level; all levels; one that learns from the first one's mistakes; one whose LLM is not there."""
    levels = [*dense(), stage("sparse", "stage1_sparse", "tiny"), stage("long", "stage2", "tiny")]
    mined = stage("mined", "stage1", "tiny", {"data.negatives": (("mined", 1.0),)}, mined="dense")
    return [
        row("windows", dense(), "depth1"),
        row("levels", levels, "depth3", queries=3, search={"search.keep": (0.8, 0.5)}),
        row("elsewhere", dense(), "depth1", data={"data.domain": "night"}),
        row("mined", [*dense(), mined], "depth1"),
        row("broken", dense(base__llm=BROKEN["base.llm"]), "depth1"),
    ]


def flags(chain):
    """Fields of every stage: the sizes, parts and data of the fixture `chain`."""
    fields = overrides_of(chain.folder / "base", chain.folder / "data") | GROUPS | {"eval.max_rows": 5}
    left_out = ("eval.before", "base.llm")  # the study sets the first; a row is about the second
    return [f"--config.{key}={value}" for key, value in fields.items() if key not in left_out]


@pytest.fixture
def study(chain, tmp_path, monkeypatch):
    """`study(*flags)` -> exit code, and the counts of trainings and evaluations that were done."""
    monkeypatch.chdir(tmp_path)
    llm = str(chain.folder / "base/llm")
    every = [one | {"stages": [_with_llm(stage, llm) for stage in one["stages"]]} for one in rows()]
    spec = write_study(tmp_path / "mine.py", every, ("R1@.3", "false alarms", "s/query, warm"))
    done = {"trained": [], "evaluated": []}
    train, evaluate = chains.training.train, chains.evaluate
    monkeypatch.setattr(
        chains.training, "train", lambda run, data: done["trained"].append(run.workdir.name) or train(run, data)
    )
    monkeypatch.setattr(
        chains, "evaluate", lambda run, options: done["evaluated"].append(options.out) or evaluate(run, options)
    )

    def call(*more):
        done["trained"], done["evaluated"] = [], []
        code = ablate.main(["--config", spec, "--workdir", "out", "--seeds", "0", *flags(chain), *more])
        return code, done["trained"], done["evaluated"]

    return call


def _with_llm(given, llm):
    """A stage on this LLM, unless it names one."""
    return given | {"set": tuple(({"base.llm": llm} | dict(given["set"])).items())}


def test_a_study_runs_goes_on_and_tells_what_failed(study, caplog, capsys):
    with caplog.at_level("INFO", "revision_jax"):
        code, trained, evaluated = study()
    assert code == 1 and "failed: broken, seed 0: ConfigError: files are missing" in caplog.text
    assert [name.partition("-")[0] for name in trained] == ["dense", "sparse", "long", "dense"]
    assert len(evaluated) == 5 and evaluated.count("mined") == 1
    said = json.loads(Path("out/small/results.json").read_text())
    by_name = {row["name"]: row for row in said["rows"]}
    for name in ("windows", "levels", "elsewhere", "mined"):
        found = by_name[name]["by_seed"]["0"]
        assert 0 <= by_name[name]["values"]["R1@.3"]["mean"] <= 100 and found["minutes"]["train"] > 0
        assert by_name[name]["values"]["s/query, warm"]["mean"] > 0 and found["parameters"] > 0
    assert by_name["levels"]["by_seed"]["0"]["queries"] == {"present": 2, "absent": 1}
    assert by_name["levels"]["steps"] == 12 and by_name["mined"]["steps"] == 8
    assert "night" in by_name["elsewhere"]["by_seed"]["0"]["metrics"]["split"]
    assert by_name["levels"]["by_seed"]["0"]["metrics"]["protocol"]["search"]["keep"] == [0.8, 0.5]
    assert "files are missing" in Path("out/small/errors/broken-seed0.txt").read_text()
    learned = configs.load_json(Path("out/stages") / trained[-1] / "config.json")
    assert Path(learned.data.mined).is_file() and learned.data.negatives == (("mined", 1.0),)
    assert {"index.html", "table.md", "r1-3.png"} <= {path.name for path in Path("out/small").iterdir()}
    assert "windows" in capsys.readouterr().out

    table = Path("out/small/table.md").read_text()
    assert study() == (1, [], [])  # nothing is done again
    assert Path("out/small/table.md").read_text() == table
    levels = by_name["levels"]["by_seed"]["0"]
    (Path("out/small") / levels["evaluation"]["folder"] / "scored.json").unlink()
    (Path("out/small") / levels["stages"][-1]["folder"] / "trained.json").unlink()
    code, trained, evaluated = study("--config.train.log_every=1")  # changes nothing of what is learned
    assert [name.partition("-")[0] for name in trained] == ["long"] and len(evaluated) == 1
    again = {row["name"]: row for row in json.loads(Path("out/small/results.json").read_text())["rows"]}
    assert again["levels"]["values"]["R1@.3"] == by_name["levels"]["values"]["R1@.3"]


def test_seeds_of_another_machine_are_joined(study, capsys):
    """A second machine does what is missing, and only that; rows that were trained otherwise are refused."""
    study("--config.train.steps=2")
    there = Path("out").rename("there") / "small/results.json"
    first = json.loads(there.read_text())
    code, trained, evaluated = study("--config.train.steps=2", "--join", str(there))
    assert (code, trained, evaluated) == (1, [], [])  # the broken row alone is tried again
    said = json.loads(Path("out/small/results.json").read_text())
    assert [row["values"] for row in said["rows"]] == [row["values"] for row in first["rows"]]
    assert said["joined"][0]["seeds"] == [0] and said["joined"][0]["machine"] == first["machine"]
    assert said["here"] == [0]  # where the broken row was tried
    table = Path("out/small/table.md").read_text()
    assert "--join there/small/results.json" in table and table.count("Seeds 0; commit") == 2
    # A file that had joined others names only those of its sources whose seeds are asked for.
    both = dict(said, here=[1], joined=[dict(said["joined"][0], seeds=[seed]) for seed in (0, 2)])
    Path("both.json").write_text(json.dumps(both))
    study("--config.train.steps=2", "--join", "both.json")
    assert [one["seeds"] for one in json.loads(Path("out/small/results.json").read_text())["joined"]] == [[0]]

    for flags, told in (
        (["--config.train.steps=3", "--join", str(there)], "row windows, seed 0: dense is"),
        (["--config.train.steps=2", "--join", str(there), str(there)], "row windows, seed 0 is in another joined file"),
        (
            ["--config.train.steps=2", "--seeds", "1", "--join", str(there)],
            "no row of this study that is whole, for seeds 1",
        ),
        (["--join", "nowhere.json"], "--join nowhere.json is not there"),
        (["--dry-run", "--join", str(there)], "--join and --dry-run were both given"),
    ):
        assert study(*flags)[0] == 2 and told in capsys.readouterr().err


def test_a_call_that_is_told_to_leave_is_no_failed_row(study, monkeypatch, capsys):
    def leave(run, data):
        raise Preempted(2)

    monkeypatch.setattr(chains.training, "train", leave)
    code, _, evaluated = study()
    assert code == 75 and not evaluated and not Path("out/small/results.json").exists()
    assert "the same command goes on" in capsys.readouterr().err


def test_the_list_and_the_plan_of_a_study(study, capsys):
    assert study("--dry-run") == (0, [], []) and not Path("out").exists()
    told = capsys.readouterr().out
    assert told.count("to be trained") == 5 and told.count("shared") == 3 and told.count("to be done") == 5
    assert ablate.main(["--list", "--seeds", "0,1"]) == 0
    told = capsys.readouterr().out
    lines = {line.split()[0]: line for line in told.splitlines() if " trainings " in line}
    assert lines["cost"].split()[1:5] == ["4", "rows", "6", "trainings"] and "What does a number" in lines["cost"]
    assert "computed, not measured" in told.replace("\n", " ") and "variants_mad" in told


@pytest.mark.parametrize(
    "argv, told",
    [
        ([], "without a study; expected configs/ablation.py:STUDY, and --list names them"),
        (["--config", "configs/ablation.py:costs"], "has no preset 'costs'"),
        (["--config", "configs/ablation.py:cost", "--seeds", "0,0"], "--seeds is '0,0'; expected different whole"),
        (["--config", "configs/ablation.py:cost", "--seeds", "one"], "--seeds is 'one'"),
        (["--config", "configs/ablation.py:cost", "--config.seed=1"], "seed cannot be set"),
    ],
)
def test_what_cannot_be_run_is_one_line(argv, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ablate.main(argv) == 2
    err = capsys.readouterr().err
    assert told in err and "Traceback" not in err and not list(tmp_path.iterdir())


def test_several_hosts_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1")
    assert ablate.main(["--config", "configs/ablation.py:cost"]) == 2
    assert "a study is not divided among hosts" in capsys.readouterr().err
