"""Logs that kills cut and disks garble: what can be used is read, the rest is told by its line."""

import json

import pytest

from revision_jax.logs import append_lines, is_sealed, read_log, read_metrics, sealed


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "log"
    assert read_log(path) == []
    append_lines(path, [{"a": "\u2028"}, {"b": 2}])
    append_lines(path, [{"c": None}])
    assert read_log(path) == [(1, {"a": "\u2028"}), (2, {"b": 2}), (3, {"c": None})]


@pytest.mark.parametrize(
    "raw, kept, told",
    [
        (b'{"a": 1}\n{"b', [1], ":2: this last line is cut short"),
        (b'{"a": 1}\n{"b\n{"c": 3}\n', [1, 3], ":2: found b'{\"b', expected a JSON object"),
        (b'{"a": 1}\n\xff\n{"c": 3}\n', [1, 3], ":2: found b'\\xff'"),
        (b'{"a": 1}\n\n{"c": 3}\n', [1, 3], ":2: found b''"),
        (b"[" * 100_000 + b"\n", [], ":1: found b'[[["),
    ],
)
def test_other_lines_are_left_out_and_told(tmp_path, raw, kept, told, caplog):
    (tmp_path / "log").write_bytes(raw)
    assert [line.number for line in read_log(tmp_path / "log")] == kept
    assert f"{tmp_path / 'log'}{told}" in caplog.text and len(caplog.messages) == 1


def test_a_seal_is_of_the_line_and_of_what_it_belongs_to():
    line = json.loads(json.dumps(sealed({"a": (1, 2.5)}, "model", [{"b": 1}])))
    assert is_sealed(line, "model", [{"b": 1}])
    assert not is_sealed(line, "model", [{"b": 2}]) and not is_sealed(line | {"a": [1, 2]}, "model", [{"b": 1}])
    assert not is_sealed({"a": [1, 2.5]}, "model", [{"b": 1}])


ROWS = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "val_loss": 2.5}, {"step": 3, "skipped": 1.0}]


@pytest.mark.parametrize(
    "lines, kept, told",
    [
        (ROWS, ROWS, []),
        ([ROWS[0], ROWS[2], ROWS[3]], [ROWS[0], *ROWS[2:]], ["has no row of step 2"]),
        ([ROWS[0], {"step": 9, "loss": 1.0}], None, ["has no row of step 2, 3, 4 and 4 more"]),
        ([ROWS[0], ROWS[0], ROWS[1]], ROWS[:2], [":2: step 1 follows step 1; it is left out"]),
        ([*ROWS, ROWS[1]], ROWS, [":5: step 2 follows step 3"]),
        (
            [*ROWS[:2], {"a": 1}, {"step": "3"}, {"step": 3, "loss": "x"}],
            ROWS[:2],
            [":3: ", ":4: ", ":5: expected a step"],
        ),
    ],
)
def test_a_hole_in_the_losses_is_told(tmp_path, lines, kept, told, caplog):
    append_lines(tmp_path / "metrics.jsonl", lines)
    assert read_metrics(tmp_path / "metrics.jsonl") == (lines if kept is None else kept)
    assert len(caplog.messages) == len(told) and all(part in line for part, line in zip(told, caplog.messages))
