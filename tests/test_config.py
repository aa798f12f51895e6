"""The config file, its presets, overrides and errors."""

import argparse
import contextlib
import json
import shutil
from pathlib import Path

import pytest

from revision_jax import config as configs
from revision_jax import train, verb
from revision_jax.checkpoint_record import base_of, config_changes
from revision_jax.config import ConfigError
from revision_jax.config_rules import ADDED
from revision_jax.rules import RENAMED

REPO = Path(configs.__file__).parents[1]


def test_default_is_tiny_and_frozen():
    config = configs.load()
    assert config == configs.load("configs/stage1.py:tiny")
    assert config.data.name == "shapes"
    with pytest.raises(AttributeError):
        config.train.batch_size = 1


@pytest.mark.parametrize(
    "preset, window_s, frames, epochs",
    [
        ("mad", 125.0, 250, 5),
        ("vidchapters", 500.0, 250, 1),
        ("msrvtt", 32.0, 100, 5),
        ("charades", 32.0, 96, 5),
        ("activitynet", 240.0, 240, 5),
        ("qvhighlights", 150.0, 75, 5),
        ("tacos", 125.0, 250, 5),
        ("extremewhen", 125.0, 250, 5),
    ],
)
def test_presets_carry_the_papers_recipe(preset, window_s, frames, epochs):
    config = configs.load(f"configs/stage1.py:{preset}")
    assert (config.hierarchy.window_s, config.hierarchy.num_frames) == (window_s, frames)
    assert (config.train.epochs, config.train.steps, config.train.batch_size) == (epochs, 0, 128)
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (64, 128.0, 0.05)
    assert config.train.learning_rate == 1e-4 and config.train.warmup_ratio == 0.03
    assert config.model.dtype == config.model.param_dtype == "bfloat16"
    assert config.base.llm == "" and config.prompt.system.startswith("A chat between")


def test_a_config_is_not_changed_by_what_is_made_of_it():
    """`ConfigDict(frozen)` shares what is nested with the config that was frozen."""
    config = configs.load()
    for domain in ("night", "dusk"):
        with contextlib.suppress(ConfigError):
            assert configs.finish(config, {"data.domain": domain}).data.domain == "night"
        assert config.data.domain == configs.finish(config).data.domain == "day"


def test_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configs.find_config("configs/stage1.py").is_file()
    shutil.copy(REPO / "configs/stage1.py", tmp_path / "mine.py")
    assert configs.find_config("mine.py") == Path("mine.py")
    with pytest.raises(ConfigError, match=r"no config file at configs/stage9.py.*stage1.py"):
        configs.load("configs/stage9.py")


def test_shipped_file_is_found_in_an_installed_package(tmp_path, monkeypatch):
    """A plain install has the files in `revision_jax/configs`, and no clone beside it."""
    package = tmp_path / "site" / "revision_jax"
    (package / "configs").mkdir(parents=True)
    shutil.copy(REPO / "configs/stage1.py", package / "configs")
    monkeypatch.setattr(configs, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    assert configs.find_config("configs/stage1.py") == package / "configs/stage1.py"


def test_unknown_preset_lists_the_known():
    with pytest.raises(ConfigError, match=r"no preset 'big'.*tiny, folder, mad, vidchapters, msrvtt"):
        configs.load("configs/stage1.py:big")


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("train.batch_size=8", "train.batch_size", 8),
        ("train.learning_rate=2", "train.learning_rate", 2.0),
        ("eval.before=False", "eval.before", False),
        ("lora.targets=q_proj,v_proj", "lora.targets", ("q_proj", "v_proj")),
        ("lora.targets=('q_proj',)", "lora.targets", ("q_proj",)),
        ("trainable=[['.*', 1]]", "trainable", ((".*", 1),)),
        ("prompt.system=a=b", "prompt.system", "a=b"),
    ],
)
def test_override_takes_the_type_of_the_default(text, key, value):
    got = configs.flatten(configs.load(overrides=[text]))[key]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("train.batch_size=3.5", "train.batch_size is '3.5'; expected a whole number such as 16"),
        ("train.learning_rate=fast", "train.learning_rate is 'fast'; expected a number"),
        ("train.learning_rate=nan", "train.learning_rate is nan; expected greater than 0"),
        ("eval.before=maybe", "eval.before is 'maybe'; expected true or false"),
        ("trainable=[('(', 1)]", "trainable is .*; expected rows"),
        ("trainable=(", "trainable is '\\('; expected a tuple"),
        ("model.dtype=float16", "model.dtype is 'float16'; expected one of float32, bfloat16"),
        ("lora.targets=q_proj,qproj", "lora.targets is .*; expected some of q_proj"),
        ("train.batchsize=3", "unknown config key 'train.batchsize'; did you mean train.batch_size"),
        ("batch_size=3", "unknown config key 'batch_size'; did you mean .*train.batch_size"),
        ("train=3", "unknown config key 'train'"),
        ("train.steps", "cannot read the override 'train.steps'; expected key=value"),
        ("train.epochs=2", "expected one of them to be 0"),
        ("train.log_every=30", "train.checkpoint_every is 100; expected a multiple of train.log_every"),
        ("mesh.fsdp=-1", "mesh is .*; expected at most one axis of -1"),
    ],
)
def test_bad_override_names_the_key(text, message):
    with pytest.raises(ConfigError, match=message):
        configs.load(overrides=[text])


def test_override_of_another_type_in_a_dict():
    with pytest.raises(ConfigError, match=r"train.batch_size is 2.0; expected a whole number"):
        configs.load(overrides={"train.batch_size": 2.0})


def test_a_field_without_a_rule_and_a_missing_field_raise(tmp_path):
    source = (REPO / "configs/stage1.py").read_text()
    odd = tmp_path / "odd.py"
    odd.write_text(source.replace("            clip_norm=1.0,", "            clip_normal=1.0,"))
    with pytest.raises(ConfigError) as error:
        configs.load(str(odd))
    assert "unknown config key 'train.clip_normal'; did you mean train.clip_norm" in str(error.value)
    assert "train.clip_norm is missing" in str(error.value)


def test_json_round_trip(tmp_path):
    config = configs.load("configs/stage1.py:mad", ["train.batch_size=256"])
    configs.save_json(config, tmp_path / "config.json")
    back = configs.load_json(tmp_path / "config.json")
    assert back == config and back.trainable == config.trainable
    again = configs.load_json(tmp_path / "config.json", ["eval.split=val"])
    assert configs.differences(config, again) == {"eval.split": ("test", "val")}


def test_json_errors(tmp_path):
    with pytest.raises(ConfigError, match="does not exist; expected the work folder"):
        configs.load_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: not JSON"):
        configs.load_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({"train": {}}))
    with pytest.raises(ConfigError, match=f"^{tmp_path}/config.json: .*(?s:.*)seed is missing"):
        configs.load_json(tmp_path / "config.json")
    configs.save_json(configs.load(), tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"^eval.split is 'x'"):  # of the flag, not of the file
        configs.load_json(tmp_path / "config.json", ["eval.split=x"])


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"train": "\xff"}', "config.json.*UTF-8"),
        (b"[" * 10_000 + b"]" * 10_000, "config.json: not JSON"),
        (b'{"train": 3, "seed": 0}', "train"),
    ],
)
def test_a_runs_config_of_another_form_is_refused(content, message, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        configs.load_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("config.json", "{}", "is no config; expected a Python file"),
        ("config.py", "not (python", "is no config: it is not Python"),
        ("config.py", "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n", "defines no "),
    ],
)
def test_a_file_that_defines_no_config_is_not_run(name, content, message, tmp_path, capfd):
    (tmp_path / name).write_text(content)
    assert train.main(["--config", str(tmp_path / name)]) == 2
    assert message in capfd.readouterr().err and not (tmp_path / "ran").exists()


def test_paths(monkeypatch, tmp_path):
    assert configs.resolve_path("asset:tiny/llm") == configs.PACKAGE / "assets/tiny/llm"
    assert configs.resolve_path("~/x") == Path.home() / "x"
    monkeypatch.setenv("REVISION_JAX_CACHE", str(tmp_path))
    assert configs.resolve_data_dir(configs.load()) == tmp_path / "data/shapes"
    assert configs.resolve_data_dir(configs.load(overrides=["data.dir=/d"])) == Path("/d")


def test_flags():
    parser = argparse.ArgumentParser()
    verb.add_config(parser, configs.DEFAULT)
    argv = ["--config.seed=3", "--config", "c.py:mad", "--config.data.dir", "x"]
    args = verb.parse(parser, argv, ["config"])
    assert args.config == "c.py:mad" and args.fields == {"seed": "3", "data.dir": "x"}
    for wrong in (["--nope"], ["--config.seed"], ["--search.beam=2"]):
        with pytest.raises(SystemExit) as stop:
            verb.parse(parser, wrong, ["config"])
        assert stop.value.code == 2


def test_fields_of_one_section_take_the_types_of_its_values():
    fields = {"beam": "4", "keep": "8,0.5", "drop_last_frame": "true", "confidence": "sequence_likelihood"}
    found = configs.section(configs.load(), "search", fields)
    assert found == {"beam": 4, "keep": (8, 0.5), "drop_last_frame": True, "confidence": "sequence_likelihood"}
    for wrong, message in (
        ({"beams": "4"}, "unknown config key 'search.beams'; did you mean search.beam"),
        ({"beam": "four"}, "search.beam is 'four'; expected a whole number such as 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            configs.section(configs.load(), "search", wrong)


def test_describe_teaches_every_field():
    text = configs.describe()
    for key in configs.flatten(configs.load()):
        assert f"{key.rpartition('.')[2]}=" in text


def test_a_stage_says_only_what_it_changes():
    config = configs.derive("stage1.py:mad", {"stage": "sparse", "train.batch_size": 32})
    base = configs.load("configs/stage1.py:mad")
    assert configs.differences(base, config) == {"stage": ("dense", "sparse"), "train.batch_size": (128, 32)}
    with pytest.raises(ConfigError, match=r"unknown config key 'train.batchsize'; did you mean train.batch_size"):
        configs.derive("stage1.py", {"train.batchsize": 32})


@pytest.mark.parametrize(
    "spec, recipe",
    [
        ("stage1_sparse", (32, 1, 1e-3)),
        ("stage2", (8, 2, 1e-4)),
    ],
)
def test_later_stages_carry_the_papers_recipe(spec, recipe):
    config = configs.load(f"configs/{spec}.py:mad")
    assert (config.train.batch_size, config.train.epochs, config.train.learning_rate) == recipe
    assert config.hierarchy.levels == (100, 33) and config.hierarchy.upper_stride == 0.2
    assert (config.sparse.mlp_width, config.sparse.num_heads, config.sparse.num_layers) == (2048, 8, 2)
    assert config.prompt.query_tokens == 75


@pytest.mark.parametrize(
    "spec, override, message",
    [
        ("stage2", "data.group_copies=(2,16)", "data.group_copies is .*; expected less than .*, 16"),
        ("stage2", "hierarchy.levels=16,48", "hierarchy.levels is .*; expected sizes of groups .* coarse first"),
        ("stage1", "hierarchy.levels=16,", "search.keep is .*hierarchy.levels .*; expected a share for each level"),
        ("stage1", "data.video_s=1e308", "data.video_s is 1e.308; expected greater than 0, at most 1e.07"),
        ("stage1", "hierarchy.window_s=1e300", "hierarchy.window_s is 1e.300; expected greater than 0, at most 1e.07"),
        ("stage1", "search.depth=4", "search.depth is 4; hierarchy.levels .* allow at most 3"),
        ("stage1", "search.policy=best", "search.policy is 'best'; expected one of bottom_up"),
        ("stage1", "data.negatives=(('mined', 1.0),)", "data.mined ''; expected predictions of an earlier run"),
        ("stage1", "data.mined=x.jsonl", "data.negatives is .*, data.mined 'x.jsonl'; expected .* if, and only if"),
        ("stage1", "train.accumulate=3", "train.accumulate is 3; expected a divisor of train.batch_size"),
        (
            "stage2",
            ["train.accumulate=4", "train.group_batch_size=6"],
            r"train.accumulate is 4; expected a divisor of train.group_batch_size \(6\)",
        ),
        ("stage1", "train.eval_every=15", r"train.eval_every is 15; expected a multiple of train.log_every \(10\)"),
        ("stage1", "train.keep_best=true", "train.keep_best is true and train.eval_every 0; expected a multiple"),
    ],
)
def test_fields_that_contradict_each_other(spec, override, message):
    with pytest.raises(ConfigError, match=message):
        configs.load(f"configs/{spec}.py", [override] if isinstance(override, str) else override)


def test_the_best_step_must_be_one_that_is_saved():
    sound = {"train.keep_best": True, "train.eval_every": 200, "train.checkpoint_every": 100}
    configs.load(overrides=sound)
    for changes in ({"train.eval_every": 50}, {"train.eval_every": 150}, {"train.eval_every": 0}):
        with pytest.raises(ConfigError, match=r"expected a multiple of train.checkpoint_every \(100\)"):
            configs.load(overrides=sound | changes)


def test_a_beam_is_not_sampled():
    with pytest.raises(ConfigError, match=r"search.beam is 2 and search.sampling 0.5; expected one of them"):
        configs.load(overrides={"search.beam": 2, "search.sampling": 0.5})


def test_whole_numbers_of_a_tuple_need_no_brackets():
    assert configs.load(overrides=["hierarchy.levels=32,8"]).hierarchy.levels == (32, 8)


def test_a_run_older_than_a_field_has_the_value_that_changes_nothing(tmp_path):
    config = configs.load("configs/stage1.py", ADDED)
    old = config.to_dict()
    for key in ADDED:
        section, _, field = key.rpartition(".")
        del (old[section] if section else old)[field]
    for before, now in RENAMED.items():
        (section, field), (_, new) = before.split("."), now.split(".")
        old[section][field] = old[section].pop(new)
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert configs.load_json(tmp_path / "config.json").to_dict() == config.to_dict()
    assert config_changes(old, config.to_dict()) == ({}, {})
    assert base_of({"base": {"llm": 1, "clip": 2}}) == {"llm": 1, "encoder": 2}
    with pytest.raises(ConfigError, match=r"'base.clip'; it is called base.encoder now"):
        configs.load(overrides={"base.clip": "x"})
    del old["train"]["steps"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(ConfigError, match=r"train\.steps is missing"):
        configs.load_json(tmp_path / "config.json")
