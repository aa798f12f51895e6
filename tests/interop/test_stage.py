"""Stage directories as published: trained and frozen adapters, dense, sparse and variant U, exact both ways."""

import numpy as np
import pytest
import torch
from tiny_torch import lora_of, sparse_tensors, tiny_llama, unified_tensors

from revision_jax.interop.files import read_tensors
from revision_jax.interop.llama import read_llama_config
from revision_jax.interop.stage import NON_LORA, PROJECTOR, read_stage, write_stage
from revision_jax.interop.unified import visual_arrays

pytestmark = pytest.mark.parity
TRAINED = "base_model.model.model."
WIDTH, HIDDEN = 16, 32


def dense():
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    return {"mm_projector.weight": draw(HIDDEN, WIDTH), "mm_projector.bias": draw(HIDDEN)}


def sparse():
    return {f"mm_projector.{key}": value for key, value in sparse_tensors(WIDTH, 24, HIDDEN).items()}


def unified():
    return unified_tensors(WIDTH, 24, HIDDEN)


def norm():
    return {key: value for key, value in unified().items() if key.startswith("alternate_layer_norm")}


def crossed():
    return {f"cross_attn.{key.removeprefix('mm_projector.')}": value for key, value in sparse().items()}


@pytest.fixture(scope="module")
def peft_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    tiny_llama().save_pretrained(folder / "llm")
    lora_of(tiny_llama()).save_pretrained(folder / "lora")
    return folder


@pytest.fixture
def publish(peft_files, tmp_path):
    """`publish(trained, frozen)` -> a directory with the published layout."""

    def make(trained, frozen=None):
        folder = tmp_path / "stage"
        folder.mkdir()
        for path in (peft_files / "lora").glob("adapter_*"):
            (folder / path.name).write_bytes(path.read_bytes())
        torch.save({f"{TRAINED}{key}": value for key, value in trained.items()}, folder / NON_LORA)
        if frozen is not None:
            torch.save({f"model.{key}": value for key, value in frozen.items()}, folder / PROJECTOR)
        return folder

    make.config = read_llama_config(peft_files / "llm")
    return make


LAYOUTS = {
    "dense, projector frozen": ({}, dense),
    "dense, projector trained": (dense, None),
    "sparse, adapter trained": (sparse, None),
    "long, adapter frozen": ({}, sparse),
    "variant U, llm_width": (unified, dense),
    "variant U, llm_width, projector trained": (lambda: unified() | dense(), None),
    "variant U, visual_width": (lambda: crossed() | norm(), dense),
    "variant U, clip_adapter": (lambda: sparse() | norm(), None),
    "variant U, its norm alone": (lambda: norm(), dense),
    "nothing beside the LoRA": ({}, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stage_directory_to_ours_and_back_is_exact(layout, publish, tmp_path):
    trained, frozen = (make() if callable(make) else make for make in LAYOUTS[layout])
    theirs = publish(trained, frozen)
    stage = read_stage(theirs, publish.config, num_heads=4)
    write_stage(stage, tmp_path / "ours", base="llm")
    expected = ["adapter_model.safetensors", NON_LORA] + ([PROJECTOR] if frozen else [])
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == sorted([*expected, "adapter_config.json"])
    for name in expected:
        before, after = read_tensors(theirs / name), read_tensors(tmp_path / "ours" / name)
        assert before.keys() == after.keys()
        for key in before:
            np.testing.assert_array_equal(after[key], before[key], strict=True)


def test_arrays_have_the_grounders_paths(publish):
    stage = read_stage(publish(sparse(), dense()), publish.config, num_heads=4)
    arrays = visual_arrays(stage.visual)
    assert arrays["sparse/t2v_encoder/in_proj/kernel"].shape == (2, WIDTH, 3 * WIDTH)
    np.testing.assert_array_equal(arrays["adapter/kernel"], dense()["mm_projector.weight"].numpy().T)


def test_tensors_of_no_layout_are_named_with_their_file(publish):
    folder = publish({"vision_tower.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=rf"{NON_LORA}: \['vision_tower.weight'\]"):
        read_stage(folder, publish.config)
    twice = {"model.mm_projector.weight": torch.ones(2, 2), "mm_projector.weight": torch.ones(2, 2)}
    torch.save(twice, folder / NON_LORA)
    with pytest.raises(ValueError, match="ambiguous"):
        read_stage(folder, publish.config)
    lacking = sparse()
    del lacking["mm_projector.encoder.layers.1.norm2.bias"]
    torch.save({f"{TRAINED}{key}": value for key, value in lacking.items()}, folder / NON_LORA)
    with pytest.raises(ValueError, match=rf"(?s){NON_LORA} and the model.*unfilled.*encoder\.layers\.1\.norm2\.bias"):
        read_stage(folder, publish.config)
    wide = {"mm_projector.weight": torch.ones(HIDDEN + 1, WIDTH), "mm_projector.bias": torch.ones(HIDDEN + 1)}
    torch.save(wide, folder / NON_LORA)
    with pytest.raises(ValueError, match=rf"{NON_LORA}: its tensors give width 33; the LLM has 32"):
        read_stage(folder, publish.config)
