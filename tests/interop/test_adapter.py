"""Adapters in the published formats: names under any prefix, both ways, nothing half-read."""

import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import save_file

from revision_jax.interop.adapter import (
    load_dense_adapter,
    load_projector,
    load_sparse_adapter,
    save_projector,
    save_sparse_adapter,
    sparse_adapter_from,
)
from revision_jax.interop.files import read_tensors
from revision_jax.interop.table import TableError, flat_params
from revision_jax.models.adapter import DenseAdapter, SparseAdapter

pytestmark = pytest.mark.parity


def assert_same(a, b):
    a, b = flat_params(a), flat_params(b)
    assert sorted(a) == sorted(b)
    for path in a:
        np.testing.assert_array_equal(a[path][...], b[path][...])


def sparse():
    return nnx.jit(lambda: SparseAdapter(16, 12, mlp_width=24, num_heads=4, num_layers=3, rngs=nnx.Rngs(0)))()


def test_projector_round_trip(tmp_path):
    adapter = DenseAdapter(6, 4, rngs=nnx.Rngs(0))
    save_projector(adapter, tmp_path / "p.safetensors")
    found = load_projector(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(found["weight"], adapter.kernel[...].T)
    assert_same(load_dense_adapter(tmp_path / "p.safetensors"), adapter)


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.model."])
def test_projector_from_a_torch_file_under_any_prefix(prefix, tmp_path):
    weight, bias = torch.randn(4, 6).half(), torch.randn(4).half()
    keys = {f"{prefix}mm_projector.weight": weight, f"{prefix}mm_projector.bias": bias}
    torch.save(keys, tmp_path / "mm_projector.bin")
    adapter = load_dense_adapter(tmp_path / "mm_projector.bin")
    assert adapter.kernel.dtype == np.float32
    np.testing.assert_array_equal(adapter.kernel[...], weight.T.float().numpy())
    np.testing.assert_array_equal(adapter.bias[...], bias.float().numpy())


def test_sparse_adapter_round_trip_and_prefix(tmp_path):
    adapter = sparse()
    save_sparse_adapter(adapter, tmp_path / "s.safetensors")
    assert_same(load_sparse_adapter(tmp_path / "s.safetensors", num_heads=4), adapter)
    prefix = "base_model.model.model.mm_projector."
    tensors = {f"{prefix}{key}": value for key, value in read_tensors(tmp_path / "s.safetensors").items()}
    save_file(tensors, tmp_path / "non_lora.safetensors")
    assert_same(load_sparse_adapter(tmp_path / "non_lora.safetensors", num_heads=4), adapter)


def test_files_of_another_kind_raise(tmp_path):
    save_sparse_adapter(sparse(), tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="weight and bias alone"):
        load_projector(tmp_path / "s.safetensors")
    save_projector(DenseAdapter(6, 4, rngs=nnx.Rngs(0)), tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="global_rep_token"):
        load_sparse_adapter(tmp_path / "p.safetensors")
    tensors = read_tensors(tmp_path / "s.safetensors")
    del tensors["encoder.layers.1.norm2.bias"]
    with pytest.raises(TableError, match=r"encoder\.layers\.1\.norm2\.bias"):
        sparse_adapter_from(tensors, num_heads=4)
    with pytest.raises(ValueError, match="not a sparse adapter"):
        sparse_adapter_from({})
    mixed = {"model.mm_projector.weight": np.ones((4, 6)), "mm_projector.bias": np.ones(4)}
    save_file(mixed, tmp_path / "mixed.safetensors")
    with pytest.raises(ValueError, match="are not under 'model"):
        load_projector(tmp_path / "mixed.safetensors")
    with pytest.raises(ValueError, match="written as"):
        save_projector(DenseAdapter(6, 4, rngs=nnx.Rngs(0)), tmp_path / "p.bin")
