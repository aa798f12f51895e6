"""The layouts of variant U against measured cases of the published arithmetic."""

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from revision_jax.interop.unified import read_visual
from revision_jax.models.adapter import DenseAdapter
from revision_jax.models.layers import LayerNorm
from revision_jax.models.visual import Visual

GOLDEN = Path(__file__).parent / "data" / "unified_golden.safetensors"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


def weights_of(golden, layout):
    """Published name -> float32."""
    prefix = f"{layout}.weights."
    return {key.removeprefix(prefix): x.astype(np.float32) for key, x in golden.items() if key.startswith(prefix)}


def test_at_the_llms_width_tokens_equal_the_measured_case(golden):
    """The file keeps this encoder in half precision, so that it is small: 3e-3 of values up to 4.6 is what that costs.

    With the float32 weights of the measured cases all three layouts differ from them by at most 1.6e-6.
    """
    visual = read_visual(weights_of(golden, "llm_width"), "golden", num_heads=8)
    windows, seen = golden["inputs.windows"], (golden["inputs.query"], golden["inputs.query_mask"])
    for name, one in (("group_before_norm", Visual(visual.adapter, visual.sparse)), ("group", visual)):
        tokens = jax.vmap(jax.jit(one.window_tokens), (1, None, None), 1)(windows, *seen)
        np.testing.assert_allclose(tokens, golden[f"llm_width.{name}"], atol=4e-3)


@pytest.mark.parametrize("layout", ["llm_width", "visual_width"])
def test_frames_equal_the_measured_cases(golden, layout):
    weights = weights_of(golden, layout)
    only = {key: x for key, x in weights.items() if not key.startswith("cross_attn.")}
    visual = read_visual(only, "golden")
    frames = golden["inputs.frames"]
    for name, one in (("dense_before_norm", Visual(visual.adapter)), ("dense", visual)):
        wanted = golden[f"{layout}.{name}"]
        np.testing.assert_allclose(one.frame_tokens(frames)[:, : wanted.shape[1]], wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["group", "dense"])
@pytest.mark.parametrize("layout", ["llm_width", "visual_width", "clip_adapter"])
def test_the_norm_is_the_last_thing_before_the_llm(golden, layout, kind):
    norms = {key: x for key, x in weights_of(golden, layout).items() if key.startswith("alternate")}
    norm = read_visual(norms, "golden").norm
    assert isinstance(norm, LayerNorm)
    np.testing.assert_allclose(norm(golden[f"{layout}.{kind}_before_norm"]), golden[f"{layout}.{kind}"], atol=1e-5)


def test_frames_that_see_the_query_ask_for_it(golden):
    weights = {key.replace("cross_attn.", "mm_projector."): x for key, x in weights_of(golden, "llm_width").items()}
    weights = {key: x for key, x in weights.items() if key not in ("mm_projector.weight", "mm_projector.bias")}
    visual = read_visual(weights, "golden", num_heads=8)
    assert visual.frames_see_query and not Visual(DenseAdapter).frames_see_query
    with pytest.raises(ValueError, match="clip_adapter.; give query and query_mask"):
        visual.frame_tokens(golden["inputs.frames"])
