"""Variant U in its published layouts, from end to end: trained, searched at every level, exported, imported again."""

import numpy as np
import pytest

from revision_jax import config as configs
from revision_jax.interop.files import read_tensors
from revision_jax.runs import converting
from revision_jax.runs.exporting import export
from revision_jax.runs.run import Run, load_run
from revision_jax.runs.training import train
from revision_jax.training import loop
from revision_jax.training.state import take_apart

LAYOUTS = ("visual_width", "llm_width", "clip_adapter")
# Layout -> parts of the model; those that train beside the LoRA.
PARTS = {
    "visual_width": ({"llm", "adapter", "sparse", "norm"}, {"norm"}),
    "llm_width": ({"llm", "adapter", "sparse", "norm"}, {"norm", "sparse"}),
    "clip_adapter": ({"llm", "sparse", "norm"}, {"norm"}),
}
LEVELS = {"hierarchy__levels": (5,), "search__keep": (0.5,), "search__depth": 2}


def spec(layout):
    return f"configs/stage2.py:unified_{layout}"


@pytest.fixture(scope="module", params=LAYOUTS)
def trained(request, chain):
    """(layout, run, its batches) after a batch of two windows and one of one group."""
    changes = {"train__steps": 2, "train__log_every": 1, "train__learning_rate": 1e-2, "train__group_batch_size": 1}
    run = Run(chain.config(spec(request.param), **LEVELS, **changes), chain.folder / f"unified_{request.param}")
    batches, put = [], loop.put_batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "put_batch", lambda batch, mesh: batches.append(batch) or put(batch, mesh))
        train(run, chain.directories)
    return request.param, Run.load(run.workdir), batches


def moved(before, after):
    """Names of the parts of a grounder in which some parameter differs."""
    return {path.split("/")[0] for path in after if not np.array_equal(before[path], after[path])}


def test_it_trains_its_parts_and_searches_every_level(trained, chain):
    layout, run, _ = trained
    parts, trains = PARTS[layout]
    before, after = (take_apart(run.grounder(state))[1] for state in ("fresh", "trained"))
    assert {path.split("/")[0] for path in after} == parts
    assert moved(before, after) == trains | {"llm"}
    video = run.encode(next((chain.directories["test"] / "videos").iterdir()))
    texts = ["a red circle moves to the left", "a blue star spins", "a green square"]
    searched = run.searcher().search(video, run.sentences(texts, 2, "top_down"), depth=2, policy="top_down")
    assert len(searched.cost.levels) == 1 and searched.cost.flops > 0
    # Where frames see the query, nothing of a window is shared.
    assert (searched.cost.windows == searched.cost.pairs) == (layout == "clip_adapter")


def test_windows_and_groups_have_batches_of_their_own_size(trained):
    windows, groups = trained[2]
    assert windows["video"].ndim == 3 and {len(array) for array in windows.values()} == {2}
    assert groups["video"].ndim == 4 and {len(array) for array in groups.values()} == {1}


@pytest.mark.parity
def test_it_goes_out_and_comes_in_again_exactly(trained, tmp_path, caplog):
    layout, run, _ = trained
    export(run.workdir, tmp_path / "out", "revisionllm", check=False)
    tensors = read_tensors(tmp_path / "out/non_lora_trainables.bin")
    modules = {key.removeprefix("base_model.model.model.").split(".")[0] for key in tensors}
    assert modules == {"alternate_layer_norm"} | ({"cross_attn"} if layout == "llm_width" else set())
    fields, unchecked = dict(configs.flatten(run.config)), {"options": {"check": False}}
    converting.convert("stage", tmp_path / "out", tmp_path / "run", spec=spec(layout), fields=fields, **unchecked)
    again, here = (take_apart(one.grounder("trained"))[1] for one in (load_run(tmp_path / "run"), run))
    assert not moved(here, again)
    # As the shipped evaluation: without the norm.
    fields |= {"model.visual_norm": False, "trainable": tuple(r for r in fields["trainable"] if r[0] != "norm/.*")}
    converting.convert("stage", tmp_path / "out", tmp_path / "shipped", spec=spec(layout), fields=fields, **unchecked)
    assert "alternate_layer_norm is left out" in caplog.text
    assert load_run(tmp_path / "shipped").grounder("abstract").norm is None


def test_it_goes_out_merged_and_is_checked_at_both_levels(trained, tmp_path):
    manifest = export(trained[1].workdir, tmp_path / "merged", "huggingface")
    assert list(manifest["check"]) == ["dense", "sparse"]
    assert all(check["passed"] and check["tokens_equal"] == check["tokens"] > 8 for check in manifest["check"].values())
    assert (tmp_path / "merged/visual_norm.safetensors").is_file()


@pytest.mark.parity
def test_what_starts_from_it_must_have_its_layout_and_takes_over_what_it_trained(trained, chain, tmp_path):
    layout, run, _ = trained
    export(run.workdir, tmp_path / "out", "revisionllm", check=False)
    for init, told in (
        (run.workdir, "visual_norm: True there, False here"),
        (tmp_path / "out", "alternate_layer_norm"),
    ):
        with pytest.raises(configs.ConfigError, match=rf"{init}.*(?s:.*){told}"):
            Run(chain.config("configs/stage1.py", init__dense=str(init))).grounder("fresh")
        further = chain.config(spec(layout), **LEVELS, init__dense=str(init))
        arrays = [take_apart(one)[1] for one in (Run(further).grounder("fresh"), run.grounder("trained"))]
        assert not moved(*arrays)
