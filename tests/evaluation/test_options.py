"""Every option of `evaluate` with every stage: it has its effect, or it is refused."""

import json
import shutil
from pathlib import Path

import pytest

from revision_jax import evaluate
from revision_jax.config import ConfigError
from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation import methods
from revision_jax.evaluation.options import Options

RUNS = ("align", "dense", "sparse", "long", "unified", "retrieval")
# option -> (its flags, the runs that honour it)
SEARCHED, CLIPS = ("dense", "long", "unified"), ("retrieval",)
OPTIONS = {
    "out": ([], RUNS),
    "split": (["--split", "val"], RUNS),
    "data": (["--data", "DATA"], tuple(run for run in RUNS if run != "align")),
    "protocol": (["--protocol", "paper"], SEARCHED),
    "methods": (["--methods", "depth1,clip"], SEARCHED + CLIPS),
    "search": (["--search.top_k", "1"], SEARCHED),
    "search ": (["--search.confidence", "sequence_likelihood"], SEARCHED + CLIPS),
    "wide": (["--wide"], SEARCHED),
    "diagnose": (["--diagnose"], SEARCHED),
    "queries": (["--queries", "3"], SEARCHED),
    "budget": (["--budget", "0.4"], SEARCHED),
    "submission": (["--submission", "moment_detr"], SEARCHED),
    "score": (["--score", "eval-submission/submission_moment_detr_val.jsonl"], SEARCHED),
    "memory_gib": (["--memory_gib", "0.00001"], SEARCHED + CLIPS),
}


@pytest.fixture(scope="module")
def runs(chain, long_run, tmp_path_factory):
    """A tiny run of each stage, evaluated never; work folders by name."""
    from revision_jax.runs.run import Run
    from revision_jax.runs.splits import prepare_data
    from revision_jax.runs.training import train

    folder = tmp_path_factory.mktemp("stages")
    quick = {"train__steps": 2, "eval__max_rows": 5, "eval__before": False}
    # Short videos of a window each, among which the run chooses; its predecessors have seen windows as long.
    longer = quick | {"hierarchy__window_s": 40.0}
    clips = longer | {"data__dir": str(folder / "clips"), "data__video_s": 40.0}
    clips |= {f"data__{split}_videos": 12 for split in ("train", "val", "test")} | {"train__batch_size": 1}
    before = {"init__dense": str(folder / "clips-dense"), "init__sparse": str(folder / "clips-sparse")}
    groups = {"data__groups": "videos", "hierarchy__levels": (2,), "data__group_copies": (1,), "search__keep": (0.5,)}
    configs = {
        "align": chain.config("configs/align.py", **quick),
        "unified": chain.config("configs/stage2.py:unified", **quick),
        "clips-dense": chain.config("configs/stage1.py", **longer),
        "clips-sparse": chain.config("configs/stage1_sparse.py", **longer, init__dense=before["init__dense"]),
        "retrieval": chain.config("configs/stage2.py", **clips, **before, **groups, search__depth=2),
    }
    for name, config in configs.items():
        train(Run(config, folder / name), dict(prepare_data(config)))
    places = {name: folder / name for name in configs}
    for name, source in (("dense", chain.folder / "dense"), ("sparse", chain.folder / "sparse"), ("long", long_run)):
        places[name] = Path(shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("eval*")))
    places["data"] = {"retrieval": prepare_data(configs["retrieval"])["val"]}
    return places


# Options that a stage honours are given together: each must act, whatever is beside it.
TOGETHER = (
    ("out",),
    ("split", "wide", "diagnose", "submission"),
    ("data", "score"),
    ("protocol", "queries"),
    ("methods", "search", "search "),
    ("memory_gib",),
    ("budget",),
)
# With upper levels every policy is tried, a minute of compiling: tests/evaluation/test_budget.py does it once.
ELSEWHERE = {("budget", "long"), ("budget", "unified")}


def evaluate_with(options, name, runs, chain):
    """The exit code and the folder of one evaluation of a run with some of the options."""
    workdir = runs[name]
    data = str(runs["data"].get(name, chain.directories["val"]))
    folder = workdir / f"eval-{options[-1].strip()}"
    flags = [flag for option in options for flag in OPTIONS[option][0]]
    flags = [flag.replace("DATA", data).replace("eval-sub", f"{workdir}/eval-sub") for flag in flags]
    # One method is enough to see an option act; tests/test_evaluate.py asks them all.
    if not {"methods", "budget"} & set(options) and name in OPTIONS["methods"][1]:
        flags += ["--methods", "depth1"]
    return evaluate.main(["--workdir", str(workdir), "--out", folder.name, *flags]), folder


@pytest.mark.parametrize("name", RUNS)
def test_every_option_acts_or_is_refused(name, runs, chain, capsys):
    """One stage, all options: a refusal is one line that names the flag, and computes nothing."""
    assert sorted(option for options in TOGETHER for option in options) == sorted(OPTIONS)
    for options in TOGETHER:
        honoured = [option for option in options if name in OPTIONS[option][1]]
        for option in set(options) - set(honoured):
            capsys.readouterr()
            code, folder = evaluate_with([option], name, runs, chain)
            err = capsys.readouterr().err
            assert code == 2 and f"--{option.strip()}" in err and "has no effect on" in err, (option, err)
            assert not folder.exists()
        honoured = [option for option in honoured if (option, name) not in ELSEWHERE]
        if honoured:
            code, folder = evaluate_with(honoured, name, runs, chain)
            err = capsys.readouterr().err
            if "memory_gib" in honoured:  # too little for any block: nothing is searched that does not fit
                assert code == 2 and "raise --memory_gib" in err, err
                continue
            assert code == 0, (honoured, err)
            for option in honoured:
                effect(option, folder, honoured)


def effect(option, folder, beside):
    """What an option must have made of an evaluation, with the options beside it."""
    other_split = {"split", "data"} & set(beside)
    metrics = json.loads(next(folder.glob("metrics_*.json" if other_split else "metrics.json")).read_text())
    found = set(metrics["methods"] or metrics["retrieval"].get("methods", {}))
    if option == "out":
        assert metrics["split"] == "test"
    elif option == "split":
        assert metrics["split"] == "val"
    elif option == "data":
        assert metrics["split"] not in ("val", "test")
    elif option == "protocol":
        assert metrics["protocol"]["name"] == "paper" and metrics["protocol"]["search"]["nms_iou"] == 1.0
    elif option == "methods":
        assert found == {"depth1", "clip"}
        for scores in metrics["retrieval"].get("methods", {}).values():
            assert 0 <= scores["R@1"] <= scores["R@5"] <= scores["R@10"] <= 100.0 and scores["median_rank"] >= 1
    elif option == "search " and metrics["methods"]:
        assert metrics["protocol"]["search"]["confidence"] == "sequence_likelihood"
    elif option == "submission":
        rows = [json.loads(line) for line in (folder / "submission_moment_detr_val.jsonl").read_text().splitlines()]
        assert len(rows) == metrics["queries"] and all(row["pred_relevant_windows"] for row in rows)
    elif option == "score":
        assert found == {"depth1", "file submission_moment_detr_val"} and metrics["others"]
    elif option == "diagnose":
        assert all(sign["evidence"] and sign["remedy"] for sign in metrics["diagnosis"]["signs"])
        assert metrics["diagnosis"]["method"] in metrics["methods"]
    elif option == "budget":
        assert metrics["budget"]["share"] == 0.4 and found == {metrics["served"]}
        windows = metrics["methods"][metrics["served"]]["cost"]["all_pairs"] / metrics["queries"]
        assert metrics["budget"]["chosen"]["frame_share"] <= 40 + 100 / windows
        assert (folder.parent / "eval/budgets/0.4.json").exists()
    elif option == "wide":
        assert metrics["table"]["columns"][-3:] == ["mAP@.5", "mAP@.75", "mAP"]
        assert "<th>mAP@.75</th>" in (folder / "report_val.html").read_text()
    elif option == "queries":
        assert metrics["queries"] == 3
    elif option == "search":
        assert metrics["protocol"]["search"]["top_k"] == 1
        rows = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
        assert all(len(row["moments"]) <= 1 for row in rows if "moments" in row)


@pytest.mark.parametrize("arguments, words", [
    (["--search.beams=4"], "unknown config key 'search.beams'; did you mean search.beam"),
    (["--beam=4"], "unknown argument '--beam'"), (["--search.beam"], "has no value"),
    (["--search.beam=four"], "search.beam is 'four'; expected a whole number"),
    (["--search.beam=2", "--search.sampling=0.5", "--out=x"], "search.beam is 2 and search.sampling 0.5"),
    (["--search.policy=guess", "--out=x"], "search.policy is 'guess'; expected one of bottom_up"),
    (["--model.dtype=bfloat16"], "model.dtype cannot be changed after training"),
    (["--mesh.data=7"], "do not fit"),
])  # fmt: skip
def test_what_cannot_be_read_is_named(arguments, words, trained_run, capsys):
    try:
        code = evaluate.main(["--workdir", str(trained_run.workdir), *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and words in capsys.readouterr().err


def test_another_search_needs_another_folder():
    for changes in ({"protocol": "paper"}, {"search": {"beam": 2}}, {"methods": ("clip",)}, {"queries": 3}):
        with pytest.raises(ConfigError, match="give --out NAME"):
            Options(**changes)
        assert Options(out="other", **changes).out == "other"
    with pytest.raises(ConfigError, match="expected one of them"):
        Options(split="val", data="data/mine/test")
    with pytest.raises(ConfigError, match="--queries is -1; expected a number"):
        Options(out="other", queries=-1)


def test_the_clip_method_is_chosen_on_a_bounded_sample(monkeypatch):
    monkeypatch.setattr(methods, "SAMPLED_VIDEOS", 4)
    monkeypatch.setattr(methods, "SAMPLED_QUERIES", 8)
    query = lambda video, number, moments=((1.0, 2.0),): Query(f"{video}/{number}", video, "x", moments)
    few = {f"v{n}": [query(f"v{n}", 0), query(f"v{n}", 1, ())] for n in range(4)}
    assert methods.sample_present(few) == {video_id: own[:1] for video_id, own in few.items()}
    many = {f"v{n}": [query(f"v{n}", k) for k in range(5 if n else 0)] for n in range(9)}
    sample = methods.sample_present(many)
    assert list(sample) == ["v1", "v3", "v5", "v7"] and all(len(own) == 2 for own in sample.values())
    assert not methods.sample_present({"v": [query("v", 0, ())]})
