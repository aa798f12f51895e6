"""The kinds of batches: what they say of their shapes, which compiling ahead relies on, is what they give."""

import jax
import pytest

from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs.base import make_prompts
from revision_jax.runs.batches import CAPTIONS, GROUPS, PRESENCE, WINDOWS, Source, streams_of

KINDS = {
    "captions": ("configs/align.py", CAPTIONS, 1),
    "windows": ("configs/stage1.py", WINDOWS, 8),
    "one question": ("configs/stage1.py", WINDOWS, 8),
    "presence": ("configs/stage1_sparse.py", PRESENCE, 1),
    "groups": ("configs/stage2.py", GROUPS, 5),
}


def source_of(chain, name, split="train"):
    changes = {"data__questions_per_window": 1} if name == "one question" else {}
    config = chain.config(KINDS[name][0], **changes)
    mesh = make_mesh(devices=jax.devices()[:1])
    return Source(config, make_prompts(config), mesh, chain.directories[split], 16, split)


@pytest.mark.parametrize("name", KINDS)
def test_what_a_kind_says_of_its_batches_is_what_it_gives(chain, name):
    source, (_, kind, tokens) = source_of(chain, name), KINDS[name]
    assert kind.video_tokens(source.config) == tokens
    streams, shapes = kind.streams(source, 0, kind.count(source.config)), kind.shapes(source.config, source.mesh, 16)
    assert len(streams) == len(shapes) == kind.count(source.config)
    for stream, told in zip(streams, shapes.values()):
        batch = {key: array for key, array in stream.batches[0].items() if key != "record_id"}
        assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {
            key: (x.shape, x.dtype) for key, x in told.items()
        }


def test_streams_of_several_kinds_draw_and_number_their_rows_apart(chain):
    source = source_of(chain, "groups")
    windows, groups = streams_of([WINDOWS, GROUPS], source)
    batches = [stream.batches[0] for stream in (*windows, *groups)]
    assert [batch["record_id"].tolist()[0] % 3 for batch in batches] == [0, 1, 2]
    alone = GROUPS.streams(source, 0, 2)
    assert (alone[0].batches[0]["video"] != batches[1]["video"]).any()


@pytest.mark.parametrize("name", KINDS)
def test_held_out_batches_are_one_epoch_of_the_split_itself(chain, name):
    source, kind = source_of(chain, name, "val"), KINDS[name][1]
    for stream in kind.streams(source, 0, kind.count(source.config)):
        assert len(stream.batches) == stream.epoch_batches > 0
    if name != "captions":
        assert [own.store.path for own in source.data] == [chain.directories["val"]]
        assert {path.parent for path in source.files([kind])} == {chain.directories["val"]}
