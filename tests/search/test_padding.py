import numpy as np
import pytest

from revision_jax.search.packing.padding import (
    asked_shape,
    common_start,
    pack_questions,
    pack_windows,
    pad_frames,
    query_chunks,
)


@pytest.mark.parametrize("windows, block, shards, shape", [
    (1, 128, 1, (1, 1)), (1, 128, 4, (1, 4)), (112, 128, 1, (1, 128)), (130, 128, 1, (2, 128)),
    (1126, 128, 1, (16, 128)), (40, 16, 8, (4, 16)), (5, 8, 1, (1, 8)), (17, 128, 1, (1, 32)), (33, 48, 1, (1, 48)),
])  # fmt: skip
def test_windows_keep_their_order_in_blocks(windows, block, shards, shape):
    frames = np.arange(windows * 3).reshape(windows, 3)
    table = pack_windows(frames, block, shards)
    assert table.valid.shape == table.number.shape == shape
    assert shape[1] <= block and shape[1] % shards == 0
    np.testing.assert_array_equal(table.frames.reshape(-1, 3)[table.valid.reshape(-1)], frames)
    np.testing.assert_array_equal(table.number.reshape(-1), np.arange(shape[0] * shape[1]))
    assert table.valid.reshape(-1)[:windows].all() and table.valid.sum() == windows


def test_questions_share_their_head():
    asked = [np.array(ids) for ids in ([7, 8, 1, 9], [7, 8, 2, 2, 2, 9])]
    head = common_start(asked)
    assert head.tolist() == [7, 8]
    packed = pack_questions(asked, head, 0, 1)
    assert packed.tokens.shape == (64, 8) and packed.lengths[:3].tolist() == [2, 4, 1] and int(packed.count) == 2
    assert packed.tokens[1, :5].tolist() == [2, 2, 2, 9, 0]
    # A question that begins otherwise, or that is nothing but the head, is kept whole.
    for odd in ([1, 8, 3], [7, 8]):
        packed = pack_questions([*asked, np.array(odd)], head, 0, 3)
        assert packed.head.tolist() == [] and packed.tokens[2, : len(odd)].tolist() == odd
        assert len(packed.tokens) == 192
    with pytest.raises(ValueError, match=r"4 tokens behind 2 shared ones; search.question_tokens is 3"):
        pack_questions(asked, head, 3, 1)


def test_frames_are_padded_to_few_sizes():
    sizes = {len(pad_frames(np.zeros((n, 2), np.float16))) for n in range(1, 40000, 7)}
    assert len(sizes) == 11
    for n in (1, 64, 65, 3600, 36000):
        padded = pad_frames(np.ones((n, 2), np.float16))
        assert n <= len(padded) <= max(2 * n, 64) and padded.astype(int).sum() == 2 * n
        assert padded.dtype == np.float16


@pytest.mark.parametrize("window_block, query_batch, shards, count, shape, all_asked", [
    (128, 1, 1, 80, (16, 8), (16, 8)), (128, 1, 1, 1, (16, 1), (128, 1)), (128, 1, 1, 3, (16, 4), (32, 4)),
    (64, 16, 1, 250, (16, 64), (16, 64)), (64, 16, 4, 250, (64, 16), (64, 16)), (8, 2, 1, 9, (8, 2), (8, 2)),
    (64, 16, 1, 1, (16, 1), (64, 16)), (64, 64, 1, 256, (16, 128), (32, 128)), (18, 2, 3, 5, (18, 2), (18, 2)),
])  # fmt: skip
def test_pairs_come_in_small_blocks_of_many_queries(window_block, query_batch, shards, count, shape, all_asked):
    for every, expected in ((False, shape), (True, all_asked)):
        found = asked_shape(window_block, query_batch, shards, count, all_asked=every)
        assert found == expected and found[0] * found[1] <= window_block * query_batch


def test_many_queries_are_asked_in_equal_parts():
    assert query_chunks(1) == [slice(0, 1)] and query_chunks(256) == [slice(0, 256)]
    for count in range(257, 3000, 37):
        chunks = query_chunks(count)
        sizes = [chunk.stop - chunk.start for chunk in chunks]
        assert [i for chunk in chunks for i in range(count)[chunk]] == list(range(count))
        assert min(sizes) >= 128 and max(sizes) <= min(256, min(sizes) + 1)
