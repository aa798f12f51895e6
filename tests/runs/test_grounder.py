"""From a config to a grounder: files found, hashed, joined; a trained one restored."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_base import config_of

from revision_jax import config as configs
from revision_jax.checkpoint import CheckpointError, Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.config import ConfigError
from revision_jax.interop.adapter import save_projector
from revision_jax.models.adapter import DenseAdapter
from revision_jax.parallel.mesh import make_mesh
from revision_jax.pretrain.tokenizer import make_tokenizer
from revision_jax.runs import base as pretrained
from revision_jax.runs import grounder as parts
from revision_jax.runs.run import Run
from revision_jax.runs.stage import stage_of
from revision_jax.training.state import split_by_table, take_apart


@pytest.fixture
def mesh():
    return make_mesh(devices=jax.devices()[:1])


def test_loads_the_grounder_under_the_table(base, mesh):
    config = config_of(base)
    grounder = parts.fresh_grounder(config, mesh)
    _, arrays = take_apart(grounder)
    trainable, frozen, _ = split_by_table(arrays, config.trainable)
    assert set(trainable) == {"llm/layers/self_attn/q_proj/lora_a", "llm/layers/self_attn/q_proj/lora_b"}
    assert "adapter/kernel" in frozen and "llm/embed_tokens/embedding" in frozen
    assert grounder.llm.lora.scale == 16.0  # alpha 32 / rank 2


def test_the_seed_draws_the_lora(base, mesh):
    drawn = [
        parts.fresh_grounder(config_of(base, seed=seed), mesh).llm.layers.self_attn.q_proj.lora_a[...]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(drawn[0] != drawn[2])


def test_dtypes_of_frozen_and_trained(base, mesh):
    config = config_of(base, model__dtype="bfloat16", model__param_dtype="bfloat16")
    attention = parts.fresh_grounder(config, mesh).llm.layers.self_attn
    assert attention.q_proj.kernel.dtype == "bfloat16" and attention.q_proj.lora_a.dtype == "float32"


def test_eight_bit_weights_answer_nearly_the_same(base, mesh):
    video = jax.random.normal(jax.random.key(0), (2, 8, 12))
    tokens = np.array([[5, 6, 7], [6, 5, 2]], np.int32)

    def load(param_dtype):
        grounder = parts.fresh_grounder(config_of(base, model__param_dtype=param_dtype), mesh)
        return grounder.llm.layers.self_attn.q_proj, np.asarray(grounder(np.array([1, 3, 4]), video, tokens))

    (q_proj, narrow), (_, wide) = load("int8"), load("float32")
    assert q_proj.kernel.dtype == "int8" and q_proj.kernel_scale.dtype == q_proj.lora_a.dtype == "float32"
    assert 0 < np.abs(wide - narrow).max() < 0.05 * np.abs(wide).max()


def test_missing_parts_are_listed_with_how_to_make_them():
    config = configs.load("configs/stage1.py:mad", ["base.encoder=/nowhere"])
    with pytest.raises(ConfigError) as error:
        parts.check_files(config)
    text = str(error.value)
    assert "base.llm: not given; expected a Hugging Face directory of Vicuna-7B" in text
    assert "base.encoder: no file at /nowhere; expected" in text
    assert "base.projector: not given; expected the dense projector" in text


def test_a_sequence_longer_than_the_llms_positions(base, mesh):
    with pytest.raises(ConfigError, match=r"100 \(hierarchy.num_frames\).*has 128"):
        parts.fresh_grounder(config_of(base, hierarchy__num_frames=100), mesh)


def test_restores_a_trained_grounder(base, mesh, tmp_path):
    base = Path(shutil.copytree(base, tmp_path / "base"))
    config = config_of(base)
    meta = Meta(config.to_dict(), parts.fingerprints(config))
    _, arrays = take_apart(parts.fresh_grounder(config, mesh))
    trainable, _, _ = split_by_table(arrays, config.trainable)
    trained = jax.tree.map(lambda x: x + 1, trainable)
    with Checkpoints(tmp_path / "checkpoints", meta) as checkpoints:
        checkpoints.save(3, trained, {"m": trained}, FakeIterator())
    configs.save_json(config, tmp_path / "config.json")
    run = Run(config, tmp_path, mesh)
    assert run.steps == 3 and run.trained_parameters == sum(array.size for array in trained.values())
    _, restored = take_apart(run.grounder("trained"))
    for path, array in arrays.items():
        np.testing.assert_array_equal(restored[path], trained.get(path, array))
    assert parts.restore_trained(config, tmp_path, trainable)[0] == 3
    (base / "clip/model.safetensors").write_bytes(b"another CLIP")
    with pytest.raises(CheckpointError, match="encoder: trained on"):
        Run(config, tmp_path, mesh, {"fresh": run.grounder("fresh")}).grounder("trained")


def test_the_states_of_a_grounder_have_one_structure_and_share_what_was_not_trained(chain, mesh):
    run = Run(chain.config("configs/stage1.py"), chain.folder / "dense", mesh)
    fresh, trained, shapes = (take_apart(run.grounder(state))[1] for state in ("fresh", "trained", "abstract"))
    trainable, _, _ = split_by_table(fresh, run.config.trainable)
    for path, array in fresh.items():
        assert (shapes[path].shape, shapes[path].dtype) == (array.shape, array.dtype)
        assert isinstance(shapes[path], jax.ShapeDtypeStruct)
        assert (array is trained[path]) == (path not in trainable), path
    assert run.grounder("trained") is run.grounder("trained")  # made once
    given = Run(run.config, run.workdir, mesh).with_trained(run.grounder("fresh"))
    assert given.grounder("trained") is run.grounder("fresh")


class FakeIterator:
    def get_state(self):
        return {}


def test_the_default_stands_on_the_shipped_parts(mesh):
    config = configs.load()
    assert pretrained.missing_base(config) == []
    grounder = parts.fresh_grounder(config, mesh)
    frames = config.hierarchy.num_frames
    assert len(pretrained.make_prompts(config).prefix) >= 1 and stage_of(config).video_tokens(config) == frames
    assert grounder.adapter.kernel.shape[1] == grounder.llm.config.hidden_size


def test_a_padding_token_without_an_embedding_is_refused(base, tmp_path):
    """As tokenizers are published to which a [PAD] was added; its embedding would be NaN."""
    config = config_of(base)
    assert len(pretrained.make_prompts(config).prefix) >= 1
    tokenizer = make_tokenizer()
    embeddings = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(base / "llm/config.json", tmp_path)
    config = config_of(base, base__llm=str(tmp_path))
    with pytest.raises(ConfigError, match=f"padding {embeddings} lies outside the model's {embeddings} embeddings"):
        pretrained.make_prompts(config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"base.projector": "OTHER"}, r"base.encoder: .*features of width 12.* its features have width 20"),
        ({"base.projector": "NARROW"}, r"base.projector: .* gives width 8; base.llm, .* has hidden_size 16"),
    ],
)
def test_parts_of_other_widths_are_refused(base, mesh, tmp_path, changes, message):
    save_projector(DenseAdapter(20, 16, rngs=nnx.Rngs(0)), tmp_path / "OTHER.safetensors")
    save_projector(DenseAdapter(12, 8, rngs=nnx.Rngs(0)), tmp_path / "NARROW.safetensors")
    changed = {key.replace(".", "__"): f"{tmp_path}/{name}.safetensors" for key, name in changes.items()}
    config = config_of(base, **changed)
    for check in (parts.check_weights, lambda config: parts.fresh_grounder(config, mesh)):
        with pytest.raises(ConfigError, match=message):
            check(config)


def test_the_published_sizes_stand_in_where_a_config_names_no_files():
    shapes = lambda spec: take_apart(parts.abstract_grounder(configs.load(spec)))[1]
    long, dense = shapes("configs/stage2.py:mad"), shapes("configs/stage1.py:mad")
    assert long["llm/embed_tokens/embedding"].shape == (32000, 4096) and long["adapter/kernel"].shape == (768, 4096)
    assert any(path.startswith("sparse/") for path in long) and not any(path.startswith("sparse/") for path in dense)


@pytest.mark.parametrize("narrow", [False, True])
def test_shapes_of_a_search_share_all_that_its_stage_does_not_train(chain, narrow):
    config = chain.config("configs/stage2.py", **({"model__param_dtype": "int8"} if narrow else {}))
    run = Run(config, mesh=make_mesh(devices=jax.devices()[:1]))
    models = run.models("abstract")
    trainable, *_ = split_by_table(take_apart(models.upper)[1], config.trainable)
    (_, dense), (_, upper) = take_apart(models.dense), take_apart(models.upper)
    assert {path for path in dense if dense[path] is not upper[path]} == set(trainable) & set(dense) != set()
