"""Studies as they are declared: every row of every study is a valid chain, and keys say what is trained once."""

import re
import shutil
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from study_file import DECLARED, dense, row, stage, write_study

from revision_jax import config as configs
from revision_jax.config import ConfigError, flatten
from revision_jax.runs.stage import stage_of
from revision_jax.studies import grid
from revision_jax.studies.keys import PLACES, stage_key
from revision_jax.studies.minutes import total_minutes, training_minutes
from revision_jax.training.workdir import FREE

ROOT = Path("studies")
FILE = "configs/ablation.py"


def chains(study, seed=0):
    return [grid.chain_of(study, row, seed, ROOT) for row in study.rows]


# ------------------------------------------------------------------------------------------------- what is declared
@pytest.mark.parametrize("name", DECLARED["PRESETS"])
def test_every_row_of_every_study_is_a_chain_of_valid_configs(name):
    study = grid.load(f"{FILE}:{name}")
    for chain in chains(study):
        for i, link in enumerate(chain.links):
            for needed in stage_of(link.config).needs:
                folders = [str(before.folder) for before in chain.links[:i]]
                assert link.config.init[needed] in folders
            assert link.config.seed == 0 and not link.config.eval.after_training
    assert set(study.plotted) <= set(study.columns) and study.question.endswith("?")
    minutes = total_minutes(chains(study), study.seconds)
    assert (minutes is None) == ("_" in name) and (minutes or 1.0) > 0.5


def test_what_rows_and_studies_share_is_trained_once():
    every = [chain for name in DECLARED["BUILDERS"] for chain in chains(grid.load(f"{FILE}:{name}"))]
    usual = [grid.load(f"{FILE}:cost")]
    shared = {link.key for chain in chains(usual[0]) for link in chain.links}
    assert len(shared) == 3  # dense, sparse, long
    for name in ("domains", "length", "calibration", "training", "variants", "hierarchies"):
        keys = {link.key for chain in chains(grid.load(f"{FILE}:{name}")) for link in chain.links}
        assert shared <= keys, name
    folders = {link.folder: link.key for chain in every for link in chain.links}
    assert len(folders) == len(set(folders.values())) == len({link.key for chain in every for link in chain.links})
    # Rows that ask the same of the same run share an evaluation, others do not.
    default, variant_u, bottom_up, _ = chains(grid.load(f"{FILE}:variants"))
    assert default.folder == bottom_up.folder != variant_u.folder
    by_search = chains(grid.load(f"{FILE}:calibration"))
    assert len({chain.folder for chain in by_search}) == len(by_search)
    other = chains(grid.load(f"{FILE}:cost"), seed=1)
    assert not shared & {link.key for chain in other for link in chain.links}


def test_the_page_of_results_and_the_docstring_name_every_study():
    page = (Path(__file__).parents[2] / "docs/results/README.md").read_text()
    documented = set(re.findall(rf"`python -m revision_jax\.ablate --config {FILE}:(\w+)`", page))
    assert documented == set(DECLARED["BUILDERS"])
    table = re.findall(r"^\| (\w+) +\|", DECLARED["__doc__"], re.MULTILINE)
    assert set(table) - {"study"} == set(DECLARED["BUILDERS"])


# ------------------------------------------------------------------------------------------------- keys
def changed(value):
    """Another value of a kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return value + value[:1] if value else (("elsewhere", 1.0),)
    return value + "x" if isinstance(value, str) else value + 1


def test_the_key_changes_with_every_field_but_those_that_change_nothing():
    config = ConfigDict(configs.load("configs/stage1.py").to_dict())
    key, free = stage_key(config, {}), tuple(name for name in FREE if name.endswith("."))
    by_content = ("init.dense", "init.sparse", "data.dir", "data.mined")  # of Shapes nothing lies in data.dir
    assert all(name.startswith(PLACES) for name in by_content)
    for name, value in flatten(config).items():
        other = ConfigDict(config.to_dict())
        other.update_from_flattened_dict({name: changed(value)})
        passed_over = name in (*FREE, *by_content) or name.startswith(free)
        # With `keep_best` another step is used.
        assert (stage_key(other, {}) == key) == (passed_over and name != "train.keep_best"), name
    assert stage_key(config, {"init.dense": "a"}) != stage_key(config, {"init.dense": "b"}) != key


def test_when_the_best_step_is_kept_the_validations_count():
    kept = {"train.keep_best": True, "train.eval_every": 100}
    key = lambda **more: stage_key(configs.load("configs/stage1.py", kept | more), {})
    assert key() == key(**{"train.log_every": 20}) != key(**{"train.eval_every": 200})


def test_parts_count_by_their_content(tmp_path):
    config = configs.load("configs/stage1.py")
    copy = shutil.copy(configs.resolve_path(config.base.projector), tmp_path)
    elsewhere = configs.load("configs/stage1.py", {"base.projector": copy})
    assert stage_key(elsewhere, {}) == stage_key(config, {})
    other = shutil.copytree(configs.resolve_path(config.base.encoder), tmp_path / "clip")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    assert stage_key(configs.load("configs/stage1.py", {"base.encoder": str(other)}), {}) != stage_key(config, {})


def test_data_counts_by_its_content(tmp_path):
    def key(folder, queries="a"):
        (folder / "train").mkdir(parents=True, exist_ok=True)
        (folder / "train/manifest.json").write_text("{}")
        (folder / "train/queries.jsonl").write_text(queries)
        return stage_key(configs.load("configs/stage1.py", {"data.name": "folder", "data.dir": str(folder)}), {})

    assert key(tmp_path / "one") == key(tmp_path / "two") != key(tmp_path / "two", "b")


def test_minutes_grow_with_steps_and_groups():
    study = grid.load(f"{FILE}:hierarchies")
    longs = {chain.row.point: chain.links[-1] for chain in chains(study) if len(chain.links) == 3}
    minutes = [training_minutes(longs[depth], study.seconds) for depth in ("2", "3", "4", "5")]
    assert minutes == sorted(minutes) and minutes[1] == pytest.approx((25 + 0.26 * 1000) / 60)
    shorter = grid.load(f"{FILE}:hierarchies", {"train.steps": "500"})
    link = chains(shorter)[3].links[-1]
    assert training_minutes(link, study.seconds) == pytest.approx((25 + 0.26 * 500) / 60)


# ------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    "fields, told",
    [
        ({"data.neg_factor": "2"}, "data.neg_factor cannot be set: row 'one pass' is about it"),
        ({"search.ranking": "cosine"}, "search.ranking cannot be set: row '\\+ windows"),
        ({"seed": "3"}, "seed cannot be set.*--seeds"),
        ({"eval.before": "true"}, "eval.before cannot be set"),
        ({"train.step": "3"}, "row 'one pass', stage 'dense': unknown config key 'train.step'"),
        ({"train.steps": "many"}, "train.steps is 'many'; expected a whole number"),
    ],
)
def test_fields_that_would_not_act_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        chains(grid.load(f"{FILE}:modules", fields))


SPARSE, LONG = stage("sparse", "stage1_sparse", "tiny"), stage("long", "stage2", "tiny")


@pytest.mark.parametrize(
    "rows, told",
    [
        ([], "no rows"),
        ([row("a", dense(), "depth1"), row("a", dense(), "depth0")], "two rows 'a'"),
        ([row("a", [*dense(), LONG], "depth3")], "row 'a', stage 'long': it starts from a stage sparse"),
        ([row("a", [*dense(), SPARSE], "depth1")], "stage 'sparse' answers no search"),
        ([row("a", dense(), "depth2")], "it asks depth2; its run has depth0, depth1"),
        ([row("a", dense(), "depth1", methods=("depth0",))], "shows depth1, which it does not ask"),
        ([row("a", dense(), "depth1", data={"data.domain": "dusk"})], "its evaluation: data.domain is 'dusk'"),
        ([row("a", dense(lora__rank=-1), "depth1")], "row 'a', stage 'dense': lora.rank is -1"),
        ([row("a", [stage("dense", "stage1", "tiny", mined="other")], "depth1")], "it mines the answers of 'other'"),
        ([row("a", [stage("dense", "stage1", "mad", {"data.dir": "D"})], "depth1", data={"data.domain": "night"})],
         "data.name is 'mad'; expected shapes"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_run_are_told(rows, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        chains(grid.load(write_study(tmp_path / "mine.py", rows)))


def test_columns_and_files_that_are_none(tmp_path):
    rows = [row("a", dense(), "depth1")]
    with pytest.raises(ConfigError, match=r"shows recall; expected some of R1@\.1"):
        grid.load(write_study(tmp_path / "mine.py", rows, ("recall",)))
    with pytest.raises(ConfigError, match="is no study but the config of a stage"):
        grid.load("configs/stage1.py")
    with pytest.raises(ConfigError, match="has no preset 'everything'; expected one of hierarchies"):
        grid.load(f"{FILE}:everything")
    with pytest.raises(ConfigError, match=r"is a study, of several stages: python -m revision_jax\.ablate --config"):
        configs.load(f"{FILE}:modules")
    with pytest.raises(TypeError, match="row 'a' has serie"):
        row("a", dense(), "depth1", serie="x")
