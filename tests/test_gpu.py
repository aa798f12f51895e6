"""What must hold on an NVIDIA GPU: `pytest -m gpu`. On a machine without one these fail, they do not skip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from revision_jax.benchmarks import search, train_step
from revision_jax.benchmarks.words import make_prompts
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.attention import attention
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Compute, Llama, LlamaConfig
from revision_jax.search.models import Models

pytestmark = pytest.mark.gpu
SMALL = LlamaConfig(256, 256, 512, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=64)


def test_there_is_a_gpu():
    assert jax.default_backend() == "gpu", f"found {jax.devices()}; install revision_jax[gpu] on a machine with one"


@pytest.mark.parametrize("heads, width", [(4, 64), (32, 128)])
def test_cudnn_attention_is_xlas(heads, width):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 320, heads, width), jnp.bfloat16) for i in range(3))

    def both(backend):
        loss = lambda *x: attention(*x, causal=True, backend=backend).astype(jnp.float32).var()
        out = attention(q, k, v, causal=True, backend=backend)
        return np.asarray(out, np.float32), [np.asarray(g, np.float32) for g in jax.grad(loss, (0, 1, 2))(q, k, v)]

    (one, gradients), (other, other_gradients) = both("xla"), both("cudnn")
    # bfloat16 has 8 bits: sums of 320 terms in another order differ in the last two of them.
    np.testing.assert_allclose(other, one, atol=3e-2)
    for a, b in zip(gradients, other_gradients):
        np.testing.assert_allclose(b, a, atol=3e-2 * np.abs(a).max())


def losses(**model) -> float:
    config = train_step.make_config(train_step.SHAPES["toy"]._replace(rows=8, frames=64, text=16), **model)
    return train_step.measure(config, SMALL, 3)["first_loss"]


@pytest.mark.parametrize("remat", ["none", "mlp", "names", "full"])
def test_bfloat16_loses_what_float32_does(remat):
    wide = losses(dtype="float32", param_dtype="float32", remat=remat, attention="xla")
    for attention_backend in ("xla", "cudnn"):
        narrow = losses(dtype="bfloat16", param_dtype="bfloat16", remat=remat, attention=attention_backend)
        assert narrow == pytest.approx(wide, rel=2e-2), attention_backend


def test_a_step_knows_its_speed_on_a_gpu():
    config = train_step.make_config(
        train_step.SHAPES["toy"]._replace(rows=8, frames=64, text=16), dtype="bfloat16", param_dtype="bfloat16"
    )
    found = train_step.measure(config, SMALL, 3)
    assert 0 < found["mfu"] < 1 and found["device_gib"] > 0


def first_entropies(backend: str, dtype: str) -> np.ndarray:
    """Nats, `[queries, windows]`: of the first token of each answer of a search through both upper levels."""
    rngs, sizes = nnx.Rngs(0), LlamaConfig(32000, 256, 512, 2, 4, 4, 64)
    llm = Llama(sizes, compute=Compute(jnp.dtype(dtype), jnp.dtype(dtype), attention=backend), rngs=rngs)
    sparse = Grounder(llm, sparse=SparseAdapter(16, 256, rngs=rngs, mlp_width=16))
    settings = search.make_settings(depth=3, keep=(0.8, 0.55), query_batch=2, window_block=16, decode_block=16)
    models = Models(Grounder(llm, DenseAdapter(16, 256, rngs=rngs)), sparse)
    searcher = search.make_searcher(models, make_prompts(), settings)
    video, queries = search.make_video("tiny", 600.0), search.make_queries("tiny", 2)
    with jax.set_mesh(searcher.mesh):
        answers = searcher.search(video, queries, depth=3, policy="bottom_up").answers
    return np.asarray(answers.entropies, np.float32)[:, :, 0, 0]


def test_a_search_through_cudnn_reads_what_xlas_reads():
    """The search's own attention is the same in all backends; its prefill is cuDNN's where the model asks for it."""
    exact = first_entropies("xla", "float32")
    rounded, found = first_entropies("xla", "bfloat16"), first_entropies("cudnn", "bfloat16")
    assert exact.max() > 0.1
    assert np.abs(found - exact).max() <= 2 * np.abs(rounded - exact).max() + 1e-3
