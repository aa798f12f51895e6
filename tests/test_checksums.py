"""Checksums: the same for every layout, another one for every flipped bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from revision_jax.checksums import checksums, differing, plain_sha256


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16, np.int8, np.uint8])
def test_every_flipped_bit_changes_the_checksum_of_its_array_alone(dtype):
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, 6 * 5 * np.dtype(dtype).itemsize, np.uint8)
    tree = lambda raw: {"a": jnp.asarray(raw.view(dtype).reshape(3, 2, 5)), "b": jnp.ones(3)}
    expected = checksums(tree(whole))
    assert set(expected) == {"a", "b"} and len(expected["a"]) == 16
    for bit in range(8 * len(whole)):
        flipped = whole.copy()
        flipped[bit // 8] ^= 1 << bit % 8
        assert differing(expected, checksums(tree(flipped))) == ["a"]


def test_places_count():
    one = checksums([jnp.array([1.0, 2.0, 0.0])])
    assert one != checksums([jnp.array([2.0, 1.0, 0.0])]) and one != checksums([jnp.array([0.0, 1.0, 2.0])])
    assert checksums([jnp.zeros((2, 3))]) == checksums([jnp.zeros(6)])  # shapes are compared apart


def test_scalars_truths_and_nothing():
    assert set(checksums({"x": jnp.int32(3), "y": jnp.array([True, False]), "z": jnp.zeros((0, 4))})) == {"x", "y", "z"}


def test_the_layout_does_not_count():
    array = jnp.arange(24.0).reshape(4, 6)
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    laid = jax.device_put(array, NamedSharding(mesh, PartitionSpec()))
    assert checksums({"a": laid}) == checksums({"a": array}) == checksums({"a": np.asarray(array)})


def test_plain_values_are_known_by_what_json_gives_back():
    assert plain_sha256({"a": (1, 2), "b": 0.1}) == plain_sha256({"b": 0.1, "a": [1, 2]}) != plain_sha256({"a": [1, 2]})
