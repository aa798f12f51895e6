"""The mechanism: patterns, stacking, transforms, and that every disagreement is named."""

import numpy as np
import pytest
from flax import nnx

from revision_jax.interop.table import (
    CONVOLUTION,
    TRANSPOSED,
    Row,
    Table,
    TableError,
    export_params,
    flat_params,
    import_params,
)
from revision_jax.models.layers import Linear, Stack, normal

TABLE = Table(
    (Row("blocks.{layer}.fc.weight", "kernel", TRANSPOSED), Row("blocks.{layer}.fc.bias", "bias")),
    ignored=(r".*\.buffer",),
)


def linear():
    return Linear((2, 3), ("embed", "mlp"), init=normal(1.0), stack=Stack(12), rngs=nnx.Rngs(0))


def exported(module):
    return export_params(TABLE, {path: param[...] for path, param in flat_params(module).items()})


def test_stacked_layers_go_out_by_number_and_come_back():
    source, target = linear(), linear()
    tensors = exported(source)
    assert len(tensors) == 24 and tensors["blocks.11.fc.weight"].shape == (3, 2)
    np.testing.assert_array_equal(tensors["blocks.10.fc.weight"], source.kernel[10].T)
    target.kernel.set_value(source.kernel[...] * 0)
    shuffled = dict(sorted(tensors.items(), reverse=True))
    import_params(TABLE, shuffled | {"blocks.0.buffer": np.zeros(1)}, flat_params(target))
    np.testing.assert_array_equal(target.kernel[...], source.kernel[...])


def test_all_problems_are_listed_together_and_nothing_is_filled():
    module = linear()
    before = np.asarray(module.kernel[...])
    tensors = {key: value * 0 for key, value in exported(module).items()}
    del tensors["blocks.3.fc.weight"]
    tensors["blocks.4.fc.bias"] = np.zeros(7)
    tensors["blocks.12.fc.bias"] = np.zeros(3)
    tensors["stray"] = np.zeros(3)
    with pytest.raises(TableError) as error:
        import_params(TABLE, tensors, flat_params(module))
    for part in (
        "unfilled: kernel needs blocks.3.fc.weight",
        "misshapen: blocks.4.fc.bias is (7,), bias needs (3,)",
        "unmapped: blocks.12.fc.bias is beyond",
        "unmapped: stray",
    ):
        assert part in str(error.value)
    np.testing.assert_array_equal(module.kernel[...], before)


def test_rows_and_parameters_must_cover_each_other():
    params = flat_params(linear())
    partial = Table(TABLE.rows[:1])
    with pytest.raises(TableError, match="unfilled: bias has no row"):
        import_params(partial, {}, params)
    with pytest.raises(TableError, match="no row for our bias"):
        export_params(partial, {path: param[...] for path, param in params.items()})
    with pytest.raises(TableError, match="the model has no gain"):
        import_params(Table((*TABLE.rows, Row("gain", "gain"))), exported(linear()), params)


def test_ambiguous_keys_and_rows_raise():
    overlap = Table((*TABLE.rows, Row("blocks.1.fc.bias", "extra")))
    with pytest.raises(TableError, match=r"ambiguous: blocks\.1\.fc\.bias"):
        import_params(overlap, exported(linear()), flat_params(linear()))
    with pytest.raises(ValueError, match="more than one row"):
        Table((Row("a", "x"), Row("b", "x")))


@pytest.mark.parametrize("transform, ndim", [(TRANSPOSED, 2), (CONVOLUTION, 4)])
def test_transforms_invert_each_other(transform, ndim):
    x = np.arange(np.prod(range(2, 2 + ndim))).reshape(range(2, 2 + ndim))
    np.testing.assert_array_equal(transform.to_theirs(transform.to_ours(x)), x)
    assert transform.to_ours(x).shape != x.shape
