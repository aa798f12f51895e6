"""Checkpoint files: bfloat16 to the bit, tensors only, clear errors."""

import json
import os
import stat

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from revision_jax.interop.files import read_config, read_tensors, write_directory
from revision_jax.interop.weights import Weights


def test_torch_archives_are_read_as_tensors_with_bfloat16_to_the_bit(torch, tmp_path):
    tensor = torch.randn(3, 4).to(torch.bfloat16)
    torch.save({"a": tensor, "b": torch.arange(3.0)}, tmp_path / "x.bin")
    read = read_tensors(tmp_path / "x.bin")
    assert read["a"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read["a"].astype(np.float32), tensor.float().numpy())
    np.testing.assert_array_equal(read["b"], [0, 1, 2])


def test_code_in_an_archive_is_refused(torch, tmp_path):
    class Stranger:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"a": Stranger()}, tmp_path / "x.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        read_tensors(tmp_path / "x.pt")


def test_wrong_files_raise(torch, tmp_path):
    torch.save({"a": {"nested": torch.ones(1)}}, tmp_path / "nested.pt")
    with pytest.raises(ValueError, match="flat mapping"):
        read_tensors(tmp_path / "nested.pt")
    (tmp_path / "x.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected \.safetensors"):
        read_tensors(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "missing.bin")


def test_a_directory_knows_shapes_before_it_reads(tmp_path):
    save_file({"a": np.arange(6, dtype=np.float16).reshape(2, 3)}, tmp_path / "model.safetensors")
    tensors = Weights(tmp_path)
    assert list(tensors) == ["a"] and tensors["a"].shape == (2, 3)
    assert np.asarray(tensors["a"]).dtype == np.float16
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        Weights(tmp_path / "empty")


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o007, 0o660)])
def test_weights_can_be_read_by_whom_the_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_directory(tmp_path, {}, {"a": np.zeros(1, np.float32)})
    finally:
        os.umask(before)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert files == {"config.json": mode, "model.safetensors": mode}


@pytest.mark.parametrize("key, value", [("num_hidden_layers", 10**9), ("vocab_size", 2**24 + 1)])
def test_a_size_that_no_model_has_is_refused(tmp_path, key, value):
    for config in ({key: value}, {"text_config": {key: value}}):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
        with pytest.raises(ValueError, match=rf"config\.json: {key} is {value}; expected at most"):
            read_config(tmp_path, "llama")
