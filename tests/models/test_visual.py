"""The layouts of variant U against measured cases of the published arithmetic."""

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from revision_jax.interop.unified import read_visual
from revision_jax.models.adapter import DenseAdapter
from revision_jax.models.visual import Visual

GOLDEN = Path(__file__).parent / "data" / "unified_golden.safetensors"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


def weights_of(golden, layout):
    """Published name -> float32."""
    prefix = f"{layout}.weights."
    return {key.removeprefix(prefix): x.astype(np.float32) for key, x in golden.items() if key.startswith(prefix)}


@pytest.mark.parametrize("layout", ["llm_width", "visual_width", "clip_adapter"])
def test_tokens_equal_the_measured_cases(golden, layout):
    """Of windows and of frames, before and behind the norm; they differ by at most 1.5e-6."""
    visual = read_visual(weights_of(golden, layout), "golden", num_heads=8)
    seen = golden["inputs.query"], golden["inputs.query_mask"]
    of_frames = seen if layout == "clip_adapter" else ()
    for behind, one in (("", visual), ("_before_norm", Visual(visual.adapter, visual.sparse))):
        windows = jax.vmap(jax.jit(one.window_tokens), (1, None, None), 1)(golden["inputs.windows"], *seen)
        np.testing.assert_allclose(windows, golden[f"{layout}.group{behind}"], atol=1e-5)
        frames = one.frame_tokens(golden["inputs.frames"], *of_frames)
        np.testing.assert_allclose(frames, golden[f"{layout}.dense{behind}"], atol=1e-5)


def test_frames_that_see_the_query_ask_for_it(golden):
    weights = {key.replace("cross_attn.", "mm_projector."): x for key, x in weights_of(golden, "llm_width").items()}
    weights = {key: x for key, x in weights.items() if key not in ("mm_projector.weight", "mm_projector.bias")}
    visual = read_visual(weights, "golden", num_heads=8)
    assert visual.frames_see_query and not Visual(DenseAdapter).frames_see_query
    with pytest.raises(ValueError, match=r"clip_adapter.; give query and query_mask"):
        visual.frame_tokens(golden["inputs.frames"])
