"""A bundle needs nothing beside itself: its sources are taken away, and it answers as the run did."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from revision_jax import export, ground, load_run
from revision_jax.checkpoint import Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.config import flatten, load_json, resolve_path
from revision_jax.interop.check import CheckError
from revision_jax.runs import bundle as bundles
from revision_jax.runs import exporting
from revision_jax.runs.grounder import fingerprints
from revision_jax.runs.run import Run
from revision_jax.training.state import split_by_table, take_apart
from revision_jax.training.workdir import open_workdir

SENTENCES = ["a red circle moves to the left", "a blue star spins"]


def copy_world(source: Path, target: Path, names: list[str]) -> Path:
    """Copies a base and runs whose configs name each other, so that the copies name the copies."""
    for name in names:
        shutil.copytree(source / name, target / name)
    for path in target.rglob("config.json"):
        path.write_text(path.read_text().replace(str(source), str(target)))
    return target


def bundle_of(workdir: Path, out: Path) -> Path:
    """A bundle of a run, moved to where it was not made."""
    exporting.export(workdir, out.with_name("made"), "bundle")
    return Path(shutil.move(out.with_name("made"), out))


def moments(workdir: Path, video, depths: list[int]) -> list[list]:
    run = load_run(workdir)
    return [
        [(result.moments.tolist(), result.threshold) for result in run.ground(video, SENTENCES, depth=depth)]
        for depth in depths
    ]


def test_a_long_run_in_a_bundle_answers_without_its_sources(chain, long_run, tmp_path, capsys):
    """At every depth: its base, both runs that it started from and the run itself are gone."""
    world = copy_world(chain.folder, tmp_path / "world", ["base", "dense", "sparse", long_run.name])
    (world / "long/eval").mkdir()
    methods = ("depth1", "depth2_fused", "depth3_fused")  # what the run searches by at each depth
    calibration = {"methods": {name: {"threshold": 0.1 * n} for n, name in enumerate(methods, 1)}}
    search = load_json(world / "long/config.json").search.to_dict()
    (world / "long/eval/calibration.json").write_text(json.dumps(calibration | {"search": search}))
    film = next((chain.directories["test"] / "videos").iterdir())
    before = moments(world / "long", film, [1, 2, 3])
    assert before[0] != before[1] and any(found for found, _ in before[2])
    assert [depth[0][1] for depth in before] == pytest.approx([0.1, 0.2, 0.3])

    bundle = bundle_of(world / "long", tmp_path / "bundle")
    shutil.rmtree(world)
    assert moments(bundle, film, [1, 2, 3]) == before
    assert ground.main([str(film), *SENTENCES, "--workdir", str(bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    queries = found["videos"][0]["queries"]
    assert found["search"]["depth"] == 3 and len(queries[0]["levels"]) == 2
    for query, (expected, threshold) in zip(queries, before[2], strict=True):
        sure = [moment for moment in expected if moment[2] >= threshold]
        told = [[moment["start_s"], moment["end_s"], moment["confidence"]] for moment in query["moments"]]
        np.testing.assert_allclose(told, sure[: len(told)])
        assert len(told) == min(5, len(sure))


def test_a_dense_run_takes_its_calibration_with_it(trained_run, tmp_path):
    """From PyTorch's files; the threshold is the one that the evaluation chose."""
    folder = trained_run.workdir.parents[1]
    world = copy_world(folder, tmp_path / "world", ["base", "runs"])
    chosen = {"search": load_json(world / "runs/tiny/config.json").search.to_dict() | {"keep": [1.0, 0.4]}}
    (world / "runs/tiny/eval/budgets").mkdir()
    (world / "runs/tiny/eval/budgets/0.4.json").write_text(json.dumps(chosen))
    before = moments(world / "runs/tiny", trained_run.video, [1])
    bundle = bundle_of(world / "runs/tiny", tmp_path / "bundle")
    shutil.rmtree(world)
    assert moments(bundle, trained_run.video, [1]) == before
    assert before[0][0][1] == trained_run.metrics["calibration"]["depth1"]["threshold"]
    assert load_run(bundle, budget=0.4).config.search.keep == (1.0, 0.4)


def test_a_bundle_names_nothing_outside_itself_and_holds_each_part_once(chain, long_run, tmp_path):
    bundle = bundle_of(long_run, tmp_path / "bundle")
    folders = {path.parent for path in bundle.rglob("config.json")} - {bundle / "llm", bundle / "encoder"}
    assert folders == {bundle, bundle / "dense", bundle / "sparse"}
    for folder in folders:
        own = json.loads((folder / "config.json").read_text())
        named = {key: value for part in ("base", "init") for key, value in own[part].items() if value}
        assert all(value.startswith("bundle:") for value in named.values()), named
        whole = load_json(folder / "config.json")
        for key, value in flatten(whole).items():
            if isinstance(value, str) and value.startswith("/"):
                assert resolve_path(value).exists() and resolve_path(value).is_relative_to(bundle), key
        assert (whole.data.dir, whole.data.mined) == ("", "")
    assert {path.name for path in bundle.iterdir()} == {
        *("config.json", "manifest.json", "checkpoints", "llm", "encoder", "projector", "dense", "sparse"),
    }
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["format"] == "bundle" and manifest["run"]["step"] == 4
    assert set(manifest["check"]) == {"llm", "encoder", "projector", "init.dense", "init.sparse", "trained"}
    assert manifest["check"]["trained"] == manifest["run"]["sha256"]
    for unused in ("optimizer", "iterator"):
        assert not list(bundle.rglob(unused))


def test_parts_of_one_name_stand_beside_each_other(chain, tmp_path):
    """The runs were trained on two copies of the base: a bundle may hold it twice, but mixes nothing."""
    world = copy_world(chain.folder, tmp_path / "world", ["base", "dense", "sparse"])
    more = {"data__mixture": ((str(tmp_path / "more"), 1.0),)}
    starts = {"init__dense": str(world / "dense"), "init__sparse": str(world / "sparse")}
    config = chain.config("configs/stage2.py", **starts, **more)
    folder = tmp_path / "bundle"
    (tmp_path / "long/checkpoints").mkdir(parents=True)
    run = Run(config)
    with Checkpoints(tmp_path / "long/checkpoints", Meta(config.to_dict(), run.fingerprints)) as checkpoints:
        trained, _, _ = split_by_table(take_apart(run.grounder("fresh"))[1], config.trainable)
        checkpoints.save_weights(1, trained)
    bundles.write_bundle(config, tmp_path / "long", folder)
    whole = load_json(folder / "config.json")
    assert whole.base.llm == str(folder / "llm") and whole.data.mixture == (("more", 1.0),)
    assert load_json(folder / "dense/config.json").base.llm == str(folder / "llm2")
    assert bundles.check_bundle(Run(config, tmp_path / "long"), folder)


def test_a_later_stage_starts_from_a_bundle(chain, tmp_path):
    """With the bundle's own parts, and with the same parts elsewhere: they are compared by content."""
    bundle = bundle_of(chain.folder / "dense", tmp_path / "bundle")
    lora = lambda run: run.grounder("fresh").llm.layers.self_attn.q_proj.lora_b[...]
    inside = load_json(bundle / "config.json").base
    expected = lora(Run(chain.config("configs/stage1_sparse.py")))
    assert np.any(expected != 0)
    for base in ({}, {f"base__{role}": path for role, path in inside.items()}):
        config = chain.config("configs/stage1_sparse.py", init__dense=str(bundle), **base)
        np.testing.assert_array_equal(lora(Run(config)), expected)


def test_the_best_step_is_exported_where_the_run_keeps_it(chain, tmp_path):
    config = chain.config("configs/stage1.py", train__eval_every=2, train__keep_best=True)
    run = Run(config, open_workdir(tmp_path / "run", config))
    trained, _, _ = split_by_table(take_apart(run.grounder("fresh"))[1], config.trainable)
    with Checkpoints(run.workdir / "checkpoints", Meta(config.to_dict(), fingerprints(config)), keep=2) as checkpoints:
        for step, loss in ((2, 1.0), (4, 2.0)):
            values = {path: array + step for path, array in trained.items()}
            checkpoints.save(step, values, values, FakeIterator(), val_loss=loss)
    for form in ("peft", "bundle"):
        manifest = exporting.export(run.workdir, tmp_path / form, form)
        assert manifest["run"]["step"] == 2, form
    shutil.rmtree(run.workdir)
    bundled = Run.load(tmp_path / "bundle")
    assert bundled.steps == 2
    path = "llm/layers/self_attn/q_proj/lora_b"
    np.testing.assert_array_equal(take_apart(bundled.grounder("trained"))[1][path], trained[path] + 2)


class FakeIterator:
    def get_state(self):
        return {}


@pytest.mark.parametrize("flag", [["--dtype", "float16"], ["--shard-gib", "2"], ["--no-check"]])
def test_flags_without_effect_are_refused(chain, tmp_path, flag, capsys):
    argv = ["--workdir", str(chain.folder / "dense"), "--out", str(tmp_path / "out"), "--format", "bundle"]
    assert export.main([*argv, *flag]) == 2
    text = capsys.readouterr().err
    assert f"error: {flag[0]} has no effect with --format bundle" in text and text.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_answers_nothing_is_refused(chain, tmp_path, capsys):
    argv = ["--workdir", str(chain.folder / "sparse"), "--out", str(tmp_path / "out"), "--format", "bundle"]
    assert export.main(argv) == 2
    text = capsys.readouterr().err
    assert "stage 'sparse', which trains the sparse adapter and answers no search" in text
    assert "python -m revision_jax.train --config configs/stage1.py" in text and text.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_copy_that_differs_is_told_and_nothing_is_left(chain, tmp_path, monkeypatch):
    def spoiled(source, place):
        copy(source, place)
        if place.name == "llm":
            (place / "config.json").write_text((place / "config.json").read_text() + " ")

    copy = bundles._copy
    monkeypatch.setattr(bundles, "_copy", spoiled)
    with pytest.raises(CheckError, match=r"the copies of llm in .* differ from the run's"):
        exporting.export(chain.folder / "dense", tmp_path / "out", "bundle")
    assert not list(tmp_path.iterdir())
