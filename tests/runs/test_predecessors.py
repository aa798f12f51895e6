"""The runs that a stage starts from: missing, of another stage, of another config, changed since."""

import shutil

import jax
import pytest

from revision_jax import config as configs
from revision_jax import train
from revision_jax.checkpoint import CheckpointError
from revision_jax.checkpoint_record import Meta
from revision_jax.config import ConfigError
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs import predecessors
from revision_jax.runs.grounder import check_files, fingerprints, fresh_grounder
from revision_jax.runs.run import Run
from revision_jax.runs.stage import makers


@pytest.fixture
def mesh():
    return make_mesh(devices=jax.devices()[:1])


def test_a_missing_predecessor_is_told_with_the_command_that_makes_it(tmp_path, capsys):
    argv = ["--config", "configs/stage2.py", "--config.init.dense", f"{tmp_path}/one", "--config.init.sparse="]
    assert train.main([*argv, "--workdir", str(tmp_path / "run")]) == 2
    text = capsys.readouterr().err
    command = "python -m revision_jax.train --config configs/stage1.py --workdir"
    assert f"init.dense: no trained run at {tmp_path}/one; make it with\n    {command} {tmp_path}/one" in text
    assert (
        "init.sparse: not given; make it with\n    python -m revision_jax.train --config configs/stage1_sparse" in text
    )
    assert f"--config.init.dense={tmp_path}/one --workdir RUN" in text
    assert not (tmp_path / "run").exists()


def test_the_command_names_the_preset(chain):
    config = chain.config("configs/stage1_sparse.py", data__name="mad")
    assert "configs/stage1.py:mad --workdir" in predecessors.command(config, "dense")


def test_the_commands_of_the_defaults_are_a_chain():
    """What stage 2 asks for by default is what the other stages' defaults leave."""
    for before, path in configs.load("configs/stage2.py").init.items():
        assert str(train.default_workdir(makers(before)[0].config)) == path


def test_a_run_of_another_stage_is_refused(chain, mesh):
    config = chain.config("configs/stage2.py", init__sparse=str(chain.folder / "dense"))
    with pytest.raises(ConfigError, match=r"a run of stage 'dense'; expected sparse, made with"):
        fresh_grounder(config, mesh)


@pytest.mark.parametrize(
    "changes, listed",
    [
        ({"lora__alpha": 4.0}, r"init.dense\) does not fit.*\n  lora.alpha: 32.0 there, 4.0 here\n"),
        ({"hierarchy__window_s": 20.0}, r"hierarchy.window_s: 16.0 there, 20.0 here"),
        ({"sparse__num_heads": 4}, r"init.sparse\) does not fit.*\n  sparse.num_heads: 2 there, 4 here"),
    ],
)
def test_another_config_is_refused_with_the_differing_keys(chain, mesh, changes, listed):
    with pytest.raises(ConfigError, match=listed):
        fresh_grounder(chain.config("configs/stage2.py", **changes), mesh)


def test_fields_that_a_stage_may_choose_for_itself(chain, mesh):
    free = {"lora__dropout": 0.3, "sparse__dropout": 0.2, "hierarchy__levels": (4, 3), "hierarchy__stride": 1.0}
    fresh_grounder(chain.config("configs/stage2.py", **free, data__group_copies=(1, 2)), mesh)


def test_a_run_names_its_predecessors(chain, mesh):
    of = lambda spec, **changes: Run(chain.config(spec, **changes), mesh=mesh).predecessors
    dense, sparse = chain.folder / "dense", chain.folder / "sparse"
    assert of("configs/stage1.py") == {} and of("configs/stage1_sparse.py") == {"dense": dense}
    assert of("configs/stage2.py") == {"dense": dense, "sparse": sparse}
    assert of("configs/stage1.py", init__dense=str(dense)) == {"dense": dense}  # it may start from one


def test_a_predecessor_that_changed_is_another(chain, mesh, tmp_path):
    for name in ("dense", "sparse"):
        shutil.copytree(chain.folder / name, tmp_path / name)
    config = chain.config("configs/stage2.py", init__dense=str(tmp_path / "dense"))
    before = fingerprints(config)
    assert before["init.dense"]["sha256"] == fingerprints(chain.config("configs/stage2.py"))["init.dense"]["sha256"]
    shutil.rmtree(tmp_path / "dense/checkpoints/4")  # back to step 2
    after = fingerprints(config)
    assert after["init.dense"] != before["init.dense"] and after["init.sparse"] == before["init.sparse"]
    shutil.rmtree(tmp_path / "dense/checkpoints/2")
    with pytest.raises(ConfigError, match=r"no trained run at .*dense"):
        check_files(config)


def test_a_write_that_a_kill_cut_short_makes_no_run(chain, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints/4.orbax-checkpoint-tmp-17").mkdir(parents=True)
    shutil.copy(chain.folder / "dense/config.json", run)
    assert not predecessors.is_run(run) and Run(chain.config("configs/stage1.py"), run).steps == 0
    (run / "checkpoints/2").mkdir()
    assert predecessors.is_run(run) and Run(chain.config("configs/stage1.py"), run).steps == 2


def test_a_predecessor_on_other_files_is_refused(chain, mesh, monkeypatch):
    config = chain.config("configs/stage1_sparse.py")
    monkeypatch.setattr(predecessors, "Meta", lambda config, base: Meta(config, {"llm": {"path": "x", "sha256": "0"}}))
    with pytest.raises(CheckpointError, match="llm: trained on"):
        fresh_grounder(config, mesh)
