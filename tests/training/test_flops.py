"""The FLOPs of a step, against figures worked out apart."""

import numpy as np
import pytest

from revision_jax.training.flops import FlopCount, peak_flops

L, H, MLP, R, V, D = 32, 4096, 11008, 64, 32000, 768
SIZES = {"self_attn/q_proj": (H, H), "self_attn/k_proj": (H, H), "self_attn/v_proj": (H, H), "self_attn/o_proj": (H, H)}
SIZES |= {"mlp/gate_proj": (H, MLP), "mlp/up_proj": (H, MLP), "mlp/down_proj": (MLP, H)}


def vicuna() -> FlopCount:
    shapes = {"llm/embed_tokens/embedding": (V, H), "llm/lm_head/kernel": (H, V), "llm/norm/scale": (H,)}
    for name, (i, o) in SIZES.items():
        shapes[f"llm/layers/{name}/kernel"] = (L, i, o)
        shapes |= {f"llm/layers/{name}/lora_a": (L, i, R), f"llm/layers/{name}/lora_b": (L, R, o)}
    return FlopCount(shapes, {path for path in shapes if "lora" in path}, prefix=36)


def batch(frames: int, text: int, rows: int = 128) -> dict:
    return {"video": np.empty((rows, frames, 1)), "tokens": np.empty((rows, text)), "loss_mask": np.ones((rows, 8))}


def test_stage_1_at_7b_is_what_the_plan_says():
    """27.2 GFLOP a token at 320 tokens, 1.115 PFLOP for 128 windows."""
    flops = vicuna().step(batch(250, 34))
    assert flops / (128 * 320) == pytest.approx(27.2e9, rel=0.01)
    assert flops == pytest.approx(1.115e15, rel=0.01)


def test_only_answer_tokens_reach_the_head():
    count, one = vicuna(), batch(250, 34, rows=1)
    assert count.step(one, answers=9) - count.step(one, answers=8) == 4 * H * V
    assert count.step(one) == count.step(one, answers=8)
    del count.shapes["llm/lm_head/kernel"]  # a tied head costs the same
    assert count.step(one, answers=9) - count.step(one, answers=8) == 4 * H * V


def test_trained_matrices_cost_half_as_much_again():
    shapes = {"adapter/kernel": (D, H)}
    one = batch(10, 4, rows=2)
    assert FlopCount(shapes, set(), 0).step(one) == 2 * 20 * D * H
    assert FlopCount(shapes, set(shapes), 0).step(one) == 4 * 20 * D * H


def test_a_group_costs_its_windows_frames():
    shapes = {"sparse/encoder/linear1/kernel": (2, D, 2048)}
    group = {"video": np.empty((2, 5, 7, 1)), "query": np.empty((2, 3, 1)), "tokens": np.empty((2, 4))}
    # 7 frames and the learned token, in each of 5 windows of 2 groups.
    assert FlopCount(shapes, set(), 0).step(group, answers=1) == 2 * 2 * D * 2048 * 2 * 5 * 8


def test_known_devices_have_a_peak():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5p") == 459e12
    assert peak_flops("cpu") is None
