"""Two habits of the released program that change where it looks and what it ranks first (REFERENCE section 4).

Only for its protocol: they let published numbers be compared. Letters: N stored frames, D feature width, F frames a
window, W windows, k moments, n frames of a span.
"""

import numpy as np

from revision_jax.hierarchy import Hierarchy

BEST_FRAMES = 3


def released_windows(window_s: float, fps: float, num_frames: int) -> np.ndarray:
    """Dense windows as the released program lays them: `[W, 2]` seconds, in whole stored frames.

    `ceil(N / (clip // 2)) - 1` of them, window i from `i * clip // 2` to `min(start + clip, N - 1)`; at least one.
    """
    clip = round(window_s * fps)
    count = max(-(-num_frames // max(clip // 2, 1)) - 1, 1)
    starts = np.arange(count) * clip // 2
    ends = np.maximum(np.minimum(starts + clip, num_frames - 1), starts + 1)
    return np.stack([starts, ends], axis=1) / fps


def cosine_order(features: np.ndarray, fps: float, moments: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The order `[k]` of moments by `cos / max(cos) - H / max(H)`.

    `cos`: the span's frames, each channel normalised over the span's time, against the query as CLIP gives it; the sum
    of the 3 most similar frames. `H`: the mean entropy behind the confidence.

    Args:
      features: `[N, D]`; moments: `[k, 3]` (start_s, end_s, 1 / H); query: `[D]`, holistic.
    """
    if not len(moments):
        return np.zeros(0, np.int64)
    cosines = []
    for start, end, _ in moments:
        first = min(int(start * fps), len(features) - 1)
        span = features[first : max(int(np.ceil(end * fps)), first + 1)].astype(np.float32)
        span = span / np.maximum(np.linalg.norm(span, axis=0, keepdims=True), 1e-12)
        cosines.append(np.sort(span @ query.astype(np.float32))[-BEST_FRAMES:].sum())
    share = lambda x: x / np.maximum(np.abs(x).max(), 1e-12)
    return np.argsort(-(share(np.array(cosines)) - share(1.0 / moments[:, 2])), kind="stable")


def dense_windows(hierarchy: Hierarchy, rule: str, duration_s: float, fps: float, num_frames: int) -> np.ndarray:
    """Dense windows `[W, 2]` in seconds by the rule of `search.windows`: `whole` or `released`."""
    if rule == "released":
        return released_windows(hierarchy.window_s, fps, num_frames)
    return hierarchy.windows(duration_s)
