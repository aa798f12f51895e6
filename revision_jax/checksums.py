"""Checksums of what a checkpoint holds: of arrays, made where they lie, and of plain values.

A checksum of an array does not depend on how it lies over devices and hosts, so that a run may go on with others. It
tells damage, every flipped bit for sure, not a forger.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

SEEDS = (0x9E3779B9, 0x7F4A7C15)  # of the two sums of an array
WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # bytes of an element -> its bits


def checksums(tree: Any) -> dict[str, str]:
    """Path of every array of a pytree -> its checksum, 16 hexadecimal digits."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for _, leaf in leaves]
    mesh = next((array.sharding.mesh for array in arrays if isinstance(array.sharding, NamedSharding)), None)
    sums = np.asarray(_compiled(mesh)(arrays))
    return {leaf_name(path): f"{one:08x}{two:08x}" for (path, _), (one, two) in zip(leaves, sums, strict=True)}


def leaf_name(path: tuple) -> str:
    """`llm/layers/lora_a`: the place of a leaf in its tree."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def plain_sha256(value: Any) -> str:
    """sha256 of a plain value as JSON: the same for what was written and for what is read back."""
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differing(saved: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Names whose checksums differ, or that only one of both has."""
    return [name for name in sorted(saved | found) if saved.get(name) != found.get(name)]


@functools.cache
def _compiled(mesh: jax.sharding.Mesh | None) -> Callable:
    """Arrays -> their sums `[n, 2]` uint32, whole on every host."""
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(_sums, out_shardings=whole)


def _sums(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.stack([_sum(array, seed) for seed in SEEDS]) for array in arrays])


def _sum(array: jax.Array, seed: int) -> jax.Array:
    """Of every element's bits mixed with its place: in any order, and another one for every flipped bit."""
    array = array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array
    bits = jax.lax.bitcast_convert_type(array, WORDS[array.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.full(array.shape, seed, jnp.uint32)
    for axis, stride in enumerate(np.cumprod([1, *array.shape[:0:-1]])[::-1] if array.ndim else ()):
        index = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        place = place + index * np.uint32(int(stride) % 2**32)
    return _mixed(bits ^ _mixed(place)).sum(dtype=jnp.uint32)


def _mixed(word: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which every bit depends on every other (the finalizer of MurmurHash3)."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)
