"""Geometry of windows: coverage, truncation, and frames <-> seconds."""

import numpy as np
import pytest

from revision_jax.hierarchy import Hierarchy

MAD = Hierarchy(window_s=125.0, num_frames=250)


@pytest.mark.parametrize("duration_s", [125.0, 125.1, 187.5, 3600.0, 6601.3])
def test_windows_cover_the_video_and_the_last_is_whole(duration_s):
    windows = MAD.windows(duration_s)
    assert windows[0, 0] == 0 and windows[-1, 1] == pytest.approx(duration_s)
    assert (windows[1:, 0] <= windows[:-1, 1]).all()
    assert (np.diff(windows[:, 0]) <= 62.5 + 1e-9).all() and (np.diff(windows[:, 0]) > 0).all()
    np.testing.assert_allclose(windows[:, 1] - windows[:, 0], 125.0)


def test_a_short_video_has_one_window_whose_frames_stay_inside():
    np.testing.assert_array_equal(MAD.windows(10.0), [[0.0, 125.0]])
    indices = MAD.frame_indices(0.0, 125.0, fps=5.0, total_frames=50)
    assert indices.shape == (250,) and indices.min() == 0 and indices.max() == 49
    assert (np.diff(indices) >= 0).all()


def test_frame_indices_are_the_truncated_linspace_of_the_paper():
    indices = MAD.frame_indices(30.0, 155.0, fps=5.0, total_frames=10_000)
    np.testing.assert_array_equal(indices, np.linspace(150, 775, 250).astype(int))
    many = MAD.frame_indices(np.array([0.0, 30.0]), np.array([125.0, 155.0]), 5.0, 10_000)
    np.testing.assert_array_equal(many[1], indices)


def test_whole_frames_are_not_lost_to_rounding():
    hierarchy = Hierarchy(window_s=0.3, num_frames=4)
    assert hierarchy.frame_indices(0.0, 0.3, fps=10.0, total_frames=9)[-1] == 3  # 0.3 * 10 = 2.9999999999999996


def test_frames_and_seconds_are_inverse_within_half_a_frame():
    rng = np.random.default_rng(0)
    for _ in range(200):
        start = float(rng.uniform(0, 5000))
        s, e = sorted(rng.uniform(start, start + 124, 2))
        if e - s < 1.0:
            continue
        frames = MAD.to_frames(s, e, start)
        assert 0 <= frames[0] <= frames[1] <= 249
        np.testing.assert_allclose(MAD.to_seconds(*frames, start), (s, e), atol=0.25 + 1e-9)


def test_an_end_at_the_windows_edge_is_the_last_frame_and_a_point_is_widened():
    assert MAD.to_frames(100.0, 125.0, 0.0) == (200, 249)
    np.testing.assert_allclose(MAD.to_seconds(np.array([7]), np.array([7]), 10.0), [[13.0], [14.0]])


@pytest.mark.parametrize("bad", [{"window_s": 0.0}, {"num_frames": 1}, {"stride": 0.0}, {"stride": 1.5}])
def test_bad_sizes_name_the_field(bad):
    field = next(iter(bad))
    with pytest.raises(ValueError, match=f"hierarchy.{field}"):
        Hierarchy(**({"window_s": 64.0, "num_frames": 64} | bad))


def test_a_video_without_length_is_refused():
    with pytest.raises(ValueError, match="no windows"):
        MAD.windows(0.0)


@pytest.mark.parametrize("stride, upper_stride", [(0.5, 0.2), (0.5, 0.5), (1.0, 0.5), (0.5, 1.0), (0.3, 0.25), (1, 1)])
@pytest.mark.parametrize("duration_s", [10.0, 125.0, 130.0, 187.5, 1000.0, 3601.3])
def test_parents_overlap_most_and_leave_no_window_out(stride, upper_stride, duration_s):
    hierarchy = Hierarchy(125.0, 250, stride, upper_stride)
    dense, upper = hierarchy.windows(duration_s), hierarchy.upper_windows(duration_s)
    parents = hierarchy.parents(duration_s)
    assert len(parents) == len(dense) and set(parents.ravel()) == set(range(len(upper)))
    assert parents.shape[1] == hierarchy.parents(86400.0).shape[1]
    for window, own in zip(dense, parents):
        overlap = np.minimum(window[1], upper[:, 1]) - np.maximum(window[0], upper[:, 0])
        assert set(np.flatnonzero(overlap > 62.5 + 1e-3)) <= set(own)
        assert overlap[own].min() >= 62.5 - 1e-3


def test_equal_strides_give_every_dense_window_one_parent():
    hierarchy = Hierarchy(64.0, 64, 0.5, 0.5)
    parents = hierarchy.parents(3200.0)
    np.testing.assert_array_equal(parents, np.repeat(np.arange(len(parents))[:, None], parents.shape[1], axis=1))


def test_a_depth_goes_through_the_finest_levels():
    assert [MAD.levels_of(depth) for depth in (1, 2, 3)] == [(), (33,), (100, 33)] and MAD.max_depth == 3
    with pytest.raises(ValueError, match=r"depth 4 does not exist; hierarchy.levels \(100, 33\) allow 1 to 3"):
        MAD.levels_of(4)
    with pytest.raises(ValueError, match=r"hierarchy.levels is \(16, 48\)"):
        Hierarchy(64.0, 64, levels=(16, 48))


def test_longer_upper_windows_are_fewer_and_hold_their_children():
    short, long = (Hierarchy(32.0, 16, 0.5, 0.25, (12, 4), upper_scale=scale) for scale in (1.0, 4.0))
    for duration in (50.0, 640.0, 3600.0):
        windows, upper = long.windows(duration), long.upper_windows(duration)
        assert len(upper) <= max(len(short.upper_windows(duration)) / 3.5, 1)
        assert upper[0, 0] == 0 and (upper[:, 1] - upper[:, 0] == 128).all() and upper[-1, 1] >= duration
        parents = long.parents(duration)
        shared = np.minimum(windows[:, None, 1], upper[:, 1]) - np.maximum(windows[:, None, 0], upper[:, 0])
        for row, named in zip(shared, parents):
            assert set(np.flatnonzero(row > 16)) <= set(named)
        assert set(parents.ravel()) == set(range(len(upper)))
    with pytest.raises(ValueError, match=r"upper_scale is 0\.5; expected at least 1"):
        Hierarchy(32.0, 16, upper_scale=0.5)
