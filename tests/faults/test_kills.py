"""Fifty kills at random moments of train, prepare, evaluate and export: what the same command then leaves is to the bit
what an undisturbed one leaves."""

import json
import shutil

import numpy as np
import pytest

from revision_jax.runs.run import Run
from revision_jax.training.state import take_apart
from tests.faults import world

pytestmark = pytest.mark.faults
KILLS = {"train": 14, "prepare": 12, "evaluate": 12, "huggingface": 4, "revisionllm": 2, "peft": 2, "bundle": 4}
FORMATS = ("huggingface", "revisionllm", "peft", "bundle")
SHARES = (1.0, 0.5)  # of the time that it takes: until then it is killed in one folder; then it is let be
MEASURED = ("measured", "compilations", "seconds", "sha256")  # of a line with the seconds, too


def command(name, made, out):
    """The verb and its arguments, for a folder `out` of its own."""
    if name == "train":
        return ["train", *world.train_argv(made, out / "run")]
    if name == "prepare":
        return ["prepare", *world.prepare_argv(made, out / "data")]
    if name == "evaluate":
        if not (out / "run").exists():
            shutil.copytree(made / "run", out / "run", ignore=shutil.ignore_patterns("eval", "events*"))
        return ["evaluate", "--workdir", out / "run"]
    return ["export", "--workdir", made / "run", "--out", out / "export", "--format", name]


def plain(value):
    """Without what was measured."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {k: plain(v) for k, v in value.items() if k not in MEASURED} if isinstance(value, dict) else value


def rows(path):
    return [plain(json.loads(line)) for line in path.read_text().split("\n") if line]


def evaluated(run):
    """What an evaluation leaves, but for what it measured; a report shows seconds, so of it that it is there."""
    logs = {path.name: sorted(map(json.dumps, rows(path))) for path in (run / "eval").glob("*.jsonl")}
    texts = {path.name: plain(json.loads(path.read_text())) for path in (run / "eval").glob("*.json")}
    return logs, texts, sorted(path.name for path in (run / "eval").iterdir())


def trained(run):
    """The parameters that are used; of every checkpoint the checksums of its parts; the losses."""
    _, arrays = take_apart(Run.load(run).grounder("trained"))
    parameters = {path: np.ascontiguousarray(array).tobytes() for path, array in arrays.items()}
    steps = {
        path.parents[1].name: json.loads(path.read_text())["sums"]
        for path in (run / "checkpoints").glob("[0-9]*/meta/metadata")
    }
    return parameters, steps, (run / "metrics.jsonl").read_text(), (run / "config.json").read_text(), evaluated(run)


def files(folder):
    """Path -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left(name, out):
    """What a command leaves, to be compared."""
    if name == "train":
        return trained(out / "run")
    return evaluated(out / "run") if name == "evaluate" else files(out / ("data" if name == "prepare" else "export"))


@pytest.mark.parametrize("name", KILLS)
def test_kills_leave_no_difference(server, made, tmp_path, name, record_property):
    rng = np.random.default_rng(sum(map(ord, name)))
    out = tmp_path / "undisturbed"
    out.mkdir()
    whole = server.verb(*command(name, made, out), limit_s=300)
    assert whole.code == 0, whole.err
    wanted, killed, folders = left(name, out), 0, 0
    while killed < KILLS[name]:
        out, folders = tmp_path / f"out{folders}", folders + 1
        out.mkdir()
        argv, ended = command(name, made, out), None
        for share in SHARES:
            ended = server.verb(*argv, limit_s=rng.uniform(0.02, share) * whole.seconds)
            killed += ended.hung
            if not ended.hung:
                break
        if ended.hung:
            ended = server.verb(*argv, limit_s=300)
        # An export that was whole when it was killed is not made a second time.
        assert ended.code == 0 or (name in FORMATS and "exists already" in ended.err), ended.err
        assert left(name, out) == wanted, f"{name}, folder {folders}"
        shutil.rmtree(out)
    told = f"{name}: {killed} kills in {folders} folders, 0 differences; undisturbed it takes {whole.seconds:.1f} s"
    record_property("told", told)


def test_they_are_fifty():
    assert sum(KILLS.values()) == 50
