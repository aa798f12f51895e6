import jax.numpy as jnp
import numpy as np
import pytest

from revision_jax.metrics.grounding import iou
from revision_jax.search.ranking import rank_moments, temporal_iou


def _slow_nms(spans, confidence, top_k, nms_iou):
    order = np.argsort(-confidence, kind="stable")
    kept = []
    for i in order:
        if confidence[i] > -np.inf and all(iou(spans[i : i + 1], spans[j : j + 1])[0, 0] <= nms_iou for j in kept):
            kept.append(i)
    return kept[:top_k]


@pytest.mark.parametrize("nms_iou", [0.0, 0.3, 1.0])
def test_equals_slow_nms(nms_iou):
    rng = np.random.default_rng(0)
    start = rng.integers(0, 50, (5, 40)).astype(np.float32)
    end = start + rng.integers(1, 12, (5, 40))
    confidence = rng.random((5, 40)).astype(np.float32)
    confidence[:, ::7] = -np.inf
    moments = np.asarray(rank_moments(start, end, confidence, top_k=12, nms_iou=nms_iou))
    for q in range(5):
        kept = _slow_nms(np.stack([start[q], end[q]], axis=1), confidence[q], 12, nms_iou)
        found = moments[q][np.isfinite(moments[q, :, 2])]
        np.testing.assert_array_equal(found, np.stack([start[q], end[q], confidence[q]], axis=1)[kept])


def test_spans_without_length_and_nan_never_win():
    start, end, confidence = jnp.array([[[1.0, 5.0, 7.0]], [[1.0, 6.0, 9.0]], [[9.0, 1.0, jnp.nan]]])
    moments = rank_moments(start, end, confidence, top_k=3, nms_iou=0.5)
    np.testing.assert_array_equal(np.isfinite(moments[0, :, 2]), [True, False, False])
    np.testing.assert_array_equal(moments[0, 0], [5.0, 6.0, 1.0])


def test_iou_is_the_one_that_scores():
    a, b = np.random.default_rng(1).random((2, 30, 2)) * 10
    a, b = np.sort(a), np.sort(b)
    np.testing.assert_allclose(temporal_iou(a[:, 0], a[:, 1], b[:, 0], b[:, 1]), np.diag(iou(a, b)), atol=1e-6)
