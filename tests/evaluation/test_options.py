"""Every option of `evaluate` with every stage: it has its effect, or it is refused."""

import json
import shutil
from pathlib import Path

import pytest

from revision_jax import evaluate
from revision_jax.config import ConfigError
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


@pytest.mark.parametrize("name", RUNS)
def test_every_option_acts_or_is_refused(name, runs, chain, capsys):
    """One stage, all options: a refusal is one line that names the flag, and computes nothing."""
    workdir = runs[name]
    data = str(runs["data"].get(name, chain.directories["val"]))
    # One method is enough to see an option act; tests/test_evaluate.py asks them all.
    one_method = ["--methods", "depth1"] if name in OPTIONS["methods"][1] else []
    for option, (flags, honoured) in OPTIONS.items():
        capsys.readouterr()
        flags = [flag.replace("DATA", data) for flag in flags]
        flags += [] if option == "methods" else one_method
        code = evaluate.main(["--workdir", str(workdir), "--out", f"eval-{option.strip()}", *flags])
        err = capsys.readouterr().err
        if name not in honoured:
            assert code == 2 and f"--{option.strip()}" in err and "has no effect on" in err, (option, err)
            assert not (workdir / f"eval-{option.strip()}").exists()
        elif option == "memory_gib":  # too little for any block: nothing is searched that does not fit
            assert code == 2 and "Raise --memory_gib" in err, err
        else:
            assert code == 0, (option, err)
            effect(option, workdir / f"eval-{option.strip()}")


def effect(option, folder):
    """What an option must have made of an evaluation."""
    name = {"split": "metrics_val.json", "data": None}.get(option, "metrics.json")
    path = next(folder.glob("metrics_*.json")) if name is None else folder / name
    metrics = json.loads(path.read_text())
    found = set(metrics["methods"] or metrics["retrieval"].get("methods", {}))
    assert metrics["split"] == {"split": "val"}.get(option, metrics["split"] if option == "data" else "test")
    if option == "data":
        assert metrics["split"] not in ("val", "test")
    elif option == "protocol":
        assert metrics["protocol"]["name"] == "paper" and metrics["protocol"]["search"]["nms_iou"] == 1.0
    elif option == "methods":
        assert found == {"depth1", "clip"}
        for scores in metrics["retrieval"].get("methods", {}).values():
            assert 0 <= scores["R@1"] <= scores["R@5"] <= scores["R@10"] <= 100.0 and scores["median_rank"] >= 1
    elif option == "search " and metrics["methods"]:
        assert metrics["protocol"]["search"]["confidence"] == "sequence_likelihood"
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
    for changes in ({"protocol": "paper"}, {"search": {"beam": 2}}, {"methods": ("clip",)}):
        with pytest.raises(ConfigError, match="give --out NAME"):
            Options(**changes)
        assert Options(out="other", **changes).out == "other"
    with pytest.raises(ConfigError, match="expected one of them"):
        Options(split="val", data="data/mine/test")
