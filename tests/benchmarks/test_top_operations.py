"""The table of operations: own times, whole steps, a trace that `jax.profiler` wrote."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from revision_jax.benchmarks import top_operations
from revision_jax.benchmarks.top_operations import Span, by_kind, own_times


def test_the_time_of_a_loop_is_not_that_of_what_is_in_it():
    spans = [Span("while", 0, 100), Span("dot", 10, 40), Span("copy", 20, 30), Span("dot", 50, 70)]
    spans.append(Span("add", 100, 130))
    assert own_times(reversed(spans)) == {"while": 50, "dot": 40, "copy": 10, "add": 30}


def test_kinds_have_no_numbers():
    assert by_kind(Counter({"dot.1": 2, "dot.12.3": 3, "add_divide_fusion": 1})) == {"dot": 5, "add_divide_fusion": 1}


def test_a_trace_of_a_program(tmp_path, capsys):
    @jax.jit
    def program(x):
        return jnp.sin(x @ x).sum()

    x = jnp.ones((64, 64))
    program(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(5):
            program(x).block_until_ready()
    top_operations.main([str(tmp_path), "--module", "jit_program", "--top", "2"])
    operations, kinds = capsys.readouterr().out.strip().split("\n\n")
    assert operations.startswith("| operation | events a step") and kinds.startswith("| kind |")
    for text in (operations, kinds):
        [*_, last] = rows = text.split("\n")[2:]
        assert len(rows) in (2, 3)  # the compiler may make one operation of the program
        assert float(rows[0].split("|")[2]) >= 1
        assert last.startswith("| all ") and last.endswith("| 100.0 % |")


def test_what_is_not_there_is_told(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"no trace in .*; expected plugins/profile"):
        top_operations.main([str(tmp_path)])
    with jax.profiler.trace(str(tmp_path)):
        jnp.ones(3).block_until_ready()
    with pytest.raises(SystemExit):
        top_operations.main([str(tmp_path), "--module", "jit_none"])
    assert "no operation of jit_none" in capsys.readouterr().err
